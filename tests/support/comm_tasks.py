"""Collectives, one after the other, as the engine calls them."""

import time
from typing import Any

import torch

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


def stay_away(comm: Comm, deadline: float) -> str:
    """Rank 0 gathers with a deadline; rank 1 does not come until it has passed."""
    comm.deadline = deadline
    if comm.rank == 1:
        time.sleep(3 * deadline)
        return "away"
    try:
        comm.all_gather(torch.zeros(1))()
    except RuntimeError as error:
        return type(error).__name__
    return "gathered"
