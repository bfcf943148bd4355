"""Elementwise work of a model as Triton kernels: each tensor is read once and written once.

Imported by `spava_app.kernels.fused` alone. Their references are what the callers do without them:
`spava_app.kernels.rope.apply_rotary` and `spava_app.kernels.gated.swiglu`.
"""

# ruff: noqa: N803 (constants of a Triton kernel are upper case)

from contextlib import nullcontext

import torch
import triton  # pyright: ignore[reportMissingImports]
import triton.language as tl  # pyright: ignore[reportMissingImports]
from torch import Tensor

# Read in pieces: a wider row takes several programs.
SWIGLU_BLOCK = 4096


@triton.jit
def _rotate(
    x,
    cos,
    sin,
    out,
    row_stride,
    head_stride,
    HEADS: tl.constexpr,
    HALF: tl.constexpr,
    PADDED_HEADS: tl.constexpr,
    PADDED_HALF: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    head, half = tl.arange(0, PADDED_HEADS)[:, None], tl.arange(0, PADDED_HALF)[None, :]
    angle = row * HALF + half
    c, s = tl.load(cos + angle, half < HALF, 0.0), tl.load(sin + angle, half < HALF, 0.0)
    wanted = (head < HEADS) & (half < HALF)
    source = x + row * row_stride + head * head_stride + half
    first = tl.load(source, wanted, 0.0).to(tl.float32)
    second = tl.load(source + HALF, wanted, 0.0).to(tl.float32)
    target = out + (row * HEADS + head) * (2 * HALF) + half
    kind = out.dtype.element_ty
    tl.store(target, (first * c - second * s).to(kind), wanted)
    tl.store(target + HALF, (second * c + first * s).to(kind), wanted)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate `x` [T, H, D], whose head vectors are contiguous, by float32 tables `[T, D / 2]`."""
    rows, heads, dim = x.shape
    out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    with _on(x):
        _rotate[(rows,)](  # pyright: ignore[reportIndexIssue]
            *(x, cos.contiguous(), sin.contiguous(), out, x.stride(0), x.stride(1)),
            HEADS=heads,
            HALF=dim // 2,
            PADDED_HEADS=triton.next_power_of_2(heads),
            PADDED_HALF=triton.next_power_of_2(dim // 2),
        )
    return out


@triton.jit
def _swiglu(gate_up, out, INNER: tl.constexpr, WIDTH: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    source = gate_up + row * (2 * INNER) + column
    gate = tl.load(source, column < INNER, 0.0).to(tl.float32)
    up = tl.load(source + INNER, column < INNER, 0.0).to(tl.float32)
    product = gate * tl.sigmoid(gate) * up  # 0 in the columns that are added
    tl.store(out + row * WIDTH + column, product.to(out.dtype.element_ty), column < WIDTH)


def swiglu(gate_up: Tensor, width: int) -> Tensor:
    """`[N, 2 I]`, contiguous, to `[N, width]`: the columns past I are 0."""
    rows, inner = gate_up.shape[0], gate_up.shape[1] // 2
    out = gate_up.new_empty(rows, width)
    block = min(SWIGLU_BLOCK, triton.next_power_of_2(width))
    with _on(gate_up):
        _swiglu[(rows, triton.cdiv(width, block))](  # pyright: ignore[reportIndexIssue]
            *(gate_up, out), INNER=inner, WIDTH=width, BLOCK=block, num_warps=8
        )
    return out


def _on(x: Tensor) -> torch.cuda.device | nullcontext[None]:
    """Triton launches on the current device, which need not be that of `x`."""
    return torch.cuda.device(x.device) if x.is_cuda else nullcontext()
