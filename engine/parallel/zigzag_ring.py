"""Zigzag ring attention: an early and a late chunk on each rank, so that all work equally.

W = ranks, r = this rank, which owns chunks r and 2W-1-r. After its own chunks, every step costs a
rank the same: all its rows against one early chunk, or its late rows against both received chunks.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from spava_app.engine.comm import Comm
from spava_app.engine.kv_cache import KVCache
from spava_app.engine.layout import Layout, zigzag_owners
from spava_app.engine.parallel.base import Prefill
from spava_app.engine.parallel.buffers import Buffers, HeadShape
from spava_app.engine.parallel.exact import ExactMethod
from spava_app.engine.parallel.ring import RingPrefill, ring_buffers, ring_steps
from spava_app.engine.parallel.work import Call, Step
from spava_app.kernels.lse import Partial


@dataclass(frozen=True)
class ZigzagRing(ExactMethod):
    """Two chunks per rank."""

    name = "zigzag_ring"

    def _owners(self, world_size: int) -> tuple[int, ...]:
        return zigzag_owners(2 * world_size, world_size)

    def prefill(self, layout: Layout, comm: Comm, cache: KVCache) -> Prefill:
        return ZigzagRingPrefill(self, layout, comm, cache)

    def steps(self, layout: Layout, rank: int, heads: HeadShape) -> Sequence[Step]:
        rows = layout.num_rows(rank)

        def seen(sender: int) -> Call:
            if sender < rank:
                return Call(rows, len(layout.blocks[sender]))
            return Call(rows - len(layout.blocks[rank]), layout.num_rows(sender))

        return ring_steps(layout, rank, heads, seen)

    def buffers(self, layout: Layout, rank: int, heads: HeadShape) -> Buffers:
        # The first rank's early chunk is the prompt's start: no other key comes before it.
        merged = layout.num_rows(rank) - (0 if rank else len(layout.blocks[0]))
        return ring_buffers(layout, rank, heads, merged)


class ZigzagRingPrefill(RingPrefill):
    """The ring's steps with the zigzag's share of work in each."""

    def _first_row(self, sender: int) -> int:
        # From a later rank both chunks lie before this rank's late chunk, and behind its early one.
        return 0 if sender <= self.comm.rank else len(self.layout.blocks[self.comm.rank])

    def _attend_to(self, sender: int, q: Tensor, k: Tensor, v: Tensor) -> Partial:
        if sender < self.comm.rank:  # its late chunk lies behind all rows here
            early = len(self.layout.blocks[sender])
            return self._attention(q, k[:early], v[:early], causal=False)
        # Of its own chunks the late one's rows come last, so causal is right for both.
        return self._attention(q, k, v, causal=sender == self.comm.rank)
