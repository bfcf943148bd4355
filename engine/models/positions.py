"""Multimodal rotary positions with true timestamps.

The rule of Qwen2.5-VL (arXiv 2502.13923, section 2.1.2): text advances all three axes together; a
visual token takes (start + floor(seconds * tokens_per_second), start + row, start + column), where
seconds is the time of its unit since the first; whatever follows starts at the largest position so
far plus one. transformers 5.17 and 5.23 start the text after a video too early, so positions are
made here and never taken from there.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import floor

import torch
from torch import Tensor

from spava_app.engine.media import Media
from spava_app.engine.request import Request


@dataclass(frozen=True)
class TextSpan:
    """A run of text tokens."""

    num_tokens: int


@dataclass(frozen=True)
class VideoSpan:
    """The tokens of one video.

    Attributes:
        times: seconds of each unit since the first one, ascending.
        rows, cols: merged tokens per unit.
    """

    times: tuple[float, ...]
    rows: int
    cols: int


Span = TextSpan | VideoSpan

# Seconds; times are differences of rounded numbers, and one at a tick up to rounding is at it.
_ROUNDING = 1e-6


def spans_of(request: Request, frames_per_unit: int, merge_size: int) -> tuple[Span, ...]:
    """A prompt as runs of text and of visual tokens."""
    spans: list[Span] = []
    end = 0
    for medium in request.media:
        start = medium.starts[0]
        spans += [TextSpan(start - end), span_of(medium, frames_per_unit, merge_size)]
        end = start + medium.num_tokens
    return (*spans, TextSpan(len(request.token_ids) - end))


def span_of(media: Media, frames_per_unit: int, merge_size: int) -> VideoSpan:
    """A unit's time is its first frame's, since that of the first."""
    _, rows, cols = media.grid
    times = media.times[::frames_per_unit]
    return VideoSpan(
        tuple(time - times[0] for time in times), rows // merge_size, cols // merge_size
    )


def multimodal_positions(spans: Iterable[Span], tokens_per_second: float) -> Tensor:
    """Positions of a prompt made of `spans`: int64 `[3, T]`, axes (time, height, width)."""
    parts: list[Tensor] = []
    start = 0
    for span in spans:
        if isinstance(span, TextSpan):
            part = torch.arange(span.num_tokens).expand(3, -1)
        else:
            part = _video_positions(span.times, span.rows, span.cols, tokens_per_second)
        if part.numel():
            parts.append(part + start)
            start += int(part.max()) + 1
    return torch.cat(parts, dim=1) if parts else torch.empty(3, 0, dtype=torch.int64)


def _video_positions(
    times: Sequence[float], rows: int, cols: int, tokens_per_second: float
) -> Tensor:
    whole = [floor((time + _ROUNDING) * tokens_per_second) for time in times]
    ticks = torch.tensor(whole, dtype=torch.int64)
    return torch.stack(
        (
            ticks.repeat_interleave(rows * cols),
            torch.arange(rows).repeat_interleave(cols).repeat(len(times)),
            torch.arange(cols).repeat(len(times) * rows),
        )
    )
