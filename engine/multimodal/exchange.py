"""Sending visual embeddings to the ranks whose rows need them.

Each rank encodes some units; no rank ever holds the embeddings of all.
"""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from spava_app.engine.comm import Comm


def indices(ranges: Iterable[range]) -> Tensor:
    """The numbers of `ranges` one after the other, int64."""
    parts = [torch.arange(numbers.start, numbers.stop) for numbers in ranges]
    return torch.cat([torch.empty(0, dtype=torch.int64), *parts])


def exchange_rows(
    comm: Comm, own: Tensor, owned: Sequence[Tensor], needed: Sequence[Tensor]
) -> tuple[Tensor, Tensor]:
    """Give every rank the rows it needs.

    Args:
        own: this rank's rows `[len(owned[rank]), hidden]`.
        owned: per rank, int64 global indices of the rows it holds, in the order it holds them; the
            indices 0, 1, ... are each held by one rank.
        needed: per rank, int64 global indices of the rows it wants, in the order it wants them.

    Returns:
        The rows needed, `[len(needed[rank]), hidden]`, ordered by who sent them; and which entry of
        `needed[rank]` each is, int64 on the CPU.
    """
    total = sum(map(len, owned))
    owner, place = torch.empty(2, total, dtype=torch.int64)
    for rank, rows in enumerate(owned):
        owner[rows] = rank
        place[rows] = torch.arange(len(rows))
    send = [place[wanted[owner[wanted] == comm.rank]] for wanted in needed]
    source = owner[needed[comm.rank]]
    received = comm.all_to_all(
        own[torch.cat(send).to(own.device)],
        [len(rows) for rows in send],
        torch.bincount(source, minlength=comm.world_size).tolist(),
    )
    ranks = range(comm.world_size)
    return received, torch.cat([(source == rank).nonzero().flatten() for rank in ranks])
