"""Memory that ran out, of a GPU or of the host, becomes an error that says where, how much there
was and what to do.

The group is started anew after it, even where this rank could go on: the others wait for it in a
collective, which nobody can take back, and the next request's would be matched with it.
"""

import errno
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import psutil
import torch

from spava_app.engine.processes.exit_status import memory_was_refused
from spava_app.errors import OutOfMemory

_FIX = "look at fewer frames (num_frames, fps), lower max_visual_tokens, or use more ranks"
_START_FIX = "the model does not fit beside what else runs: free memory, or take a smaller model"


@contextmanager
def reported_when_out_of_memory(
    rank: int, device: torch.device, stage: Callable[[], str]
) -> Iterator[None]:
    """Raise OutOfMemory for what the `with` block raises when memory runs out.

    Args:
        device: this rank's.
        stage: gives the present stage.
    """
    try:
        yield
    except (MemoryError, RuntimeError, OSError) as error:
        if not is_exhaustion(error):
            raise
        on_gpu = isinstance(error, torch.OutOfMemoryError) or "CUD" in str(error)
        fix = _START_FIX if stage() == "start" else _FIX
        memory = _gpu_memory(device) if on_gpu else _host_memory()
        raise OutOfMemory(f"rank {rank} ran out of {memory} in {stage()}: {fix}") from error


def is_exhaustion(error: BaseException) -> bool:
    """Whether an error of any library means that memory ran out."""
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    known = isinstance(error, MemoryError | torch.OutOfMemoryError)
    return known or memory_was_refused(str(error))


def _gpu_memory(device: torch.device) -> str:
    try:
        free, total = torch.cuda.mem_get_info(device)
    except RuntimeError:  # not even enough to ask
        return "GPU memory"
    held = torch.cuda.memory_reserved(device)
    return f"GPU memory ({_gib(held)} held, {_gib(free)} of {_gib(total)} free)"


def _host_memory() -> str:
    try:
        process, machine = psutil.Process(), psutil.virtual_memory()
        held, limit = process.memory_info(), process.rlimit(psutil.RLIMIT_AS)[0]
    except (OSError, psutil.Error, AttributeError):  # no /proc, or a system without such limits
        return "host memory"
    limited = f", its address space {_gib(held.vms)} of {_gib(limit)}" if limit > 0 else ""
    free, total = _gib(machine.available), _gib(machine.total)
    return f"host memory ({_gib(held.rss)} held{limited}, {free} of {total} free)"


def _gib(count: int) -> str:
    return f"{count / 2**30:.2f} GiB"
