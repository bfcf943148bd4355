"""Exact attention on rank 0: the baseline, and the truth that approximations are measured by."""

from dataclasses import dataclass

from torch import Tensor

from spava_app.engine.comm import Comm
from spava_app.engine.kv_cache import KVCache
from spava_app.engine.layout import Layout
from spava_app.engine.parallel.base import Prefill
from spava_app.engine.parallel.exact import ExactMethod


@dataclass(frozen=True)
class Full(ExactMethod):
    """All rows on rank 0; the other ranks help only with decoding."""

    name = "full"

    def _owners(self, world_size: int) -> tuple[int, ...]:
        return (0,)

    def prefill(self, layout: Layout, comm: Comm, cache: KVCache) -> Prefill:
        return FullPrefill(self, layout, comm, cache)


class FullPrefill(Prefill):
    """Causal attention over the local rows, which are all or none."""

    def attend(
        self, layer: int, q: Tensor, k: Tensor, v: Tensor, key_scores: Tensor | None = None
    ) -> Tensor:
        self.cache.append(layer, k, v)
        return self._attention(q, k, v, causal=True)[0]
