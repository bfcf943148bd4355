"""Attention inside windows: runs of consecutive rows that see each other and nothing else.

N = rows, H = heads, D = head dim. All units have the same windows, so N = units x rows of a unit.
"""

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from spava_app.kernels.backends import sdpa


@dataclass(frozen=True)
class Windows:
    """How rows fall into windows.

    Attributes:
        units: how often `classes` repeats.
        classes: in each unit, how many windows of how many rows follow each other.
        bounds: where each window of all units starts, and the end; int32 on the rows' device.
    """

    units: int
    classes: tuple[tuple[int, int], ...]
    bounds: Tensor

    @classmethod
    def of(cls, units: int, classes: Sequence[tuple[int, int]], device: torch.device) -> "Windows":
        """From counts and sizes."""
        sizes = [size for count, size in classes for _ in range(count)]
        ends = torch.tensor(sizes, device=device).repeat(units).cumsum(0, dtype=torch.int32)
        return cls(units, tuple(classes), F.pad(ends, (1, 0)))


def prepare(device: torch.device) -> None:
    """Load what windows on a device need, so that the first question does not wait for it."""
    if device.type == "cuda":
        with suppress(ImportError):
            _varlen_attn()


def window_attention(q: Tensor, k: Tensor, v: Tensor, windows: Windows) -> Tensor:
    """Attend inside each window; q, k, v `[N, H, D]` to `[N, H, D]`.

    Several small windows are one call of the flash attention for sequences of many lengths, where
    there is one: nothing is copied then. Otherwise they are one call per class.
    """
    several = windows.classes != ((1, len(q) // windows.units),)
    if several and _takes_many_lengths(q):
        longest = max(size for _, size in windows.classes)
        bounds = windows.bounds
        attended = _varlen_attn()(q, k, v, bounds, bounds, longest, longest)
        assert isinstance(attended, Tensor)  # with its lse on request alone
        return attended
    q, k, v = (part.unflatten(0, (windows.units, -1)) for part in (q, k, v))
    out, start = [], 0
    for count, size in windows.classes:
        rows = slice(start, start + count * size)
        heads = [
            part[:, rows].unflatten(1, (count, size)).flatten(0, 1).transpose(1, 2)
            for part in (q, k, v)
        ]
        attended = F.scaled_dot_product_attention(heads[0], heads[1], heads[2]).transpose(1, 2)
        out.append(attended.unflatten(0, (-1, count)).flatten(1, 2))
        start += count * size
    return (out[0] if len(out) == 1 else torch.cat(out, dim=1)).flatten(0, 1)


def _takes_many_lengths(q: Tensor) -> bool:
    if q.device.type != "cuda" or (q.requires_grad and torch.is_grad_enabled()):
        return False
    return sdpa.BACKEND.unsupported(q) is None


@cache
def _varlen_attn() -> Callable[..., object]:
    # Not above: it brings torch's compiler, over a second for each process that starts.
    from torch.nn.attention.varlen import varlen_attn

    return varlen_attn
