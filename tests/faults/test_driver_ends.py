"""The process that asks is killed or interrupted, in any stage: within seconds nothing of it is
left, no process and no temporary file, and its workers say nothing.
"""

import os
import pty
import signal
import sys
import time
from pathlib import Path

import pytest
from drivers import SCRIPT, read_until, started
from faults import STAGES
from processes import MARK, marked, wait_for

SECONDS = 30


def nothing_left(mark: str, folder: Path) -> bool:
    """Whether all processes and temporary files are gone soon."""
    return wait_for(lambda: not marked(mark) and not list(folder.glob("spava-*")), SECONDS)


def cases(*quick: str) -> list[object]:
    """Every stage; those that are not `quick` take long in all."""
    marks = pytest.mark.slow
    return [pytest.param(stage, marks=() if stage in quick else marks) for stage in STAGES]


@pytest.mark.parametrize("stage", cases("start", "decode"))
def test_killed(clip: Path, mark: str, tmp_path: Path, stage: str) -> None:
    """With no chance to clean up."""
    with started(["-c", SCRIPT, str(clip)], mark, tmp_path) as driver:
        read_until(driver, stage)
        if stage == "start":
            assert wait_for(lambda: len(marked(mark)) > 2)
        driver.kill()
        assert nothing_left(mark, tmp_path), marked(mark)


# Asks about an array again and again, and says which stage begins.
ARRAY = """
import os, sys
import numpy as np
from spava_app import VideoQA

def show(stage, seconds):
    print(stage, flush=True)

frames = np.random.default_rng(0).integers(0, 255, (40, 112, 112, 3), np.uint8)
with VideoQA(method="spava", cache=False) as qa, qa.open(frames) as talk:
    while True:
        talk.ask("What?", on_event=show, max_new_tokens=2)
        talk.history = []
        print("open", len(os.listdir("/proc/self/fd")), file=sys.stderr, flush=True)
"""


def test_frames_of_an_array_end_with_a_killed_driver(mark: str, tmp_path: Path) -> None:
    """They are in no folder at any time, and a conversation does not pile them up."""
    before = set(os.listdir("/dev/shm"))
    with started(["-W", "ignore", "-c", ARRAY], mark, tmp_path) as driver:
        assert driver.stderr is not None
        counts = {driver.stderr.readline() for _ in range(3)}
        assert len(counts) == 1, counts
        read_until(driver, "decode")
        assert not [path for path in tmp_path.rglob("*") if path.lstat().st_size > 100_000]
        driver.kill()
        assert nothing_left(mark, tmp_path), marked(mark)
    assert not {name for name in os.listdir("/dev/shm") if "spava" in name} - before


@pytest.mark.parametrize("stage", cases("generate"))
def test_interrupted(clip: Path, mark: str, tmp_path: Path, stage: str) -> None:
    """Ctrl-C in a script is a KeyboardInterrupt in `ask`, and nothing else is said."""
    with started(["-c", SCRIPT, str(clip)], mark, tmp_path) as driver:
        read_until(driver, stage)
        driver.send_signal(signal.SIGINT)
        _, said = driver.communicate(timeout=SECONDS)
        assert driver.returncode == -signal.SIGINT
        assert said.count("Traceback") == 1
        assert said.rstrip().endswith("KeyboardInterrupt")
        assert nothing_left(mark, tmp_path), marked(mark)


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
def test_terminated(clip: Path, mark: str, tmp_path: Path, stage: str) -> None:
    """A script that does not handle it ends at once; its workers put away what it left."""
    with started(["-c", SCRIPT, str(clip)], mark, tmp_path) as driver:
        read_until(driver, stage)
        driver.terminate()
        _, said = driver.communicate(timeout=SECONDS)
        assert (driver.returncode, said) == (-signal.SIGTERM, "")
        assert nothing_left(mark, tmp_path), marked(mark)


COMMAND = ["-m", "spava_app", "ask"]
QUESTION = ["What digit is on the red card?", "--no-cache"]


@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGINT, 130), pytest.param(signal.SIGTERM, 143, marks=pytest.mark.slow)],
)
def test_a_command_is_ended(
    clip: Path, mark: str, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    """One line, an exit code that a shell knows, no traceback."""
    with started([*COMMAND, str(clip), *QUESTION], mark, tmp_path) as driver:
        assert wait_for(lambda: any(process.rank == 0 for process in marked(mark)), SECONDS)
        driver.send_signal(number)
        answer, said = driver.communicate(timeout=SECONDS)
        assert (driver.returncode, answer) == (code, "")
        assert said == {130: "interrupted\n", 143: "terminated\n"}[code]
        assert nothing_left(mark, tmp_path), marked(mark)


@pytest.mark.slow
def test_ctrl_c_on_a_terminal(clip: Path, mark: str, tmp_path: Path) -> None:
    """The terminal sends it to every process of the foreground."""
    pid, terminal = pty.fork()
    if pid == 0:
        # A shell that starts the tests in the background has them ignore Ctrl-C.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        words = [sys.executable, *COMMAND, str(clip), *QUESTION]
        os.execve(sys.executable, words, os.environ | {MARK: mark, "TMPDIR": str(tmp_path)})
    assert wait_for(lambda: any(process.rank == 0 for process in marked(mark)), SECONDS)
    time.sleep(1.0)
    os.write(terminal, b"\x03")
    said = b""
    try:
        while piece := os.read(terminal, 1024):
            said += piece
    except OSError:
        pass  # the other side is closed
    os.close(terminal)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 130
    assert b"interrupted" in said
    assert b"Traceback" not in said
    assert nothing_left(mark, tmp_path), marked(mark)


def test_a_script_that_raises_in_a_callback(clip: Path, mark: str, tmp_path: Path) -> None:
    """Without a `with` block, so that nobody closes it."""
    made = 'VideoQA(method="spava", cache=False)'
    code = SCRIPT.replace(f"with {made} as qa:", f"qa = {made}\nif 1:")
    assert code != SCRIPT
    code = code.replace("print(stage, flush=True)", "stage == 'prefill' and 1 / 0")
    with started(["-c", code, str(clip)], mark, tmp_path) as driver:
        _, said = driver.communicate(timeout=60)
        assert driver.returncode == 1
        assert said.rstrip().endswith("ZeroDivisionError: division by zero")
        assert said.count("Traceback") == 1
        assert nothing_left(mark, tmp_path), marked(mark)
