"""What an attention backend is, and what GPU kernels have in common.

Tq, Tk = query and key rows, H = query heads, Hkv = KV heads, D = head dim.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from spava_app.kernels.lse import Partial


@dataclass(frozen=True)
class Backend:
    """An attention kernel that returns a true log-sum-exp.

    Attributes:
        name: as a user names it.
        unsupported: `unsupported(q)` says why it cannot serve queries like `q`, or None.
        attend: `attend(q, k, v, causal)`, shapes and results as in
            `spava_app.kernels.attention.attention`, for at least one row and one key. Without
            `bottom_right`, `causal` is only asked for with as many rows as keys; with it, with at
            least as many keys as rows.
        bottom_right: it aligns a causal mask to the bottom right.
        least_flops: `auto` passes it over for smaller calls, on which others are faster.
    """

    name: str
    unsupported: Callable[[Tensor], str | None]
    attend: Callable[[Tensor, Tensor, Tensor, bool], Partial]
    bottom_right: bool = False
    least_flops: float = 0


def nvidia_limits(q: Tensor, *, majors: range, max_head_dim: int) -> str | None:
    """Why a half-precision kernel for compute capabilities `majors` cannot serve `q`, or None."""
    if q.device.type != "cuda" or torch.version.hip:
        return f"runs on NVIDIA GPUs, not on {'rocm' if torch.version.hip else q.device.type}"
    if q.dtype not in (torch.bfloat16, torch.float16):
        return f"computes in bfloat16 and float16, not in {q.dtype}"
    if (major := _major_capability(q.device)) not in majors:
        allowed = f"{majors[0]} to {majors[-1]}" if len(majors) > 1 else f"{majors[0]}"
        return f"needs compute capability {allowed}, this GPU has {major}"
    if q.shape[-1] % 8 or q.shape[-1] > max_head_dim:
        return f"takes head dims that are multiples of 8 up to {max_head_dim}, not {q.shape[-1]}"
    return None


@cache  # asked for several times per attention call
def _major_capability(device: torch.device) -> int:
    return torch.cuda.get_device_capability(device)[0]


def loadable(x: Tensor) -> Tensor:
    """`x` [T, heads, D], copied if a kernel could not load its head vectors as they lie.

    The kernels below torch's public functions check little: torch's CPU flash attention reads
    foreign memory where the last stride is not 1, and on a GPU vectors are loaded 16 bytes at a
    time, so that cuDNN ends the process's CUDA context over one that is not aligned to that.
    """
    if x.stride(-1) != 1:
        return x.contiguous()
    if x.device.type != "cuda":
        return x
    steps = [stride for stride, size in zip(x.stride()[:-1], x.shape[:-1], strict=True) if size > 1]
    words = [x.data_ptr(), *(step * x.element_size() for step in steps)]
    if 0 in steps or any(word % 16 for word in words):
        return x.clone(memory_format=torch.contiguous_format)
    return x
