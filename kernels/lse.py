"""Merging attention computed over disjoint sets of keys.

H = heads, T = rows, D = head dim. A partial is (out [T, H, D], lse [H, T]): softmax attention over
some keys and the natural log of the sum of exp of its scaled scores. A row that sees no key has out
0 and lse -inf.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

Partial = tuple[Tensor, Tensor]


def merge(parts: Sequence[Partial]) -> Partial:
    """Attention over the union of the partials' keys (online softmax, FlashAttention, arXiv
    2205.14135, 3.1).

    Returns:
        (out, lse), both in the lse's dtype: the caller casts once, after the last merge.
    """
    outs, lses = zip(*parts, strict=True)
    lse = torch.stack(lses)
    peak = lse.amax(dim=0)
    # Raw lse reaches hundreds on real models: without the peak taken out, exp overflows float32.
    weights = (lse - peak.masked_fill(peak == -torch.inf, 0)).exp_()
    total = weights.sum(dim=0)
    weights /= total.masked_fill(total == 0, 1)
    merged: Tensor | None = None
    for part, weight in zip(outs, weights.mT.contiguous()[..., None], strict=True):
        # Filled, because a partial of weight 0 may hold NaN, and 0 * NaN is NaN.
        part = part.masked_fill(weight == 0, 0)
        merged = part * weight if merged is None else merged.addcmul_(part, weight)
    assert merged is not None  # stack has refused an empty sequence
    return merged, peak + total.log()
