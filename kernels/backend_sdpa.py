"""The flash attention built into torch, CPU form: grouped-query heads without expansion, a true
lse.
"""

import torch
from torch import Tensor

from spava_app.kernels.lse import Partial

NAME = "sdpa"
_flash_cpu = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu


def unsupported(q: Tensor) -> str | None:
    """Why this backend cannot serve tensors like `q`, or None."""
    return None if q.device.type == "cpu" else f"runs on cpu, not on {q.device.type}"


def attention(q: Tensor, k: Tensor, v: Tensor, *, causal: bool) -> Partial:
    """See `spava_app.kernels.attention.attention`; `causal` only for as many queries as keys.

    (The kernel aligns its mask to the top left, and gives lse 0 instead of -inf to a row that sees
    nothing.)
    """
    heads_first = (x.transpose(0, 1)[None] for x in (q, k, v))
    out, lse = _flash_cpu(*heads_first, 0.0, causal)
    return out[0].transpose(0, 1), lse[0]
