"""The methods' masks, written from their papers, and dense float64 attention under a mask.

Nothing here uses the engine. n = prompt tokens, H = query heads, Hkv = KV heads, D = head dim. A
mask is boolean `[Hkv, n, n]`: may the query heads of this group at row i see the key at column j.
"""

import math

import torch
from torch import Tensor


def dense(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    """Softmax attention `[n, H, D]` over the keys that `mask` shows."""
    group = q.shape[1] // k.shape[1]
    out = torch.empty_like(q)
    for head in range(q.shape[1]):
        kv = head // group
        scores = q[:, head] @ k[:, kv].T / math.sqrt(q.shape[2])
        out[:, head] = scores.masked_fill(~mask[kv], -math.inf).softmax(dim=-1) @ v[:, kv]
    return out


def causal(n: int, num_kv_heads: int) -> Tensor:
    """Everybody sees themselves and all before."""
    return torch.ones(num_kv_heads, n, n, dtype=torch.bool).tril()


def selected(q: Tensor, k: Tensor, block: range, query: range, head: int, count: int) -> list[int]:
    """The tokens of `block` that Spava selects for KV head `head`.

    Mean over question rows and the group's query heads of the raw dot products (arXiv 2601.21444,
    section 3), then the maximum over five neighbours inside the block, then the best, the earlier
    first among equals.
    """
    group = q.shape[1] // k.shape[1]
    raw = [
        sum(
            float(k[j, head] @ q[t, h])
            for t in query
            for h in range(head * group, (head + 1) * group)
        )
        / (len(query) * group)
        for j in block
    ]
    pooled = [max(raw[max(i - 2, 0) : i + 3]) for i in range(len(raw))]
    order = sorted(range(len(raw)), key=lambda i: (-pooled[i], i))
    return [block.start + i for i in order[:count]]


def spava(
    q: Tensor, k: Tensor, query_len: int, *, virtual_hosts: int, anchor_len: int, passing_len: int
) -> Tensor:
    """Spava's mask (arXiv 2601.21444, section 3; query rows exact over all cached keys)."""
    n, num_kv_heads = k.shape[:2]
    context = n - query_len
    anchor_len = min(anchor_len, context)
    size = math.ceil((context - anchor_len) / virtual_hosts)
    edges = [min(anchor_len + j * size, context) for j in range(virtual_hosts + 1)]
    blocks = [range(edges[j], edges[j + 1]) for j in range(virtual_hosts)]
    query = range(context, n)

    mask = torch.zeros(num_kv_heads, n, n, dtype=torch.bool)
    lower = torch.ones(n, n, dtype=torch.bool).tril()
    mask[:, :anchor_len, :anchor_len] = lower[:anchor_len, :anchor_len]
    mask[:, context:] = lower[context:]
    for j, block in enumerate(blocks):
        rows = slice(block.start, block.stop)
        mask[:, rows, :anchor_len] = True
        mask[:, rows, rows] = lower[rows, rows]
        for later in blocks[j + 1 :]:
            for head in range(num_kv_heads):
                for token in selected(q, k, block, query, head, min(passing_len, len(block))):
                    mask[head, later.start : later.stop, token] = True
    return mask
