"""How much of the host's memory this process takes, and those it started, as far as the system
tells.
"""

import os
import resource
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import psutil

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
    """This process's bytes that belong to no file, where the system tells."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    found = [line.split()[1] for line in lines if line.startswith("RssAnon:")]
    return int(found[0]) * 1024 if found else None


def tree_memory() -> int | None:
    """Bytes of this process and of all that it started, each page counted once among those that
    share it; None where the system does not tell.
    """
    this = psutil.Process()
    total = 0
    for process in [this, *this.children(recursive=True)]:
        try:
            total += process.memory_full_info().pss
        except (AttributeError, psutil.AccessDenied):
            return None
        except psutil.NoSuchProcess:
            continue  # it ended meanwhile
    return total


def sampled_anonymous() -> AbstractContextManager[list[int]]:
    """Samples of what is this process's own while the block runs."""
    return _sampled(_anonymous)


def sampled_tree() -> AbstractContextManager[list[int]]:
    """Samples of `tree_memory` while the block runs."""
    return _sampled(tree_memory)


@contextmanager
def _sampled(read: Callable[[], int | None]) -> Iterator[list[int]]:
    """Samples of a reading, while the block runs, of which the system keeps no peak."""
    samples: list[int] = []
    done = threading.Event()

    def sample() -> None:
        while not done.wait(SAMPLE_SECONDS):
            if (now := read()) is not None:
                samples.append(now)

    thread = threading.Thread(target=sample, daemon=True)
    thread.start()
    try:
        yield samples
    finally:
        done.set()
        thread.join()
