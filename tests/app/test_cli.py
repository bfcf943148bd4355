"""The command line as a user meets it: results on stdout, one clear line for an error, the right
exit code.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import pytest
from typer.testing import CliRunner

from spava_app import cli, terminal
from spava_app.errors import EngineDown, InvalidInput

QUESTION = "What digit is on the red card?"


@pytest.fixture
def text_file(tmp_path: Path) -> Path:
    """A text file that calls itself a video."""
    path = tmp_path / "text.mp4"
    path.write_text("This is no video.\n" * 100)
    return path


def test_as_a_process_a_wrong_input_is_one_line_and_code_2(text_file: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "spava_app", "ask", text_file, QUESTION],
        env=os.environ | {"PYTHONSAFEPATH": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: video=")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([QUESTION], "text.mp4"),
        ([""], "question=''"),
        (["  "], "question='  '"),
        ([QUESTION, "--method", "guess"], "method='guess'"),
        ([QUESTION, "--ranks", "0"], "ranks=0"),
        ([QUESTION, "--max-new-tokens", "0"], "max_new_tokens=0"),
        ([QUESTION, "--method", "full", "--anchor-len", "4"], "anchor_len=4"),
        ([QUESTION, "--passing-fraction", "2"], "passing_fraction=2.0"),
        ([QUESTION, "--model", "no-such-folder"], "no-such-folder"),
    ],
)
def test_a_wrong_input_is_one_line_and_code_2(words: list[str], says: str, text_file: Path) -> None:
    done = CliRunner().invoke(cli.app, ["ask", str(text_file), *words])
    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert says in done.stderr


def test_with_json_an_error_is_one_json_line_on_stderr(tmp_path: Path) -> None:
    missing = str(tmp_path / "missing.mp4")
    done = CliRunner().invoke(cli.app, ["ask", missing, QUESTION, "--json"])
    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1
    error = json.loads(done.stderr)["error"]
    assert (error["type"], error["field"]) == ("VideoError", "video")
    assert missing in error["message"]


@pytest.mark.parametrize("words", [["--no-such-option"], ["ask"], ["demo", "--ranks", "two"]])
def test_wrong_usage_is_code_2(words: list[str]) -> None:
    assert CliRunner().invoke(cli.app, words).exit_code == 2


class FakeQA:
    """Stands for `spava_app.api.VideoQA`: remembers how it was called and raises what it is told
    to.
    """

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
    ("words", "says"),
    [
        (["out.mp4", "--seconds", "5"], "seconds=5.0: "),
        (["no/out.mp4"], "folder does not exist"),
        (["out.avi"], "ends in .mp4"),
    ],
)
def test_synth_refuses_what_it_cannot_write(words: list[str], says: str, tmp_path: Path) -> None:
    done = CliRunner().invoke(cli.app, ["synth", str(tmp_path / words[0]), *words[1:]])
    assert (done.exit_code, done.stdout) == (2, "")
    assert says in done.stderr


@pytest.mark.parametrize(
    ("seconds", "shown"), [(0, "0:00"), (65.9, "1:05"), (3600, "1:00:00"), (3725, "1:02:05")]
)
def test_moments_read_as_in_a_player(seconds: float, shown: str) -> None:
    assert terminal.format_moment(seconds) == shown
