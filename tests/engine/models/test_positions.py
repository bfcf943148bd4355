"""Multimodal positions against a table worked out by hand from the paper's rule."""

from dataclasses import replace
from math import floor

import pytest
import torch

from spava_app.engine.models.positions import TextSpan, VideoSpan, multimodal_positions, spans_of
from spava_app.engine.request import Request

# Two tokens of text, a video of 3 units of 1 x 2 tokens one second apart, three tokens of text; 2
# ticks a second.
TABLE = [
    (0, 0, 0),
    (1, 1, 1),
    (2, 2, 2),
    (2, 2, 3),
    (4, 2, 2),
    (4, 2, 3),
    (6, 2, 2),
    (6, 2, 3),
    (7, 7, 7),
    (8, 8, 8),
    (9, 9, 9),
]


def test_table() -> None:
    spans = [TextSpan(2), VideoSpan((0.0, 1.0, 2.0), rows=1, cols=2), TextSpan(3)]
    assert [tuple(column) for column in multimodal_positions(spans, 2).T.tolist()] == TABLE


def test_long_video_pushes_the_text_behind_it() -> None:
    """384 units of 26 x 46 patches, a second apart: the case that transformers places at 38 instead
    of 782.
    """
    times = tuple(float(second) for second in range(384))
    spans = [TextSpan(15), VideoSpan(times, rows=13, cols=23), TextSpan(1)]
    positions = multimodal_positions(spans, 2)
    assert positions[0, 15:-1].unique().tolist() == list(range(15, 782, 2))
    assert positions[:, -1].tolist() == [782, 782, 782]


def test_wide_short_video_counts_its_columns() -> None:
    spans = [VideoSpan((0.0,), rows=2, cols=9), TextSpan(1)]
    assert multimodal_positions(spans, 2)[:, -1].tolist() == [9, 9, 9]


@pytest.mark.parametrize(("interval", "ticks"), [(0.25, [0, 0, 1, 1]), (0.75, [0, 1, 3, 4])])
def test_fractions_of_a_tick_are_cut_not_the_interval(interval: float, ticks: list[int]) -> None:
    video = VideoSpan(tuple(i * interval for i in range(4)), rows=1, cols=1)
    assert multimodal_positions([video], 2)[0].tolist() == ticks


def test_a_tick_that_rounding_misses_is_counted() -> None:
    """From 0.2 to 0.7 seconds is half a second, and 0.49999999999999994 in floating point."""
    span = VideoSpan((0.0, 0.7 - 0.2), rows=1, cols=1)
    assert multimodal_positions([span], 2)[0].tolist() == [0, 1]


def test_a_units_time_is_its_first_frames(request_: Request) -> None:
    """By hand, from the request's frames: 14 units of 3 x 3 tokens behind three tokens of text."""
    positions = multimodal_positions(spans_of(request_, frames_per_unit=2, merge_size=2), 2)
    times = request_.media[0].times
    ticks = [floor((times[2 * i] - times[0]) * 2) for i in range(14)]
    assert positions[0, 3 : 3 + 126 : 9].tolist() == [3 + tick for tick in ticks]
    assert positions[:, -5].tolist() == [int(positions[:, :-5].max()) + 1] * 3


def test_nothing() -> None:
    assert multimodal_positions([], 2).shape == (3, 0)


def test_times_count_from_the_first_unit(request_: Request) -> None:
    """A sample that begins in the middle of a file starts at the same position."""
    [video] = request_.media
    later = replace(video, times=tuple(time + 100.25 for time in video.times))
    asked = replace(request_, media=(later,))
    assert torch.equal(
        multimodal_positions(spans_of(asked, 2, 2), 2),
        multimodal_positions(spans_of(request_, 2, 2), 2),
    )
