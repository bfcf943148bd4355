"""Exact attention on rank 0: the baseline, and the answer that approximations are measured
against.
"""

from dataclasses import dataclass

from torch import Tensor

from spava_app.engine.comm import Comm
from spava_app.engine.kv_cache import KVCache
from spava_app.engine.layout import Layout, PromptShape
from spava_app.engine.parallel.base import Method, Prefill
from spava_app.kernels.attention import attention


@dataclass(frozen=True)
class Full(Method):
    """All rows on rank 0; the other ranks help only with decoding."""

    name = "full"

    def layout(self, prompt: PromptShape, world_size: int) -> Layout:
        return Layout(
            num_tokens=prompt.num_tokens,
            query_len=0,
            anchor_len=0,
            share_anchor=False,
            blocks=(range(prompt.num_tokens),),
            owners=(0,),
            passing=(0,),
            world_size=world_size,
            query_owner=0,
        )

    def prefill(self, layout: Layout, comm: Comm, cache: KVCache) -> Prefill:
        return FullPrefill(layout, comm, cache)


class FullPrefill(Prefill):
    """Causal attention over the local rows, which are all or none."""

    def attend(
        self, layer: int, q: Tensor, k: Tensor, v: Tensor, key_scores: Tensor | None = None
    ) -> Tensor:
        self.cache.append(layer, k, v)
        return attention(q, k, v, causal=True)[0]
