"""Ring Attention (arXiv 2310.01889): contiguous blocks, keys and values passed around a ring.

W = ranks, r = this rank. Exact, and unbalanced under a causal mask: the last rank attends W blocks,
the first one. `zigzag_ring` evens that out.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from spava_app.engine.comm import Comm, Pending
from spava_app.engine.kv_cache import KVCache
from spava_app.engine.layout import Layout
from spava_app.engine.parallel.base import Prefill
from spava_app.engine.parallel.buffers import Buffers, HeadShape
from spava_app.engine.parallel.exact import ExactMethod
from spava_app.engine.parallel.partials import merge_into
from spava_app.engine.parallel.work import MERGE, Call, Step
from spava_app.kernels.lse import Partial


@dataclass(frozen=True)
class Ring(ExactMethod):
    """One block per rank, in order."""

    name = "ring"

    def prefill(self, layout: Layout, comm: Comm, cache: KVCache) -> Prefill:
        return RingPrefill(self, layout, comm, cache)

    def steps(self, layout: Layout, rank: int, heads: HeadShape) -> Sequence[Step]:
        def seen(sender: int) -> Call:
            return Call(layout.num_rows(rank) if sender < rank else 0, layout.num_rows(sender))

        return ring_steps(layout, rank, heads, seen)

    def buffers(self, layout: Layout, rank: int, heads: HeadShape) -> Buffers:
        # The first rank's rows see no other rank's keys.
        return ring_buffers(layout, rank, heads, layout.num_rows(rank) if rank else 0)


class RingPrefill(Prefill):
    """W steps: attend to what is here while it travels on and the next comes in."""

    def attend(
        self, layer: int, q: Tensor, k: Tensor, v: Tensor, key_scores: Tensor | None = None
    ) -> Tensor:
        self.cache.append(layer, k, v)
        rank, world_size = self.comm.rank, self.comm.world_size
        here = torch.cat((k, v), dim=-1)
        coming = self._pass_on(rank, here)
        out, lse = self._attend_to(rank, q, *here.chunk(2, dim=-1))
        if world_size > 2:  # more than one merge follows: cast once, after the last
            out = out.to(lse.dtype)
        for step in range(1, world_size):
            sender = (rank - step) % world_size
            here = coming()
            coming = self._pass_on(sender, here)
            first = self._first_row(sender)
            if first < len(q):
                part = self._attend_to(sender, q[first:], *here.chunk(2, dim=-1))
                rest = (out[first:], lse[:, first:])
                lse[:, first:] = merge_into(out[first:], (rest, part))
                del part  # before the next is made
        return out.to(q.dtype)

    def _pass_on(self, sender: int, here: Tensor) -> Pending:
        """Send rank `sender`'s keys and values on, unless they have been everywhere."""
        before = (sender - 1) % self.comm.world_size
        if before == self.comm.rank:
            return lambda: here
        return self.comm.shift(here, self._num_rows(before))

    def _num_rows(self, rank: int) -> int:
        return sum(len(self.layout.blocks[j]) for j in self.layout.own(rank))

    def _first_row(self, sender: int) -> int:
        """The first local row that sees keys of rank `sender`; all rows after it do too."""
        return 0 if sender <= self.comm.rank else self._num_rows(self.comm.rank)

    def _attend_to(self, sender: int, q: Tensor, k: Tensor, v: Tensor) -> Partial:
        """Attention of the rows that see keys of rank `sender`."""
        return self._attention(q, k, v, causal=sender == self.comm.rank)


def ring_steps(
    layout: Layout, rank: int, heads: HeadShape, seen: Callable[[int], Call]
) -> Sequence[Step]:
    """As `Method.steps`, for methods that pass all keys and values round a ring.

    Args:
        seen: the rank's rows that see keys of another rank, and those keys.
    """
    rows, world_size = layout.num_rows(rank), layout.world_size
    steps = []
    for turn in range(world_size):
        sender = (rank - turn) % world_size
        call = seen(sender) if turn else Call(rows, rows, causal=True)
        comes = layout.num_rows((sender - 1) % world_size) if turn < world_size - 1 else 0
        copied = heads.merged(call.rows) if turn else 2 * rows * heads.kv_row
        launches = MERGE if turn and call.rows else 0
        steps.append(Step((call,), comes * heads.kv_row, copied, launches))
    return steps


def ring_buffers(layout: Layout, rank: int, heads: HeadShape, merged: int) -> Buffers:
    """As `Method.buffers`, for methods that pass all keys and values round a ring, where at most
    `merged` of the rank's rows see another rank's at a time.
    """
    rows, world_size = layout.num_rows(rank), layout.world_size
    # What is here and what comes in: no longer than the longest rank's.
    block = max(layout.num_rows(other) for other in range(world_size)) * heads.kv_row
    first = Buffers(rows * (heads.q_row + heads.lse_row), exchange=min(2, world_size) * block)
    if world_size == 1:
        return first
    out = heads.wide_row if world_size > 2 else heads.q_row
    later = Buffers(
        out=rows * (out + heads.lse_row),
        exchange=(2 if world_size > 2 else 1) * block,
        partial=merged * (heads.q_row + 2 * heads.lse_row),
        merge=heads.merge(merged),
    )
    return Buffers.at_peak(first, later)
