"""Why a decoder process ended or fell silent: for the file, a fault of ours, or from outside."""

import signal

from spava_app.engine.processes.exit_status import how_it_ended, memory_was_refused, oom_kills
from spava_app.engine.processes.wire import CONVERT
from spava_app.errors import EngineDown, InternalError, OutOfMemory, SpavaError, VideoError

# What a library that decodes does to its process when a file is too much for it.
_CRASHES = {signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGILL}


def exit_error(
    code: int, path: str, *, output: str, ready: bool, oom_kills_before: int
) -> SpavaError:
    """The error for a process that ended while it was asked about `path`.

    Args:
        code: its exit code; a signal is negative.
        output: the last lines it wrote.
        ready: whether it had loaded its libraries.
        oom_kills_before: of `oom_kills`, when it was asked.
    """
    last = output.rpartition("\n")[2]
    how = f"ended with code {code}" if code >= 0 else how_it_ended(code)
    if code == -signal.SIGKILL and oom_kills() > oom_kills_before:
        why = "because the machine's memory ran out: free memory, or use fewer ranks"
        return OutOfMemory(f"the decoder process was ended by the kernel {why}")
    if code == -signal.SIGALRM:  # by its own clock
        return VideoError("video", path, f"the decoder has hung; {CONVERT}")
    if code >= 0 or (not ready and -code in _CRASHES):
        if memory_was_refused(last):
            if ready:
                return VideoError("video", path, f"decoding it takes too much memory; {CONVERT}")
            return OutOfMemory(f"the decoder process ran out of memory when it started: {last}")
        where = "the decoder process" if ready else "the decoder process, when it started"
        return InternalError(where, last or how, output or how)
    if -code in _CRASHES:
        name = signal.Signals(-code).name
        return VideoError("video", path, f"the decoder crashed on this file ({name}); {CONVERT}")
    return EngineDown(f"the decoder process {how}, from outside: ask again")


def silence_error(
    path: str, seconds: float, *, late: bool, ready: bool, stopped: bool
) -> SpavaError:
    """The error for a process that gave no sign of life.

    Args:
        seconds: for so long.
        late: it gave signs of life, and took longer than a request may take.
        ready: whether it had loaded its libraries.
        stopped: whether somebody has stopped it, with SIGSTOP or a debugger.
    """
    if stopped:
        return EngineDown("the decoder process was stopped (SIGSTOP), from outside: ask again")
    if not ready:
        return EngineDown(
            f"the decoder process has not started within {seconds:.0f} s: the machine is busy, ask "
            "again"
        )
    how = "takes too long" if late else f"has hung for {seconds:.0f} s"
    return VideoError("video", path, f"the decoder {how}; {CONVERT}")
