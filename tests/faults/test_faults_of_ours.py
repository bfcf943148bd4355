"""A bug of this program in one of its processes: the question fails with an error that says so and
has the traceback, every rank ends it, and the next question is answered.
"""

import logging
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from processes import check_no_orphans, marked
from sabotage import DECODER, WORKER, Sabotage, saboteur

from spava_app.api.video_qa import VideoQA
from spava_app.engine.video.decoder_process import end_idle
from spava_app.errors import EngineDown, InternalError, OutOfMemory

ANY = "What digit is on the red card?"
# Of rank 1 alone, while `flag` is there.
RANK_1 = """
import json, os
if json.loads(sys.orig_argv[-1])["rank"] == 1 and os.path.exists({flag!r}):
    {code}
"""
IN_PREFILL = "import spava_app.engine.runner as it; it.prefill_flops = lambda *_: it.nothing"


@pytest.fixture
def sabotage(
    qa: VideoQA, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[Sabotage, Path]]:
    """Faults of workers that are started from now on, for as long as a flag is there."""
    qa.close()
    flag = tmp_path / "flag"
    flag.touch()
    yield saboteur(tmp_path / "site", monkeypatch), flag
    qa.close()
    end_idle()


def errors(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What was logged as one, in this process or another."""
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR]


@pytest.mark.parametrize(
    ("code", "says"),
    [
        (
            IN_PREFILL,
            r"rank 1 in \w+: AttributeError: module '.*runner' has no attribute 'nothing'",
        ),
        (
            "import spava_app.engine.multimodal.encoder as it; it.stream_units = lambda *_: 1 / 0",
            r"rank 1 in \w+: TypeError: ",
        ),
        ("sys.modules['torch'] = None", r"rank 1 in start: ModuleNotFoundError: import of torch"),
        (
            "print('no such library', file=sys.stderr, flush=True); os._exit(4)",
            "rank 1 in start: no such library",
        ),
    ],
)
def test_of_a_worker(
    code: str,
    says: str,
    qa: VideoQA,
    clip: Path,
    mark: str,
    sabotage: tuple[Sabotage, Path],
    answers: Callable[[], None],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Alone, so that the other rank waits for it, in a collective or at the start."""
    sabotage[0](WORKER, RANK_1.format(flag=str(sabotage[1]), code=code))
    with pytest.raises(InternalError, match=f"internal error in {says}") as caught:
        qa.ask(clip, ANY)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 1
    assert caught.value.traceback
    assert any(caught.value.traceback.splitlines()[-1] in line for line in errors(caplog))
    check_no_orphans(mark)
    sabotage[1].unlink()
    answers()


def test_of_a_decoder_leaves_the_workers_up(
    qa: VideoQA,
    clip: Path,
    mark: str,
    sabotage: tuple[Sabotage, Path],
    answers: Callable[[], None],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Of all that read frames, once in each; those of the driver only look. A flag would tell them
    nothing: they may not look for files.
    """
    code = (
        "from spava_app.engine.video.sandbox import service\n"
        "real, faults = service.open_reader, iter([lambda *_: service.nothing])\n"
        "service.open_reader = lambda *given: next(faults, real)(*given)\n"
    )
    sabotage[0](DECODER, code)
    qa.start()
    before = {process.pid for process in marked(mark) if process.rank is not None}
    says = "the decoder process: AttributeError: module '.*service' has no attribute 'nothing'"
    with pytest.raises(InternalError, match=says) as caught:
        qa.ask(clip, ANY)
    assert "service.py" in caught.value.traceback
    assert "[decoder, pid " in errors(caplog)[0]
    assert "[rank " in errors(caplog)[0]
    answers()
    assert before == {process.pid for process in marked(mark) if process.rank is not None}


def test_memory_that_is_refused_while_a_worker_loads_its_libraries(
    qa: VideoQA, clip: Path, sabotage: tuple[Sabotage, Path], answers: Callable[[], None]
) -> None:
    library = sabotage[1].parent / "libraries" / "torch.py"
    library.parent.mkdir()
    library.write_text("raise ImportError('libtorch.so: failed to map segment from shared object')")
    code = f"sys.path.insert(0, {str(library.parent)!r})"
    sabotage[0](WORKER, RANK_1.format(flag=str(sabotage[1]), code=code))
    with pytest.raises(OutOfMemory, match=r"rank 1 ran out of memory in start: ImportError"):
        qa.ask(clip, ANY)
    sabotage[1].unlink()
    answers()


def test_a_worker_that_cannot_be_started(
    qa: VideoQA, clip: Path, answers: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    qa.close()
    with monkeypatch.context() as patch:
        patch.setattr("spava_app.engine.workers.launcher.sys.executable", "/nowhere/python")
        with pytest.raises(EngineDown, match=r"the worker of rank 0 cannot be started: .*No such"):
            qa.start()
    answers()


def test_a_worker_that_writes_without_end_is_not_held_up(
    qa: VideoQA,
    sabotage: tuple[Sabotage, Path],
    answers: Callable[[], None],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Whatever reads the log, and whatever that does."""

    class Broken(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            raise OSError("the disk of the log is full")

    code = (
        "import os, threading\n"
        "def write():\n"
        "    while True: os.write(2, b'noise\\n' * 1000)\n"
        "threading.Thread(target=write, daemon=True).start()\n"
    )
    sabotage[0](WORKER, code)
    caplog.set_level("INFO", "spava_app")
    logger, broken = logging.getLogger(WORKER), Broken()
    logger.addHandler(broken)
    try:
        answers()
        qa.close()
    finally:
        logger.removeHandler(broken)
    assert len(caplog.records) < 3000
