"""How a process ended, told to a person."""

import signal
from pathlib import Path

from spava_app.errors import EngineDown, EngineError, OutOfMemory

# The exit code of a rank that failed in a collective because another rank was gone.
LOST_PEER = 3
# What torch and oneDNN, C++, Python's threads, the C library and CUDA's libraries say when they get
# no memory; as exceptions these are plain RuntimeErrors, or a library ends the process.
_REFUSED = (
    "DefaultCPUAllocator",
    "could not create a primitive",
    "std::bad_alloc",
    "MemoryError",
    "can't start new thread",
    "annot allocate memory",
    "Thread creation failed",
    "failed to map segment",
    "out of memory",
    "_ALLOC_FAILED",
)


def memory_was_refused(text: str) -> bool:
    """Whether an error's text means that the host, or a GPU, had no memory left."""
    return any(phrase in text for phrase in _REFUSED)


def start_error(process: str, error: Exception) -> EngineError:
    """What the operating system's refusal to start a process is reported as."""
    refused = memory_was_refused(str(error))
    return (OutOfMemory if refused else EngineDown)(f"{process} cannot be started: {error}")


def how_it_ended(code: int | None) -> str:
    """An exit code of `subprocess` in words: negative ones are signals; None where the process that
    started it is gone too.
    """
    if code is None:
        return "was lost with the process that had started it"
    if code == LOST_PEER:
        return "lost another rank"
    if code >= 0:
        return f"ended with code {code}"
    try:
        return f"was ended by {signal.Signals(-code).name}"
    except ValueError:
        return f"was ended by signal {-code}"


def is_stopped(pid: int) -> bool:
    """Whether a process stands still because somebody stopped it; False where that is not known."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in {"T", "t"}
    except (OSError, IndexError):
        return False


def oom_kills() -> int:
    """Processes that the kernel has ended since it started because memory ran out, of the machine
    or of a container; 0 where it does not tell.
    """
    try:
        lines = Path("/proc/vmstat").read_text().splitlines()
    except OSError:
        return 0
    counts = (line.split()[1] for line in lines if line.startswith("oom_kill "))
    return int(next(counts, 0))
