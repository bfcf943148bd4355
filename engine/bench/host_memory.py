"""How much of the host's memory this process takes, as far as the system tells."""

import os
import resource
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

SAMPLE_SECONDS = 0.02


def drop_from_cache(file: Path) -> None:
    """Ask the system to read a file from the disk again; some do not."""
    if hasattr(os, "posix_fadvise"):
        with file.open("rb") as opened:
            os.fsync(opened.fileno())
            os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def host_memory() -> dict[str, int | None]:
    """This process's memory in bytes: the most there was, pages of mapped files included, and what
    is its own now.
    """
    return {
        "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "anonymous": _anonymous(),
    }


def _anonymous() -> int | None:
    """Bytes that belong to no file, where the system tells."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    found = [line.split()[1] for line in lines if line.startswith("RssAnon:")]
    return int(found[0]) * 1024 if found else None


@contextmanager
def sampled_anonymous() -> Iterator[list[int]]:
    """Samples of `_anonymous` while the block runs: the system keeps no peak of it."""
    samples: list[int] = []
    done = threading.Event()

    def sample() -> None:
        while not done.wait(SAMPLE_SECONDS):
            if (now := _anonymous()) is not None:
                samples.append(now)

    thread = threading.Thread(target=sample, daemon=True)
    thread.start()
    try:
        yield samples
    finally:
        done.set()
        thread.join()
