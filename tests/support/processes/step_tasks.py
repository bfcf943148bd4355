"""A method's attention on the ranks of a test group, with what it computes and receives counted."""

from typing import Any

import torch
from torch import Tensor

from spava_app.engine.comm import Comm, Pending
from spava_app.engine.kv_cache import KVCache
from spava_app.engine.layout import PromptShape
from spava_app.engine.multimodal.unit_sharding import indices
from spava_app.engine.parallel.base import make_method
from spava_app.engine.parallel.buffers import HeadShape
from spava_app.engine.parallel.work import num_pairs
from spava_app.kernels.attention import visible_pairs

HEADS, KV_HEADS, HEAD_DIM = 4, 2, 8


class CountingComm(Comm):
    """Counts the bytes that come from other ranks."""

    received = 0

    def all_gather(self, x: Tensor) -> Pending:
        self.received += (self.world_size - 1) * x.nbytes
        return super().all_gather(x)

    def all_to_all(self, rows: Tensor, send: Any, receive: Any) -> Tensor:
        out = super().all_to_all(rows, send, receive)
        row = out[0].nbytes if len(out) else 0
        self.received += sum(n for rank, n in enumerate(receive) if rank != self.rank) * row
        return out

    def shift(self, x: Tensor, num_rows: int) -> Pending:
        self.received += num_rows * x[0].nbytes if self.world_size > 1 else 0
        return super().shift(x, num_rows)


def told_and_counted(
    comm: Comm, name: str, options: dict[str, Any], tokens: int
) -> dict[str, tuple[int, int]]:
    """Of one layer on this rank: what the method's steps tell, and what was counted."""
    counting = CountingComm(comm.rank, comm.world_size)
    method = make_method(name, options)
    layout = method.layout(PromptShape(tokens, 9, system_len=3, question_len=5), comm.world_size)
    rows = indices(layout.rows(comm.rank))
    cache = KVCache(1, layout.num_cached(comm.rank), KV_HEADS, HEAD_DIM, dtype=torch.float32)
    prefill = method.prefill(layout, counting, cache)
    attend, pairs = prefill._attention, 0

    def counted(q: Tensor, k: Tensor, v: Tensor, *, causal: bool) -> Any:
        nonlocal pairs
        # Of a share of the heads, that share of the pairs.
        pairs += visible_pairs(len(q), len(k), causal=causal) * q.shape[1]
        return attend(q, k, v, causal=causal)

    prefill._attention = counted  # type: ignore[assignment]
    generator = torch.Generator().manual_seed(0)
    q, k, v = (
        torch.randn(tokens, heads, HEAD_DIM, generator=generator)[rows]
        for heads in (HEADS, KV_HEADS, KV_HEADS)
    )
    prefill.attend(0, q, k, v)
    steps = method.steps(layout, comm.rank, HeadShape(HEADS, KV_HEADS, HEAD_DIM, 4))
    received = sum(step.received for step in steps)
    return {
        "pairs": (HEADS * num_pairs(steps), pairs),
        "received": (received, counting.received),
    }
