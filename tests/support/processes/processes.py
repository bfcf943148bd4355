"""Processes as the system sees them: which workers and decoders there are, and whether one is left.

Those of a test carry a mark in their environment, which children inherit and orphans keep; it looks
like one of the locale's variables, which decoders inherit too.
"""

import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

MARK = "LC_MARK_OF_THE_TEST"


@dataclass(frozen=True)
class Process:
    """A living process.

    Attributes:
        pid, parent: its number and its parent's.
        words: its command line.
    """

    pid: int
    parent: int
    words: tuple[str, ...]

    @property
    def rank(self) -> int | None:
        """Of a worker."""
        if "spava_app.engine.workers.worker" not in self.words:
            return None
        return json.loads(self.words[-1])["rank"]

    @property
    def decodes(self) -> bool:
        return "spava_app.engine.video.sandbox.server" in self.words


def marked(mark: str) -> list[Process]:
    """All living processes that were started with this mark."""
    found, shown = [], set()
    for folder in sorted(Path("/proc").glob("[0-9]*"), key=lambda folder: int(folder.name)):
        try:
            state, parent = (folder / "stat").read_text().rsplit(")", 1)[1].split()[:2]
            words = (folder / "cmdline").read_bytes().decode().split("\0")[:-1]
        except OSError:
            continue  # gone meanwhile
        process = Process(int(folder.name), int(parent), tuple(words))
        if state in "ZX" or not _is_marked(folder, mark, process, shown):
            continue
        shown.add(process.pid)
        found.append(process)
    return found


def _is_marked(folder: Path, mark: str, process: Process, shown: set[int]) -> bool:
    """A decoder shows its environment to nobody but root: then its parent's mark is its own, and
    an orphan is one of ours until it has ended.
    """
    try:
        return f"{MARK}={mark}".encode() in (folder / "environ").read_bytes().split(b"\0")
    except PermissionError:
        return process.decodes and process.parent in shown | {1, os.getpid()}
    except OSError:
        return False  # gone meanwhile


def wait_for(true: Callable[[], object], seconds: float = 20.0) -> bool:
    """Whether it becomes true within a time that only a hang exceeds."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if true():
            return True
        time.sleep(0.02)
    return bool(true())


def worker_pid(mark: str, rank: int, seconds: float = 20.0) -> int:
    """The process of a rank, as soon as there is one."""
    found: list[int] = []

    def look() -> bool:
        found[:] = [process.pid for process in marked(mark) if process.rank == rank]
        return bool(found)

    assert wait_for(look, seconds), f"no worker of rank {rank}"
    [pid] = found
    return pid


def check_no_orphans(mark: str) -> None:
    """No worker is left, and no decoder but those that this process keeps for its next file."""

    def left() -> list[Process]:
        mine = os.getpid()
        return [
            process
            for process in marked(mark)
            if process.rank is not None or (process.decodes and process.parent != mine)
        ]

    assert wait_for(lambda: not left()), left()
