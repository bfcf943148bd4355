"""How many ranks there are, and what they run on."""

from spava_app.errors import InvalidInput, check_count


def choose_ranks(gpus: int | str, cpu_ranks: int) -> tuple[str, int]:
    """The type of device and the number of ranks, one per GPU or CPU process.

    Args:
        gpus: how many, 0 for none; "auto" for all there are, and if there is none, CPU processes.
        cpu_ranks: processes where no GPU is used.

    Raises:
        InvalidInput: a number out of range, or more GPUs than there are.
    """
    import torch

    check_count("cpu_ranks", cpu_ranks, least=1)
    if isinstance(gpus, str) and gpus != "auto":
        raise InvalidInput("gpus", gpus, "give auto or a number")
    if gpus != "auto":
        check_count("gpus", gpus, least=0)
    found = torch.cuda.device_count() if gpus != 0 else 0
    wanted = found if gpus == "auto" else int(gpus)
    if wanted > found:
        there = f"{found} found" if found else "none found"
        raise InvalidInput("gpus", gpus, f"{there}: give at most as many, or auto")
    return ("cuda", wanted) if wanted else ("cpu", cpu_ranks)
