"""Sending visual embeddings to the ranks whose rows need them.

Each rank encodes a contiguous range of units; no rank ever holds the embeddings of all.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from spava_app.engine.comm import Comm


def exchange_rows(
    comm: Comm, own: Tensor, owned: Sequence[range], needed: Sequence[Tensor]
) -> Tensor:
    """Give every rank the rows it needs.

    Args:
        own: this rank's rows `[len(owned[rank]), hidden]`.
        owned: per rank, which global rows it holds; disjoint and ascending by rank.
        needed: per rank, int64 global indices of the rows it wants, in the order it wants them.

    Returns:
        `[len(needed[rank]), hidden]`, in the order of `needed[rank]`.
    """
    mine = owned[comm.rank]
    outgoing = [_inside(wanted, mine) for wanted in needed]
    send = torch.cat(
        [wanted[mask] - mine.start for wanted, mask in zip(needed, outgoing, strict=True)]
    )
    wanted = needed[comm.rank]
    incoming = [_inside(wanted, theirs) for theirs in owned]
    received = comm.all_to_all(
        own[send.to(own.device)],
        [int(mask.sum()) for mask in outgoing],
        [int(mask.sum()) for mask in incoming],
    )
    out = own.new_empty(len(wanted), own.shape[1])
    out[torch.cat([mask.nonzero()[:, 0] for mask in incoming]).to(own.device)] = received
    return out


def _inside(indices: Tensor, owned: range) -> Tensor:
    return (indices >= owned.start) & (indices < owned.stop)
