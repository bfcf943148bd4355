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
        merged = self._attention(q, k[:0], v[:0], causal=False)
        for step in range(world_size):
            sender = (rank - step) % world_size
            before = (sender - 1) % world_size
            last = step == world_size - 1
            coming = None if last else self.comm.shift(here, self._num_rows(before))
            merged = self._attend_from(sender, q, *here.chunk(2, dim=-1), merged)
            if coming is not None:
                here = coming()
        return merged[0].to(q.dtype)

    def _num_rows(self, rank: int) -> int:
        return sum(len(self.layout.blocks[j]) for j in self.layout.own(rank))

    def _attend_from(
        self, sender: int, q: Tensor, k: Tensor, v: Tensor, merged: Partial
    ) -> Partial:
        """Merge the attention to the keys of rank `sender` into what was attended before."""
        if sender > self.comm.rank:
            return merged
        return merge((merged, self._attention(q, k, v, causal=sender == self.comm.rank)))
