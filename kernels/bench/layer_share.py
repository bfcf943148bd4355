"""What scoring, selecting and packing keys costs beside the rest of a decoder layer.

The layer is that of a 7B model (Qwen2.5) at 128K tokens on 4 ranks with 8 virtual hosts: a rank
computes 32K rows, two blocks of 16K, the first and the last. Left out, so that the share is rather
over- than understated: elementwise work, the anchor's rows and the question's attention.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from spava_app.kernels.attention import attention
from spava_app.kernels.bench.stopwatch import Timing, time_stages
from spava_app.kernels.select import gather_packed, query_scores, select

TOKENS, RANKS, VIRTUAL_HOSTS = 128 * 1024, 4, 8
HEADS, KV_HEADS, HEAD_DIM, MLP = 28, 4, 128, 18944
QUERY_LEN = 64


@dataclass(frozen=True)
class LayerShare:
    """One layer on one rank, by stage; `share` is selection's part of all three medians."""

    linear: Timing
    selection: Timing
    attention: Timing
    share: float

    def __str__(self) -> str:
        parts = ", ".join(
            f"{name} {getattr(self, name).median_ms:.4g} ms"
            for name in ("linear", "attention", "selection")
        )
        return f"a rank's part of a 7B layer at 128K tokens on 4 ranks: {parts} ({self.share:.2%})"


def layer_share(
    device: torch.device, dtype: torch.dtype, divide: int = 1, runs: int | None = None
) -> LayerShare:
    """Time the three stages one after the other; `divide` shrinks lengths and the MLP."""

    def random(*shape: int) -> Tensor:
        return torch.randn(shape, dtype=dtype, device=device)

    block_len = max(8, TOKENS // VIRTUAL_HOSTS // divide)
    anchor_len, passing_len = block_len // 8, block_len // 16
    blocks = [
        (random(block_len, HEADS, HEAD_DIM), random(before + block_len, KV_HEADS, HEAD_DIM))
        for before in (anchor_len, anchor_len + (VIRTUAL_HOSTS - 1) * passing_len)
    ]
    values = [torch.randn_like(k) for _, k in blocks]
    query = random(QUERY_LEN, HEADS, HEAD_DIM)

    def attend() -> None:
        for (q, k), v in zip(blocks, values, strict=True):
            attention(q, k, v, causal=True)

    def choose() -> None:
        for (_, k), v in zip(blocks, values, strict=True):
            own = slice(-block_len, None)
            indices = select(query_scores(query, k[own]), passing_len)
            gather_packed(k[own], v[own], indices)

    stages = [_linear(len(blocks) * block_len, max(8, MLP // divide), random), choose, attend]
    linear, selection, attended = time_stages(stages, device, runs)
    total = linear.median_ms + selection.median_ms + attended.median_ms
    return LayerShare(linear, selection, attended, selection.median_ms / total)


def _linear(rows: int, mlp: int, random: Callable[..., Tensor]) -> Callable[[], None]:
    """The layer's matrix products over `rows` rows."""
    hidden = HEADS * HEAD_DIM
    shapes = [
        (hidden, (HEADS + 2 * KV_HEADS) * HEAD_DIM),  # q, k, v
        (hidden, hidden),  # output
        (hidden, 2 * mlp),  # gate and up
        (mlp, hidden),  # down
    ]
    pairs = [(random(rows, width), random(width, height)) for width, height in shapes]

    def compute() -> None:
        for x, weight in pairs:
            torch.matmul(x, weight)

    return compute
