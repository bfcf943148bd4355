"""The flash attention inside torch: on CPU its own, on NVIDIA GPUs FlashAttention-2.

Called below `scaled_dot_product_attention`, which returns no lse. Both take grouped-query heads
without expanding them and align a causal mask to the top left; the CPU form also gives lse 0
instead of -inf to a row that sees nothing, which is why no such row is ever handed to a backend.
"""

import torch
from torch import Tensor

from spava_app.kernels.backends.base import Backend, nvidia_limits
from spava_app.kernels.lse import Partial

_flash_cpu = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_flash_cuda = torch.ops.aten._scaled_dot_product_flash_attention


def _unsupported(q: Tensor) -> str | None:
    if q.device.type == "cpu":
        return None
    return nvidia_limits(q, majors=range(8, 13), max_head_dim=256)


def _attend(q: Tensor, k: Tensor, v: Tensor, causal: bool) -> Partial:
    flash = _flash_cpu if q.device.type == "cpu" else _flash_cuda
    out, lse, *_ = flash(*(x.transpose(0, 1)[None] for x in (q, k, v)), 0.0, causal)
    return out[0].transpose(0, 1), lse[0]


BACKEND = Backend("sdpa", _unsupported, _attend)
