"""The command line as a user meets it: results on stdout, one clear line for an error, the right
exit code.
"""

import errno
import json
import logging
import os
import pty
import re
import signal
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from spava_app.cli import main as cli
from spava_app.cli import terminal
from spava_app.cli.logs import command_log
from spava_app.engine.synthetic.cards import CardScene
from spava_app.errors import EngineDown, InternalError, InvalidInput

QUESTION = "What digit is on the red card?"
ENVIRONMENT = os.environ | {"PYTHONSAFEPATH": "1"}


def spava(*words: object) -> subprocess.CompletedProcess[str]:
    """Run the command as a user does, its output into pipes."""
    return subprocess.run(
        [sys.executable, "-m", "spava_app", *map(str, words)],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.fixture
def text_file(tmp_path: Path) -> Path:
    """A text file that calls itself a video."""
    path = tmp_path / "text.mp4"
    path.write_text("This is no video.\n" * 100)
    return path


def test_as_a_process_a_wrong_input_is_one_line_and_code_2(text_file: Path) -> None:
    done = spava("ask", text_file, QUESTION)
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
        ([QUESTION, "--cpu-ranks", "0"], "cpu_ranks=0"),
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


@pytest.mark.parametrize(
    ("words", "field"),
    [
        (["ask", "", QUESTION], "video"),
        (["plan", ""], "video"),
        (["text", "", QUESTION, "--model", "no-such-folder"], "text"),
        (["synth", ""], "OUT"),
        (["--config", "", "plan", "cards.mp4"], "config"),
    ],
)
def test_an_empty_path_is_not_the_current_folder(words: list[str], field: str) -> None:
    done = CliRunner().invoke(cli.app, words)
    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr.startswith(f"error: {field}='': ")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("redirected", "says"), [("<&-", "is closed"), ("< latin.txt", "is not valid UTF-8")]
)
def test_a_standard_input_that_is_no_text_is_wrong_input(
    redirected: str, says: str, tmp_path: Path
) -> None:
    (tmp_path / "latin.txt").write_bytes("naïve".encode("latin-1"))
    command = f"exec {sys.executable} -m spava_app text - Who? --model no-such {redirected}"
    done = subprocess.run(
        ["bash", "-c", command],
        env=ENVIRONMENT,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: text='-': ")
    assert says in done.stderr
    assert done.stderr.count("\n") == 1


def test_with_json_an_error_is_one_json_line_on_stderr(tmp_path: Path) -> None:
    missing = str(tmp_path / "missing.mp4")
    done = CliRunner().invoke(cli.app, ["ask", missing, QUESTION, "--json"])
    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1
    error = json.loads(done.stderr)["error"]
    assert (error["type"], error["field"]) == ("VideoError", "video")
    assert missing in error["message"]


@pytest.mark.parametrize("words", [["--no-such-option"], ["ask"], ["demo", "--cpu-ranks", "two"]])
def test_wrong_usage_is_code_2(words: list[str]) -> None:
    assert CliRunner().invoke(cli.app, words).exit_code == 2


def test_ask_json_is_one_object_and_stderr_stays_silent(scene: CardScene, video: Path) -> None:
    card = scene.cards[1]
    done = spava("ask", video, card.question, "--method", "spava", "--json", "--no-cache")
    assert (done.returncode, done.stderr) == (0, "")
    answer = json.loads(done.stdout)
    expected = {"text", "model", "timings", "plan", "usage", "warnings", "memory"}
    assert answer.keys() == expected
    assert (answer["model"], answer["plan"]["model"]) == ("embedded", "embedded")
    assert answer["text"] == card.answer
    timings = answer["timings"]
    assert timings.keys() >= {"probe", "start", "decode", "vision", "prefill", "total"}
    assert timings["total"] >= timings["probe"] + timings["start"] > 0
    plan = answer["plan"]
    assert (plan["media"][0]["num_frames"], plan["method"], plan["world_size"]) == (120, "spava", 2)
    assert plan["num_tokens"] > plan["num_visual"] > 0
    # Options that were not given stay out, or methods without them would refuse.
    assert plan["options"] == {}


@pytest.fixture
def on_terminal(tmp_path: Path) -> Iterator[Callable[..., "Terminal"]]:
    """Start `spava WORDS` as the leader of a session whose stderr is a terminal."""
    started: list[Terminal] = []

    def start(*words: object) -> Terminal:
        ours, theirs = pty.openpty()
        process = subprocess.Popen(
            [sys.executable, "-m", "spava_app", *map(str, words)],
            env=ENVIRONMENT | {"TMPDIR": str(tmp_path)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=theirs,
            start_new_session=True,
            # A shell that starts the tests in the background has them ignore Ctrl-C.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        os.close(theirs)
        started.append(Terminal(process, ours))
        return started[-1]

    yield start
    for run in started:
        run.process.kill()
        run.process.communicate()
        os.close(run.screen)


@dataclass
class Terminal:
    """A running command and the other side of its terminal."""

    process: subprocess.Popen[bytes]
    screen: int

    def read(self, until: str | None = None) -> str:
        """What it shows, without colours, up to `until` or to its end."""
        shown = b""
        while until is None or until.encode() not in shown:
            try:
                shown += os.read(self.screen, 65536)
            except OSError:  # how Linux says that the other side is closed
                break
        return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown.decode())


def test_on_a_terminal_stages_and_plan_show_and_stdout_is_the_answer(
    scene: CardScene, video: Path, on_terminal: Callable[..., Terminal]
) -> None:
    words = [
        "--frames",
        "40",
        "--virtual-hosts",
        "6",
        "--passing-fraction",
        "0.5",
        "--cpu-ranks",
        "1",
    ]
    run = on_terminal("ask", video, scene.cards[2].question, *words)
    shown = run.read()
    out, _ = run.process.communicate(timeout=60)
    assert run.process.returncode == 0
    assert re.fullmatch(rb"\d\n", out)
    stages = re.findall(r"[\r\n]  (\w+) +\d+\.\d\d s\r\n", shown)
    expected = ["load", "probe", "start", "decode", "vision", "exchange", "prefill", "generate"]
    assert stages == expected
    assert "40 frames of 60 s" in shown
    assert "spava on 1 x" in shown
    plan = re.search(r"6 blocks of (\d+), anchor \d+, each passes (\d+)", shown)
    assert plan is not None
    block, passing = map(int, plan.groups())
    assert passing == -(-block // 2)
    assert re.search(r"total\s+\d+\.\d\d s", shown)


def workers_in(folder: Path) -> set[int]:
    """Ids of the engine's processes that keep their files in `folder`."""
    found = set()
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):  # ended meanwhile
            command = path.read_bytes()
            if b"spava_app.engine.workers.worker" in command and os.fsencode(folder) in command:
                found.add(int(path.parent.name))
    return found


@pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="finds processes in /proc")
def test_ctrl_c_ends_a_run_and_leaves_nothing_behind(
    scene: CardScene, video: Path, tmp_path: Path, on_terminal: Callable[..., Terminal]
) -> None:
    # 24,000 tokens: over a minute of prefill.
    run = on_terminal("ask", video, f"{scene.cards[0].question} " * 3000)
    shown = run.read(until="prefill")
    assert len(workers_in(tmp_path)) == 2
    os.killpg(run.process.pid, signal.SIGINT)
    shown += run.read()
    out, _ = run.process.communicate(timeout=10)
    assert (run.process.returncode, out) == (130, b""), shown
    assert "interrupted" in shown
    assert "Traceback" not in shown
    assert workers_in(tmp_path) == set()
    assert list(tmp_path.glob("spava*")) == []


def ending(error: BaseException, *, as_json: bool = False, debug: bool = False) -> int:
    """The exit code of a command in which `error` is raised."""
    with (
        pytest.raises(typer.Exit) as exit_,
        terminal.reported_errors(as_json=as_json, debug=debug),
    ):
        raise error
    return exit_.value.exit_code


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (EngineDown("rank 1 died\n(exit code -9)"), 1, "error: rank 1 died (exit code -9)\n"),
        (InvalidInput("fps", -1, "give more"), 2, "error: fps=-1: give more\n"),
        (KeyboardInterrupt(), 130, "interrupted\n"),
    ],
)
def test_errors_raised_on_purpose_are_one_line_and_a_code(
    error: BaseException, code: int, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ending(error) == code
    assert capsys.readouterr() == ("", line)


def test_with_json_an_engine_error_has_no_field(capsys: pytest.CaptureFixture[str]) -> None:
    assert ending(EngineDown("rank 1 died"), as_json=True) == 1
    described = json.loads(capsys.readouterr().err)["error"]
    assert described == {"type": "EngineDown", "message": "rank 1 died", "field": None}


def test_with_debug_a_traceback_comes_before_the_line_and_the_code_stays(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert ending(InvalidInput("fps", -1, "give more"), debug=True) == 2
    shown = capsys.readouterr().err
    assert shown.startswith("Traceback")
    assert shown.endswith("\nerror: fps=-1: give more\n")


@pytest.mark.parametrize("as_json", [False, True])
@pytest.mark.parametrize(
    "error", [OSError("a\nfault"), TypeError("a fault"), RuntimeError("a fault")]
)
def test_a_fault_of_ours_is_one_line_and_in_the_log(
    error: Exception,
    as_json: bool,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    assert ending(error, as_json=as_json) == 1
    out, line = capsys.readouterr()
    assert (out, line.count("\n")) == ("", 1)
    message = json.loads(line)["error"]["message"] if as_json else line.removeprefix("error: ")
    assert re.match(rf"internal error in spava: {type(error).__name__}: '?a fault'? \(", message)
    [record] = caplog.records
    assert (record.levelname, record.name) == ("ERROR", "spava_app.cli.terminal")
    assert record.exc_info is not None
    assert record.exc_info[1] is error


def test_with_debug_the_traceback_of_another_process_comes_before(
    capsys: pytest.CaptureFixture[str],
) -> None:
    error = InternalError("rank 1", "TypeError: wrong", "Traceback of rank 1")
    assert ending(error, debug=True) == 1
    assert capsys.readouterr().err.startswith(
        "Traceback of rank 1\nerror: internal error in rank 1"
    )


def test_a_reader_that_has_gone_is_no_fault() -> None:
    """`spava synth ... | head -0`."""
    with pytest.raises(BrokenPipeError):
        ending(BrokenPipeError(errno.EPIPE, "Broken pipe"))


def test_on_a_pipe_each_stage_is_a_line(scene: CardScene, video: Path) -> None:
    done = spava("ask", video, scene.cards[1].question, "--no-cache", "--cpu-ranks", "1")
    assert (done.returncode, done.stdout.strip()) == (0, scene.cards[1].answer)
    lines = [re.fullmatch(r"(\w+) \d+\.\d\d s", line) for line in done.stderr.splitlines()]
    assert [line and line[1] for line in lines] == [
        *("load", "probe", "start", "decode", "vision", "exchange", "prefill", "generate")
    ]


LOGGED = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} (\w+) ([\w.]+): (.+)")


@pytest.mark.parametrize("by_variable", [False, True])
def test_the_log_of_every_process_goes_to_stderr(
    by_variable: bool, scene: CardScene, video: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    card, words = scene.cards[1], ["--json", "--no-cache", "--cpu-ranks", "1"]
    if by_variable:
        monkeypatch.setitem(ENVIRONMENT, "SPAVA_VERBOSE", "2")
    done = spava("ask", video, card.question, *words, *([] if by_variable else ["-v"]))
    assert (done.returncode, json.loads(done.stdout)["text"]) == (0, card.answer)
    found = [match for line in done.stderr.splitlines() if (match := LOGGED.fullmatch(line))]
    told = "\n".join(f"{match[1]} {match[2]} {match[3]}" for match in found)
    pid = re.search(r"INFO spava_app.engine.workers.launcher rank 0 started: pid (\d+), ", told)
    assert pid
    assert (
        f"INFO spava_app.engine.workers.worker [rank 0, pid {pid[1]}] "
        "engine.workers.serving: model loaded" in told
    )
    for part in (
        "prefill",
        "120 frames",
        "loaded on 1 rank",
        r"answered in .* 120 frames encoded",
    ):
        assert re.search(f"INFO .*{part}", told)
    # What was asked and answered is for those who want everything.
    assert (card.question in done.stderr) == by_variable
    assert ("DEBUG" in told) == by_variable
    assert (
        bool(re.search(r"DEBUG spava_app.engine.workers.worker \[rank 0, .*decoder process", told))
        == by_variable
    )


def test_a_warning_is_a_line_without_source_code(video: Path, tmp_path: Path) -> None:
    folder = tmp_path / "file"
    folder.write_text("")

    def plan(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "spava_app", "plan", str(video), *words],
            env=ENVIRONMENT | {"SPAVA_CACHE": str(folder)},
            capture_output=True,
            text=True,
            timeout=120,
        )

    with ThreadPoolExecutor() as pool:
        shown, logged = pool.submit(plan), pool.submit(plan, "-v")
    for done, says in (
        (shown.result(), r"warning: .* cannot be read \(Not a directory\)"),
        (logged.result(), r".* WARNING spava_app.cli.logs: .* cannot be read \(Not a directory\)"),
    ):
        assert done.returncode == 0
        told = [line for line in done.stderr.splitlines() if "cannot be read" in line]
        assert len(told) == 1
        assert re.match(says, told[0])
        assert "this_machine" not in done.stderr
        assert "SpavaWarning" not in done.stderr


def test_other_warnings_go_to_the_log(capsys: pytest.CaptureFixture[str]) -> None:
    for verbose in (0, 1):
        with command_log(verbose, as_json=False):
            warnings.warn("old style", FutureWarning, stacklevel=1)
    shown = capsys.readouterr().err
    assert shown.count("\n") == 1
    assert re.match(r".* WARNING py.warnings: .*test_cli.py:\d+: FutureWarning: old style", shown)
    assert logging.getLogger("spava_app").level == logging.NOTSET


def test_json_keeps_any_text_and_any_file_name(capsys: pytest.CaptureFixture[str]) -> None:
    value = {"text": "Ж 赤 🃏", "video": os.fsdecode(b"no utf-8 \xff.mp4")}
    terminal.print_json(value)
    out = capsys.readouterr().out
    assert json.loads(out) == value
    assert "Ж 赤 🃏" in out


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
    shown = CliRunner().invoke(cli.app, [*words, "--force"])
    assert all(card["question"] in shown.stdout for card in made["cards"])


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["out.mp4", "--seconds", "5"], "seconds=5.0: "),
        (["out.mp4", "--seconds", "nan"], "seconds=nan: "),
        (["out.mp4", "--seconds", "inf"], "seconds=inf: "),
        (["out.mp4", "--seed", "9" * 23], f"seed={'9' * 23}: "),
        (["out.mp4", "--seed", "-1"], "seed=-1: "),
        (["folder.mp4"], "cannot be written (Is a directory)"),
        (["no/out.mp4"], "folder does not exist"),
        (["out.avi"], "ends in .mp4"),
        (["out.mp4", "--cards", "100"], "error: cards=100: "),
    ],
)
def test_synth_refuses_what_it_cannot_write(words: list[str], says: str, tmp_path: Path) -> None:
    (tmp_path / "folder.mp4").mkdir()
    done = CliRunner().invoke(cli.app, ["synth", str(tmp_path / words[0]), *words[1:]])
    assert (done.exit_code, done.stdout) == (2, "")
    assert says in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("seconds", "shown"), [(0, "0:00"), (65.9, "1:05"), (3600, "1:00:00"), (3725, "1:02:05")]
)
def test_moments_read_as_in_a_player(seconds: float, shown: str) -> None:
    assert terminal.format_moment(seconds) == shown
