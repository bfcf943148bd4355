"""Real processes for tests, over gloo or NCCL, spawned once per world size and reused by all."""

import multiprocessing
import tempfile
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

from spava_app.engine.comm import Comm

DEADLINE = 60.0


def _serve(rank: int, world_size: int, rendezvous: str, backend: str, pipe: Connection) -> None:
    torch.set_num_threads(1)
    if backend == "nccl":
        torch.cuda.set_device(rank)
    comm = Comm.connect(
        rank, world_size, init_method=rendezvous, backend=backend, deadline=DEADLINE
    )
    while (job := pipe.recv()) is not None:
        task, args = job
        try:
            pipe.send((True, task(comm, *args)))
        except Exception:  # noqa: BLE001 (reported to the test, which fails with it)
            pipe.send((False, traceback.format_exc()))
    comm.close()


class RankPool:
    """`world_size` processes that run tasks together: `run(task, *args)` calls `task(comm, *args)`
    on each. With `backend="nccl"`, rank r has GPU r.
    """

    def __init__(self, world_size: int, backend: str = "gloo") -> None:
        context = multiprocessing.get_context("spawn")
        self._folder = tempfile.TemporaryDirectory()
        rendezvous = f"file://{Path(self._folder.name) / 'store'}"
        self._pipes: list[Connection] = []
        self._processes = []
        for rank in range(world_size):
            ours, theirs = context.Pipe()
            process = context.Process(
                target=_serve, args=(rank, world_size, rendezvous, backend, theirs), daemon=True
            )
            process.start()
            theirs.close()  # so that a process that dies is heard of at once
            self._pipes.append(ours)
            self._processes.append(process)

    def run(self, task: Callable[..., Any], *args: object) -> list[Any]:
        """The results by rank; fails with the first rank's traceback."""
        for pipe in self._pipes:
            pipe.send((task, args))
        answers = []
        for rank, pipe in enumerate(self._pipes):
            assert pipe.poll(DEADLINE), f"rank {rank} gave no answer in {DEADLINE} s"
            answers.append(pipe.recv())
        for rank, (ok, answer) in enumerate(answers):
            assert ok, f"rank {rank}:\n{answer}"
        return [answer for _, answer in answers]

    def close(self) -> None:
        for pipe in self._pipes:
            pipe.send(None)
        for process in self._processes:
            process.join(10)
            process.kill()
        self._folder.cleanup()
