"""What the ranks of a test group run. Inputs are made from a seed on every rank, so nothing but
results travels.
"""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from spava_app.engine.comm import Comm
from spava_app.engine.kv_cache import KVCache
from spava_app.engine.layout import PromptShape
from spava_app.engine.parallel.base import Decode, make_method

LAYERS, NEW_TOKENS = 2, 3


@dataclass(frozen=True)
class Case:
    """One prompt and one method."""

    method: str
    num_tokens: int
    query_len: int
    options: dict[str, Any] = field(default_factory=dict)
    heads: tuple[int, int, int] = (4, 2, 8)
    seed: int = 0

    def tensors(self) -> list[tuple[Tensor, Tensor, Tensor]]:
        """Random q, k, v `[n + new tokens, heads, D]` per layer, float64."""
        generator = torch.Generator().manual_seed(self.seed)
        num_heads, num_kv_heads, head_dim = self.heads
        total = self.num_tokens + NEW_TOKENS
        return [
            tuple(
                torch.randn(total, h, head_dim, generator=generator, dtype=torch.float64)
                for h in (num_heads, num_kv_heads, num_kv_heads)
            )
            for _ in range(LAYERS)
        ]


@dataclass(frozen=True)
class RankResult:
    """What one rank computed.

    Attributes:
        rows: token indices of its rows.
        outs: their attention, per layer.
        decoded: attention of the new tokens, per layer.
        cached: keys in its cache at the end, per layer.
    """

    rows: list[int]
    outs: list[Tensor]
    decoded: list[Tensor]
    cached: list[Tensor]


def run_case(comm: Comm, case: Case) -> RankResult:
    """Prefill and three decode steps through the method, as a model would call it."""
    method = make_method(case.method, case.options)
    layout = method.layout(PromptShape(case.num_tokens, case.query_len), comm.world_size)
    rows = layout.rows(comm.rank)
    _, num_kv_heads, head_dim = case.heads
    capacity = len(layout.cached(comm.rank)) + NEW_TOKENS
    cache = KVCache(LAYERS, capacity, num_kv_heads, head_dim, dtype=torch.float64)
    prefill = method.prefill(layout, comm, cache)
    inputs = case.tensors()
    outs = [
        prefill.attend(layer, q[rows], k[rows], v[rows]) for layer, (q, k, v) in enumerate(inputs)
    ]
    decode = Decode(layout, comm, cache)
    decoded: list[list[Tensor]] = [[] for _ in range(LAYERS)]
    for step in range(NEW_TOKENS):
        new = slice(case.num_tokens + step, case.num_tokens + step + 1)
        for layer, (q, k, v) in enumerate(inputs):
            decoded[layer].append(decode.attend(layer, q[new], k[new], v[new]))
        decode.next_token()
    return RankResult(
        rows=rows,
        outs=outs,
        decoded=[torch.cat(steps) for steps in decoded],
        cached=[cache.view(layer)[0].clone() for layer in range(LAYERS)],
    )
