"""Processes die while they answer: the others hear of it in seconds, and nothing is left."""

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from scripts import Started, started

from spava_app.engine.synthetic.cards import CardScene
from spava_app.engine.workers.torchrun.listener import listen

# One process stops its own worker, so that the request stays in the middle until somebody dies.
SCRIPT = """
import os, signal, sys
import psutil
from spava_app import VideoQA
from spava_app.errors import EngineDown

_, video, question, stops = sys.argv

def stop(stage, seconds):
    if stage == "decode":
        if os.environ["RANK"] == stops:
            mine = psutil.Process().children()
            [worker] = [it for it in mine if "engine.worker" in " ".join(it.cmdline())]
            worker.send_signal(signal.SIGSTOP)
        print("in the middle", flush=True)

with VideoQA(method="spava") as qa:
    try:
        qa.ask(video, question, on_event=stop)
    except EngineDown as error:
        print("EngineDown", error, flush=True)
"""
HEARD = 30.0


@contextmanager
def two_processes(folder: Path, *words: str) -> Iterator[list[Started]]:
    """Ranks 0 and 1 without torchrun, which would end the one when the other dies; so rank 0 has to
    serve the store.
    """
    (folder / "script.py").write_text(SCRIPT)
    shared = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "localhost"}
    with listen("127.0.0.1") as listener:
        shared["MASTER_PORT"] = str(listener.getsockname()[1])
    with ExitStack() as stack:
        yield [
            stack.enter_context(
                started(
                    [sys.executable, "script.py", *words],
                    folder,
                    RANK=str(rank),
                    LOCAL_RANK=str(rank),
                    **shared,
                )
            )
            for rank in range(2)
        ]


@pytest.mark.parametrize("dies", [pytest.param(0, marks=pytest.mark.slow), 1])
def test_a_process_killed_in_the_middle(
    dies: int, scene: CardScene, video: Path, tmp_path: Path
) -> None:
    lives = 1 - dies
    with two_processes(tmp_path, str(video), scene.cards[0].question, str(lives)) as processes:
        for process in processes:
            process.wait_for("in the middle")
        os.kill(processes[dies].process.pid, signal.SIGKILL)
        processes[dies].assert_nothing_left()
        processes[lives].wait_for("EngineDown", HEARD)
        assert processes[lives].wait(HEARD) == 0
        names = "rank 0 has left, or died" if dies == 0 else "rank 1 was lost with the process"
        assert names in processes[lives].text()
        processes[lives].assert_nothing_left()
