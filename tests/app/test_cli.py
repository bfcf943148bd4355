"""The command line as a user meets it: results on stdout, one clear line for an error, the right exit code."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import pytest
from typer.testing import CliRunner

from spava_app import cli, terminal
from spava_app.errors import EngineDown, InvalidInput

QUESTION = "What digit is on the red card?"


def start(*words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "spava_app", *words],
        env=os.environ | {"PYTHONSAFEPATH": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.fixture(scope="module")
def refused(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Callable[[str], tuple[int, str, str]]]:
    """Commands with something wrong, all started at once because each loads torch; gives code, stdout, stderr."""
    folder = tmp_path_factory.mktemp("refused")
    text = folder / "text.mp4"
    text.write_text("This is no video.\n" * 100)
    missing = str(folder / "missing.mp4")
    commands = {
        "missing file": ("ask", missing, QUESTION),
        "missing file, json": ("ask", missing, QUESTION, "--json"),
        "not a video": ("ask", str(text), QUESTION),
        "empty question": ("ask", str(text), "  "),
        "unknown method": ("ask", str(text), QUESTION, "--method", "guess"),
        "no room for cards": ("synth", str(folder / "out.mp4"), "--seconds", "5"),
        "no folder": ("synth", str(folder / "no/out.mp4")),
    }
    running = {name: start(*words) for name, words in commands.items()}

    def result(name: str) -> tuple[int, str, str]:
        out, err = running[name].communicate(timeout=60)
        return running[name].returncode, out, err

    yield result
    for process in running.values():
        process.kill()
        process.communicate()


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("missing file", "missing.mp4"),
        ("not a video", "text.mp4"),
        ("empty question", "question"),
        ("unknown method", "guess"),
        ("no room for cards", "seconds"),
        ("no folder", "folder does not exist"),
    ],
)
def test_a_wrong_input_is_one_line_and_code_2(
    refused: Callable[[str], tuple[int, str, str]], name: str, says: str
) -> None:
    code, out, err = refused(name)
    assert code == 2, err
    assert out == ""
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert says in err


def test_with_json_an_error_is_one_json_line_on_stderr(
    refused: Callable[[str], tuple[int, str, str]],
) -> None:
    code, out, err = refused("missing file, json")
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    error = json.loads(err)["error"]
    assert set(error) == {"type", "message", "field"}
    assert error["type"] == "VideoError"


@pytest.mark.parametrize("words", [["--no-such-option"], ["ask"], ["demo", "--ranks", "two"]])
def test_wrong_usage_is_code_2(words: list[str]) -> None:
    assert CliRunner().invoke(cli.app, words).exit_code == 2


class FakeQA:
    """Stands for `spava_app.api.VideoQA`: remembers how it was called and raises what it is told to."""

    calls: ClassVar[list[tuple[object, ...]]] = []
    error: BaseException | None = None

    def __init__(self, model: str, **options: object) -> None:
        self.calls.append((model, options))

    def __enter__(self) -> "FakeQA":
        return self

    def __exit__(self, *_: object) -> None:
        self.calls.append(("closed",))

    def ask(self, video: Path, question: str, **options: object) -> SimpleNamespace:
        self.calls.append((video, question, options))
        if self.error is not None:
            raise self.error
        return SimpleNamespace(
            text="7",
            timings={"total": 1.5},
            plan="3 frames",
            to_dict=lambda: {"text": "7", "timings": {"total": 1.5}, "plan": {"frames": 3}},
        )


@pytest.fixture
def fake_qa(monkeypatch: pytest.MonkeyPatch) -> type[FakeQA]:
    monkeypatch.setitem(sys.modules, "spava_app.api", SimpleNamespace(VideoQA=FakeQA))
    monkeypatch.setattr(FakeQA, "calls", [])
    monkeypatch.setattr(FakeQA, "error", None)
    return FakeQA


def test_ask_prints_the_answer_and_nothing_else(fake_qa: type[FakeQA]) -> None:
    done = CliRunner().invoke(cli.app, ["ask", "a.mp4", QUESTION])
    assert (done.exit_code, done.stdout, done.stderr) == (0, "7\n", "")


def test_ask_hands_over_only_the_method_options_that_were_given(fake_qa: type[FakeQA]) -> None:
    words = ["--passing-fraction", "0", "--virtual-hosts", "8", "--frames", "12", "--ranks", "4"]
    CliRunner().invoke(cli.app, ["ask", "a.mp4", QUESTION, *words])
    (_, made), (_, _, asked), closed = fake_qa.calls
    assert isinstance(made, dict)
    assert made["method_options"] == {"passing_fraction": 0.0, "virtual_hosts": 8}
    assert made["ranks"] == 4
    assert isinstance(asked, dict)
    assert (asked["num_frames"], asked["fps"]) == (12, None)
    assert closed == ("closed",)


def test_ask_json_is_one_object(fake_qa: type[FakeQA]) -> None:
    done = CliRunner().invoke(cli.app, ["ask", "a.mp4", QUESTION, "--json"])
    assert json.loads(done.stdout) == {
        "text": "7",
        "timings": {"total": 1.5},
        "plan": {"frames": 3},
    }


def test_a_fault_inside_is_code_1_and_one_line(fake_qa: type[FakeQA]) -> None:
    fake_qa.error = EngineDown("worker 1 died\n(exit code -9)")
    done = CliRunner().invoke(cli.app, ["ask", "a.mp4", QUESTION])
    assert (done.exit_code, done.stderr) == (1, "error: worker 1 died (exit code -9)\n")


def test_debug_lets_the_error_through(fake_qa: type[FakeQA]) -> None:
    fake_qa.error = InvalidInput("fps", -1, "must be positive")
    done = CliRunner().invoke(cli.app, ["ask", "a.mp4", QUESTION, "--debug"])
    assert done.exception is fake_qa.error


def test_ctrl_c_is_code_130_and_closes_the_engine(fake_qa: type[FakeQA]) -> None:
    fake_qa.error = KeyboardInterrupt()
    done = CliRunner().invoke(cli.app, ["ask", "a.mp4", QUESTION])
    assert (done.exit_code, done.stderr) == (130, "interrupted\n")
    assert fake_qa.calls[-1] == ("closed",)


def test_synth_writes_the_video_and_says_what_is_in_it(tmp_path: Path) -> None:
    out = tmp_path / "cards.mp4"
    words = ["synth", str(out), "--seconds", "12", "--cards", "2", "--seed", "1"]
    done = CliRunner().invoke(cli.app, [*words, "--json"])
    assert done.exit_code == 0, done.stderr
    assert out.stat().st_size > 1000
    made = json.loads(done.stdout)
    assert [made["path"], made["seconds"], made["seed"]] == [str(out), 12.0, 1]
    assert len(made["cards"]) == 2
    assert all(card["answer"] == str(card["digit"]) for card in made["cards"])
    shown = CliRunner().invoke(cli.app, words)
    assert all(card["question"] in shown.stdout for card in made["cards"])


@pytest.mark.parametrize(
    ("seconds", "shown"), [(0, "0:00"), (65.9, "1:05"), (3600, "1:00:00"), (3725, "1:02:05")]
)
def test_moments_read_as_in_a_player(seconds: float, shown: str) -> None:
    assert terminal.format_moment(seconds) == shown
