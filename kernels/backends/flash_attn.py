"""The flash-attn packages, each where it is installed: FlashAttention-4, -3 and -2.

They take grouped-query heads without expanding them and align a causal mask to the bottom right, so
that a block attends to [anchor | passing | block] in one call.
"""

from collections.abc import Callable
from functools import cache
from importlib import import_module
from inspect import signature
from typing import Any

import torch
from torch import Tensor

from spava_app.errors import EngineError
from spava_app.kernels.backends.base import Backend, nvidia_limits
from spava_app.kernels.lse import Partial


@cache
def _load(module: str, lse_option: str) -> Callable[..., Any] | str:
    """`flash_attn_func` of `module`, or why there is none to use; tried once per process."""
    try:
        function = import_module(module).flash_attn_func
    except (ImportError, AttributeError, OSError, RuntimeError) as error:
        return f"{module}.flash_attn_func cannot be imported ({error})"
    if lse_option not in signature(function).parameters:
        return f"{module}.flash_attn_func has no {lse_option}: without an lse nothing can be merged"
    return function


def _backend(
    name: str, module: str, lse_option: str, majors: range, *, least_flops: float = 0
) -> Backend:
    def unsupported(q: Tensor) -> str | None:
        if reason := nvidia_limits(q, majors=majors, max_head_dim=256):
            return reason
        loaded = _load(module, lse_option)
        return loaded if isinstance(loaded, str) else None

    def attend(q: Tensor, k: Tensor, v: Tensor, causal: bool) -> Partial:
        function = _load(module, lse_option)
        assert not isinstance(function, str)  # `unsupported` has said so
        batch = (x[None] for x in (q, k, v))
        result = function(*batch, causal=causal, **{lse_option: True})
        if not isinstance(result, tuple) or not _is_lse(result[1], q):
            raise EngineError(f"{module}.flash_attn_func returned no lse in spite of {lse_option}")
        return result[0][0], result[1][0]

    return Backend(name, unsupported, attend, bottom_right=True, least_flops=least_flops)


def _is_lse(lse: Any, q: Tensor) -> bool:
    expected = (1, q.shape[1], q.shape[0])
    return isinstance(lse, Tensor) and lse.dtype == torch.float32 and lse.shape == expected


# FlashAttention-4 does not split keys on Hopper: few query rows leave most of the GPU idle.
FLASH_ATTN_4 = _backend(
    "flash_attn_4", "flash_attn.cute", "return_lse", range(9, 11), least_flops=1e11
)
FLASH_ATTN_3 = _backend("flash_attn_3", "flash_attn_interface", "return_attn_probs", range(9, 10))
FLASH_ATTN_2 = _backend("flash_attn_2", "flash_attn", "return_attn_probs", range(8, 13))
