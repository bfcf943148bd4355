"""A script started by torchrun as a user starts it, with real processes of its own."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import psutil
from processes import MARK

ROOT = Path(__file__).resolve().parents[3]
DEADLINE = 240.0


class Started:
    """A torchrun and all that comes from it, told from other processes by a mark in the
    environment, which processes inherit whatever becomes of their parents.
    """

    def __init__(self, words: Sequence[str], folder: Path, **settings: str) -> None:
        self.mark = f"{folder.name}-{time.monotonic_ns()}"
        environment = os.environ | {
            MARK: self.mark,
            "PYTHONPATH": str(ROOT),
            "PYTHONSAFEPATH": "1",
            "OMP_NUM_THREADS": "1",
        }
        self.output = folder / f"output-{len(list(folder.glob('output-*')))}"
        with self.output.open("wb") as out:
            self.process = subprocess.Popen(
                words, stdout=out, stderr=out, cwd=folder, env=environment | settings
            )

    def text(self) -> str:
        return self.output.read_text(errors="replace")

    def wait(self, within: float = DEADLINE) -> int:
        """The exit code; fails with what was written if it takes longer."""
        try:
            return self.process.wait(within)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still running after {within} s:\n{self.text()}") from None

    def wait_for(self, words: str, within: float = DEADLINE) -> None:
        """Until `words` were written."""
        until = time.monotonic() + within
        while words not in self.text():
            assert self.process.poll() is None, f"ended early:\n{self.text()}"
            assert time.monotonic() < until, f"no {words!r} in {within} s:\n{self.text()}"
            time.sleep(0.1)

    def alive(self, part: str = "") -> list[psutil.Process]:
        """Processes that come from it and run, with `part` in their command line."""
        found = []
        for process in psutil.process_iter():
            try:
                ours = process.environ().get(MARK) == self.mark
                if ours and process.status() != psutil.STATUS_ZOMBIE:
                    found += [process] if part in " ".join(process.cmdline()) else []
            except psutil.Error:
                continue
        return found

    def assert_nothing_left(self, part: str = "", within: float = 15.0) -> None:
        """Fail if processes stay for so many seconds."""
        until = time.monotonic() + within
        while left := self.alive(part):
            assert time.monotonic() < until, [process.cmdline() for process in left]
            time.sleep(0.2)

    def end(self) -> None:
        for process in self.alive():
            process.send_signal(signal.SIGKILL)
        self.process.wait(10)


def torchrun(*options: str) -> list[str]:
    return [sys.executable, "-m", "torch.distributed.run", *options]


@contextmanager
def started(words: Sequence[str], folder: Path, **settings: str) -> Iterator[Started]:
    """Start a command; whatever is left of it is killed at the end."""
    running = Started(words, folder, **settings)
    try:
        yield running
    finally:
        running.end()
