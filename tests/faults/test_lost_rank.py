"""A rank that is killed or stopped, in any stage: the question fails in seconds with an error that
names the rank, the next one is answered, and no process is left behind.
"""

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from faults import STAGES, strike
from processes import check_no_orphans, wait_for, worker_pid

from spava_app.api.video_qa import VideoQA
from spava_app.engine.workers import liveness as watch
from spava_app.errors import EngineDown


def cases(*quick: tuple[str, int]) -> list[object]:
    """Every stage with either rank; those that are not `quick` take minutes in all."""
    return [
        pytest.param(stage, rank, marks=() if (stage, rank) in quick else pytest.mark.slow)
        for stage in STAGES
        for rank in (0, 1)
    ]


@pytest.mark.parametrize(
    ("stage", "rank"), cases(("start", 1), ("decode", 0), ("prefill", 1), ("generate", 0))
)
def test_killed(
    qa: VideoQA, clip: Path, mark: str, answers: Callable[[], None], stage: str, rank: int
) -> None:
    began = time.monotonic()
    with pytest.raises(EngineDown, match=f"rank {rank} was ended by SIGKILL in ") as caught:
        strike(qa, clip, mark, stage, rank, lambda pid: os.kill(pid, signal.SIGKILL))
    # The other rank may be a stage ahead of rank 0, or behind.
    named = str(caught.value).split(" in ")[1].split(":")[0]
    assert named in {"request", *STAGES}
    assert (named == "start") == (stage == "start")
    assert time.monotonic() - began < 30
    check_no_orphans(mark)
    answers()


@pytest.mark.parametrize(("stage", "rank"), cases(("start", 0), ("prefill", 1)))
def test_stopped(
    qa: VideoQA,
    clip: Path,
    mark: str,
    answers: Callable[[], None],
    stage: str,
    rank: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The rule with less patience, so that the test is short; stopped, it never speaks again."""
    silence = "START_SILENCE_SECONDS" if stage == "start" else "SILENCE_SECONDS"
    monkeypatch.setattr(watch, silence, 4.0)
    with pytest.raises(EngineDown, match=f"rank {rank} has been stuck in .*no sign of life"):
        strike(qa, clip, mark, stage, rank, lambda pid: os.kill(pid, signal.SIGSTOP))
    monkeypatch.undo()
    check_no_orphans(mark)
    answers()


@pytest.mark.slow
def test_stopped_as_it_is(qa: VideoQA, clip: Path, mark: str, answers: Callable[[], None]) -> None:
    """With the real patience, and the workers' decoders among those that must be gone."""
    began = time.monotonic()
    with pytest.raises(EngineDown, match="no sign of life for 10 s"):
        strike(qa, clip, mark, "decode", 1, lambda pid: os.kill(pid, signal.SIGSTOP))
    assert time.monotonic() - began < 40
    check_no_orphans(mark)
    answers()


def test_an_idle_rank_that_died_costs_no_question(
    qa: VideoQA, mark: str, answers: Callable[[], None]
) -> None:
    qa.start()
    pid = worker_pid(mark, 1)
    os.kill(pid, signal.SIGKILL)
    # All its threads are gone; it is left to the driver to notice.
    ended = os.WEXITED | os.WNOWAIT | os.WNOHANG
    assert wait_for(lambda: os.waitid(os.P_PID, pid, ended))
    answers()


@pytest.mark.slow
def test_a_slow_caller_is_no_silent_rank(
    qa: VideoQA, clip: Path, mark: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While a callback takes its time, nobody reads what the ranks say."""
    monkeypatch.setattr(watch, "SILENCE_SECONDS", 3.0)
    strike(qa, clip, mark, "prefill", 0, lambda pid: time.sleep(12))


def test_a_callback_that_raises_leaves_a_group_that_answers(
    qa: VideoQA, clip: Path, mark: str, answers: Callable[[], None]
) -> None:
    def fail(pid: int) -> None:
        raise ZeroDivisionError("mine")

    with pytest.raises(ZeroDivisionError, match="mine"):
        strike(qa, clip, mark, "prefill", 0, fail)
    check_no_orphans(mark)
    answers()
