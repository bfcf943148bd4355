"""How many ranks there are, and what they run on."""

from spava_app.engine.workers.torchrun.environment import Place
from spava_app.errors import InvalidInput, check_count

_CPU_RANKS, _MOST_RANKS = 2, 64


def choose_ranks(
    gpus: int | str, cpu_ranks: int | None, place: Place | None = None
) -> tuple[str, int]:
    """The type of device and the number of ranks, one per GPU or CPU process.

    Args:
        gpus: how many, 0 for none; "auto" for all there are, and if there is none, CPU processes.
        cpu_ranks: processes where no GPU is used; None for 2.
        place: of this process among those of torchrun, each of which is a rank.

    Raises:
        InvalidInput: a number out of range, more GPUs than there are, or another number of ranks
            than torchrun has started.
    """
    import torch

    cpu_ranks = check_count("cpu_ranks", cpu_ranks, least=1, most=_MOST_RANKS)
    if gpus is None or (isinstance(gpus, str) and gpus != "auto"):
        raise InvalidInput("gpus", gpus, "give auto or a number")
    if gpus != "auto":
        gpus = check_count("gpus", gpus, least=0) or 0
    found = torch.cuda.device_count() if gpus != 0 else 0
    if place is not None:
        return _of_torchrun(gpus, cpu_ranks, place, found)
    wanted = found if gpus == "auto" else int(gpus)
    if wanted > found:
        there = f"{found} found" if found else "none found"
        raise InvalidInput("gpus", gpus, f"{there}: give at most as many, or auto")
    return ("cuda", wanted) if wanted else ("cpu", cpu_ranks or _CPU_RANKS)


def _of_torchrun(
    gpus: int | str, cpu_ranks: int | None, place: Place, found: int
) -> tuple[str, int]:
    world_size, here = place.world_size, place.local_world_size
    fix = f"torchrun has started {world_size} processes: leave it out"
    if cpu_ranks not in (None, world_size):
        raise InvalidInput("cpu_ranks", cpu_ranks, fix)
    if gpus not in ("auto", 0, world_size):
        raise InvalidInput("gpus", gpus, fix)
    if gpus == world_size and found < here:
        fix = f"{here} processes of this machine need a GPU each, {found or 'none'} found"
        raise InvalidInput("gpus", gpus, fix)
    return ("cuda" if found >= here and gpus != 0 else "cpu"), world_size
