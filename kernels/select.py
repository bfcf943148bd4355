"""Query-aware selection of the keys a block passes on (Spava, arXiv 2601.21444; pooling from
Locret, 2410.01805).

T = rows of one block, Lq = question rows, H = query heads, Hkv = KV heads, D = head dim.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

POOL_WINDOW = 5
# Products of keys and question that a CPU sums while they are still in its cache.
_CACHED_BYTES = 2**20


def query_scores(q_query: Tensor, k: Tensor) -> Tensor:
    """How much the question asks for each key, per KV head: the mean of its raw scores.

    A key's score is its dot product with every question row of every query head of its group,
    averaged. Means are linear, so this is one product per key and KV head and never an [Lq, T]
    matrix. It is formed in float32: scores rounded to bfloat16 tie by the thousand, and forms that
    save the float32 products are slower (docs/performance.md).

    Equal keys score equal, wherever they stand. A CPU's matrix-vector product rounds its last rows
    in another order than the others, and ties would no longer go to the lowest index: there each
    row is summed by itself. A GPU's product rounds every row alike, and is faster than such sums.

    Args:
        q_query: rotated queries of the question `[Lq, H, D]`.
        k: rotated keys of one block `[T, Hkv, D]`.

    Returns:
        `[Hkv, T]`, float32 (float64 for float64 inputs).
    """
    dtype = torch.promote_types(k.dtype, torch.float32)
    mean = q_query.to(dtype).mean(dim=0).unflatten(0, (k.shape[1], -1)).mean(dim=1)
    if k.device.type != "cpu":
        return torch.einsum("thd,hd->ht", k.to(dtype), mean)
    scores = mean.new_empty(k.shape[:2])
    step = max(1, _CACHED_BYTES // max(1, mean.numel() * mean.element_size()))
    for first in range(0, len(k), step):
        part = slice(first, first + step)
        torch.sum(k[part] * mean, dim=-1, out=scores[part])
    return scores.T.contiguous()


def select(scores: Tensor, count: int, *, skip: int = 0) -> Tensor:
    """Indices `[Hkv, min(count, T)]` of the best rows of one block per KV head, best first.

    The first `skip` rows count for their neighbours' scores and are never selected themselves.
    Scores `[Hkv, T]` are max-pooled over `POOL_WINDOW` neighbours inside the block first. Pooling
    makes equal scores the rule, so ties go to the lowest index: every device, backend and world
    size then selects the same rows. NaN counts as the highest score, as `torch.sort` has it: it
    reaches the result, where it is seen, instead of being left out unnoticed.
    """
    if scores.shape[1] == 0:
        return scores.new_empty(scores.shape, dtype=torch.int64)
    scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
    pooled = F.max_pool1d(scores[None], POOL_WINDOW, stride=1, padding=POOL_WINDOW // 2)[0]
    # One NaN for all, because a radix sort tells them apart. A stable sort, because topk promises
    # nothing about ties and, over keys made unique, takes longer on a GPU (docs/performance.md).
    pooled = pooled.masked_fill(pooled.isnan(), torch.nan)
    best = pooled[:, skip:].sort(dim=-1, descending=True, stable=True).indices
    return best[:, :count] + skip


def gather_packed(k: Tensor, v: Tensor, indices: Tensor) -> Tensor:
    """Keys and values of the selected rows side by side, `[count, Hkv, 2 D]`, ready to send."""
    rows = indices.T[..., None].expand(-1, -1, k.shape[2])
    return torch.cat((k.gather(0, rows), v.gather(0, rows)), dim=-1)
