"""Rotary position embedding, one-dimensional and multimodal.

T = rows, H = heads, D = head dim. A rotary table is the pair (cos, sin), each [T, D / 2]: the two
halves of a head vector are rotated against each other (the "rotate half" layout of Llama and Qwen
checkpoints).
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from spava_app.kernels.fused import fused_for

Rotary = tuple[Tensor, Tensor]


def rotary_frequencies(head_dim: int, theta: float, device: torch.device | None = None) -> Tensor:
    """Angular frequencies theta^(-2i / D), float64 `[D / 2]` (RoFormer, arXiv 2104.09864, section
    3.2.2).
    """
    exponents = torch.arange(0, head_dim, 2, dtype=torch.float64, device=device) / head_dim
    return theta**-exponents


def rotary_table(
    positions: Tensor, frequencies: Tensor, sections: Sequence[int] | None = None
) -> Rotary:
    """Cosines and sines of the rotation angles.

    Args:
        positions: integers `[T]`, or `[axes, T]` for multimodal rotary.
        frequencies: `[D / 2]`, from `rotary_frequencies`.
        sections: with `[axes, T]` positions, how many consecutive frequencies each axis rotates;
            sums to D / 2 (mRoPE, Qwen2-VL, arXiv 2409.12191, section 2.1).

    Returns:
        (cos, sin), float32 `[T, D / 2]`. Angles are formed in float64: in float32 a position of a
        million already loses the fourth digit of the fastest angle.
    """
    if positions.ndim == 1:
        per_frequency = positions[:, None]
    else:
        if sections is None or sum(sections) != frequencies.numel():
            raise ValueError(f"sections={sections!r}: must sum to {frequencies.numel()}")
        axis = torch.arange(len(sections), device=positions.device)
        axis = axis.repeat_interleave(torch.tensor(sections, device=positions.device))
        per_frequency = positions[axis].T
    angles = per_frequency.to(torch.float64) * frequencies.to(positions.device)
    return angles.cos().float(), angles.sin().float()


def apply_rotary(x: Tensor, rotary: Rotary) -> Tensor:
    """Rotate `x` [T, H, D] by its rows' angles; computed in at least float32, returned in `x`'s
    dtype.
    """
    if x.stride(-1) == 1 and (kernels := fused_for(x)):
        return kernels.rotate(x, *rotary)
    dtype = torch.promote_types(x.dtype, torch.float32)
    cos, sin = (table.to(dtype)[:, None, :] for table in rotary)
    first, second = x.to(dtype).chunk(2, dim=-1)
    rotated = torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)
    return rotated.to(x.dtype)
