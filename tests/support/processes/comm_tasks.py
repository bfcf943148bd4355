"""Collectives, one after the other, as the engine calls them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from generation import generate, text_request

from spava_app.engine import timing
from spava_app.engine.comm import Comm


def all_calls(comm: Comm) -> dict[str, Any]:
    """What each call of `Comm` gives this rank."""
    rank, world_size = comm.rank, comm.world_size
    before = (rank - 1) % world_size
    rows = [torch.full((to + 1, 1), 10 * rank + to) for to in range(world_size)]
    return {
        "gathered": comm.all_gather(torch.full((3, 2), float(rank)))(),
        "shifted": comm.shift(torch.full((rank + 1,), rank), before + 1)(),
        "exchanged": comm.all_to_all(
            torch.cat(rows), [len(part) for part in rows], [rank + 1] * world_size
        )[:, 0],
        "broadcast": int(comm.broadcast(torch.tensor([rank]), world_size - 1)),
        "any": (
            comm.any(rank == 0, torch.device("cpu")),
            comm.any(False, torch.device("cpu")),
        ),
    }


def meet_again(comm: Comm, init_method: str) -> None:
    """A new group of the same processes: one in which a collective failed is not used again."""
    comm.close()
    deadline = 60.0
    Comm.connect(
        comm.rank, comm.world_size, init_method=init_method, backend="gloo", deadline=deadline
    )
    comm.deadline = deadline


def stay_away(comm: Comm, call: str, seconds: float) -> str:
    """Rank 0 calls with a deadline; rank 1 lives and does not come."""
    comm.deadline = seconds
    if comm.rank == 1:
        return "away"
    x = torch.zeros(2, 1)
    calls: dict[str, Callable[[], object]] = {
        "all_gather": lambda: comm.all_gather(x)(),
        "all_to_all": lambda: comm.all_to_all(x, [1, 1], [1, 1]),
        "shift": lambda: comm.shift(x, 2)(),
    }
    return error_of(calls[call])


def hang_before_the_prefill(comm: Comm, checkpoint: Path, least: float) -> str:
    """Rank 0 runs a request; rank 1 lives and does nothing."""
    if comm.rank == 1:
        return "away"
    timing.LEAST_SECONDS = least
    request = text_request(range(40), method="spava")
    return error_of(lambda: generate(comm, checkpoint, None, request))


def error_of(call: Callable[[], object]) -> str:
    """The class of the error that `call` raises."""
    try:
        call()
    except RuntimeError as error:
        return type(error).__name__
    return "no error"
