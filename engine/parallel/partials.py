"""Partial attention: packed for one collective, and merged without much memory.

H = query heads, T = rows, D = head dim, W = ranks. A partial is (out `[T, H, D]`, log-sum-exp
`[H, T]`), as in `spava_app.kernels.lse`.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from spava_app.kernels.lse import Partial, merge

# What a merge holds at a time of its result in full precision: rows do not depend on each other.
MERGE_BYTES = 2**27


def pack_partial(part: Partial) -> Tensor:
    """(out `[T, H, D]`, lse `[H, T]`) as one `[T, H, D + 1]` tensor, so that one collective carries
    both.
    """
    out, lse = part
    return torch.cat((out.to(lse.dtype), lse.T[..., None]), dim=-1)


def merge_packed(gathered: Tensor) -> Partial:
    """Merge the ranks' packed partials `[W, T, H, D + 1]` of the same rows."""
    return merge([(part[..., :-1], part[..., -1].T) for part in gathered])


def merge_into(out: Tensor, parts: Sequence[Partial]) -> Tensor:
    """Merge partials of the same rows into `out` `[T, H, D]`, which may be the output of one of
    them. A row is merged in the log-sum-exp's precision and then cast to that of `out`.

    Returns:
        The merged log-sum-exp `[H, T]`.
    """
    lse = torch.empty_like(parts[0][1])
    step = merge_step(out.shape[1] * out.shape[2] * lse.element_size())
    for start in range(0, len(out), step):
        rows = slice(start, start + step)
        merged, lse[:, rows] = merge([(part[rows], weight[:, rows]) for part, weight in parts])
        out[rows] = merged
        del merged  # before the next is made
    return lse


def merge_step(row: int) -> int:
    """Rows merged at a time, where one takes `row` bytes."""
    return max(1, MERGE_BYTES // row)
