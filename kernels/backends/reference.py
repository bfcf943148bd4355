"""Attention written from its definition, in float64 or float32: the yardstick for every other
backend, and what is left where none of them runs.

Tq, Tk = query and key rows, Hkv = KV heads, G = query heads per KV head, D = head dim.
"""

import torch
from torch import Tensor

from spava_app.kernels.backends.base import Backend
from spava_app.kernels.lse import Partial

# Scores held at a time, over all heads: 256 MiB in float32, a few copies of which fit anywhere.
MAX_SCORES = 2**26


def _attend(q: Tensor, k: Tensor, v: Tensor, causal: bool) -> Partial:
    """A stretch of query rows at a time, so that the [H, Tq, Tk] scores never exist as a whole."""
    dtype = torch.promote_types(q.dtype, torch.float32)
    k, v = k.to(dtype), v.to(dtype)
    step = max(1, MAX_SCORES // (q.shape[1] * k.shape[0]))
    parts = [
        _rows(q[at : at + step].to(dtype), k, v, k.shape[0] - q.shape[0] + at if causal else None)
        for at in range(0, q.shape[0], step)
    ]
    outs, lses = zip(*parts, strict=True)
    return torch.cat(outs).to(q.dtype), torch.cat(lses, dim=1)


def _rows(q: Tensor, k: Tensor, v: Tensor, last_key: int | None) -> Partial:
    """`last_key`: the last key that the first of these rows sees; None where all see all."""
    q = q.unflatten(1, (k.shape[1], -1))  # [Tq, Hkv, G, D]
    scores = torch.einsum("qhgd,khd->hgqk", q, k) * q.shape[-1] ** -0.5
    if last_key is not None:
        future = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device)
        scores = scores.masked_fill(future.triu(last_key + 1), -torch.inf)
    lse = scores.logsumexp(dim=-1)
    weights = (scores - lse.masked_fill(lse == -torch.inf, 0)[..., None]).exp()
    return torch.einsum("hgqk,khd->qhgd", weights, v).flatten(1, 2), lse.flatten(0, 1)


BACKEND = Backend("reference", lambda q: None, _attend, bottom_right=True)
