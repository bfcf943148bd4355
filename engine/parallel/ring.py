"""Ring Attention (arXiv 2310.01889): contiguous blocks, keys and values passed around a ring.

W = ranks, r = this rank. Exact, and unbalanced under a causal mask: the last rank attends W blocks,
the first one. `zigzag_ring` evens that out.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from spava_app.engine.comm import Comm
from spava_app.engine.kv_cache import KVCache
from spava_app.engine.layout import Layout
from spava_app.engine.parallel.base import Prefill
from spava_app.engine.parallel.exact import ExactMethod
from spava_app.kernels.lse import Partial, merge


@dataclass(frozen=True)
class Ring(ExactMethod):
    """One block per rank, in order."""

    name = "ring"

    def prefill(self, layout: Layout, comm: Comm, cache: KVCache) -> Prefill:
        return RingPrefill(self, layout, comm, cache)


class RingPrefill(Prefill):
    """W steps: attend to what is here while it travels on and the next comes in."""

    def attend(
        self, layer: int, q: Tensor, k: Tensor, v: Tensor, key_scores: Tensor | None = None
    ) -> Tensor:
        self.cache.append(layer, k, v)
        rank, world_size = self.comm.rank, self.comm.world_size
        here = torch.cat((k, v), dim=-1)
        merged: dict[int, Partial] = {}
        for step in range(world_size):
            sender = (rank - step) % world_size
            last = step == world_size - 1
            before = (sender - 1) % world_size
            coming = None if last else self.comm.shift(here, self._num_rows(before))
            first = self._first_row(sender)
            if first < len(q) or step == 0:
                part = self._attend_to(sender, q[first:], *here.chunk(2, dim=-1))
                merged[first] = merge((merged[first], part)) if first in merged else part
            if coming is not None:
                here = coming()
        return self._joined(merged).to(q.dtype)

    def _num_rows(self, rank: int) -> int:
        return sum(len(self.layout.blocks[j]) for j in self.layout.own(rank))

    def _first_row(self, sender: int) -> int:
        """The first local row that sees keys of rank `sender`; all rows after it do too."""
        return 0 if sender <= self.comm.rank else self._num_rows(self.comm.rank)

    def _attend_to(self, sender: int, q: Tensor, k: Tensor, v: Tensor) -> Partial:
        """Attention of the rows that see keys of rank `sender`."""
        return self._attention(q, k, v, causal=sender == self.comm.rank)

    def _joined(self, merged: dict[int, Partial]) -> Tensor:
        """The output of all rows, from partials of the rows from `first` on, by `first`."""
        whole = merged.pop(0)
        for first, late in merged.items():
            tail, _ = merge(((whole[0][first:], whole[1][:, first:]), late))
            return torch.cat((whole[0][:first].to(tail.dtype), tail))
        return whole[0]
