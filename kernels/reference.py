"""Attention written from its definition, in float64 or float32: the yardstick for every other
backend.
"""

import torch
from torch import Tensor

from spava_app.kernels.lse import Partial

NAME = "reference"


def unsupported(q: Tensor) -> str | None:
    """Why this backend cannot serve tensors like `q`, or None."""
    return None


def attention(q: Tensor, k: Tensor, v: Tensor, *, causal: bool) -> Partial:
    """See `spava_app.kernels.attention.attention`; materialises the [H, Tq, Tk] scores."""
    dtype = torch.promote_types(q.dtype, torch.float32)
    group = q.shape[1] // k.shape[1]
    k, v = (x.to(dtype).repeat_interleave(group, dim=1) for x in (k, v))
    scores = torch.einsum("qhd,khd->hqk", q.to(dtype), k) * q.shape[-1] ** -0.5
    if causal:
        future = torch.ones(scores.shape[1:], dtype=torch.bool, device=q.device)
        scores = scores.masked_fill(future.triu(k.shape[0] - q.shape[0] + 1), -torch.inf)
    lse = scores.logsumexp(dim=-1)
    weights = (scores - lse.masked_fill(lse == -torch.inf, 0)[..., None]).exp()
    return torch.einsum("hqk,khd->qhd", weights, v).to(q.dtype), lse
