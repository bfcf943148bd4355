"""Sampling by time: properties for any frame times, and the exact choice for simple ones."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spava_app.engine.video.frame_index import FrameIndex
from spava_app.engine.video.frame_rules import RULES
from spava_app.engine.video.probe import VideoInfo, probe
from spava_app.engine.video.sample import sample_rule, sample_times
from spava_app.errors import InvalidInput


def video(pts, last=40, base=Fraction(1, 1000)):
    """A video that only exists as a frame index."""
    pts = np.asarray(pts, dtype=np.int64)
    index = FrameIndex.from_pts(pts, np.empty((0, 4), np.int64), base, last * base)
    return VideoInfo("v.mp4", 8, 8, index.duration, len(pts) / index.duration, "h264", index)


gaps = st.lists(st.integers(1, 3000), max_size=60)
uneven = gaps.map(lambda steps: video(np.cumsum([17, *steps])))


def shown(info, t):
    """The specification, by a plain loop: the last frame whose time is not after t."""
    return max(i for i, time in enumerate(info.index.times) if time <= t + 1e-6)


@given(info=uneven, num_frames=st.integers(1, 80))
def test_uniform_takes_what_is_shown_at_equal_steps(info, num_frames):
    sample = sample_times(info, num_frames=num_frames)
    if num_frames >= info.num_frames:
        assert sample.frames == tuple(range(info.num_frames))
    else:
        step = info.duration / num_frames
        assert sample.frames == tuple(sorted({shown(info, i * step) for i in range(num_frames)}))


@given(info=uneven, fps=st.floats(0.01, 100), cap=st.none() | st.integers(1, 80))
def test_a_rate_takes_what_is_shown_at_its_instants(info, fps, cap):
    sample = sample_times(info, fps=fps, max_frames=cap)
    limit = min(info.num_frames, cap or info.num_frames)
    wanted = max(1, math.ceil((info.duration - 1e-6) * fps))
    if wanted > limit:
        assert sample == sample_times(info, num_frames=limit)
    elif wanted < info.num_frames:
        assert sample.frames == tuple(sorted({shown(info, i / fps) for i in range(wanted)}))


@given(info=uneven, fps=st.floats(1e-300, 1e300), cap=st.none() | st.integers(1, 10**9))
def test_what_every_sample_keeps(info, fps, cap):
    sample = sample_times(info, fps=fps, max_frames=cap)
    assert 1 <= len(sample) <= min(info.num_frames, cap or info.num_frames)
    assert sample.frames[0] == 0
    assert (np.diff(sample.frames) > 0).all()
    np.testing.assert_array_equal(sample.times, info.index.times[list(sample.frames)])
    mean = np.diff(sample.times).mean() if len(sample) > 1 else info.duration
    assert sample.interval == pytest.approx(mean)
    assert all(type(f) is int for f in sample.frames)


@given(count=st.integers(1, 400), num_frames=st.integers(1, 400))
def test_constant_rate_gives_equal_parts(count, num_frames):
    info = video(range(7, 7 + count), last=1, base=Fraction(1, 30))
    num_frames = min(count, num_frames)
    expected = tuple(i * count // num_frames for i in range(num_frames))
    assert sample_times(info, num_frames=num_frames).frames == expected


def test_rates_of_a_constant_rate_video():
    info = video(range(300), last=1, base=Fraction(1, 30))
    assert sample_times(info, fps=1).frames == tuple(range(0, 300, 30))
    assert sample_times(info, fps=1).interval == pytest.approx(1)
    assert sample_times(info, fps=30).frames == tuple(range(300))
    assert sample_times(info, fps=1000).frames == tuple(range(300))
    assert sample_times(info, fps=2, max_frames=5).frames == (0, 60, 120, 180, 240)
    assert sample_times(info, fps=0.01).frames == (0,)
    assert sample_times(info, fps=0.01).interval == pytest.approx(10)
    assert sample_times(info, num_frames=50, max_frames=2).frames == (0, 150)


def test_a_still_is_taken_once():
    info = video([0, 10, 20, 10_000])
    assert sample_times(info, fps=0.25).frames == (0, 2)
    assert sample_times(info, num_frames=3).times == (0.0, 0.02)


def test_uneven_file(videos):
    info = probe(videos.variable)
    sample = sample_times(info, fps=3.0)
    assert sample.frames == tuple(
        sorted({shown(info, i / 3) for i in range(math.ceil(info.duration * 3))})
    )


@pytest.mark.parametrize(
    "how",
    [
        {},
        {"num_frames": 3, "fps": 1.0},
        {"num_frames": 0},
        {"num_frames": -1},
        {"num_frames": 2.5},
        {"num_frames": True},
        {"fps": 0.0},
        {"fps": -1.0},
        {"fps": math.nan},
        {"fps": math.inf},
        {"fps": True},
        {"fps": 10**400},
        {"fps": 1.0, "max_frames": 0},
        {"num_frames": 1, "max_frames": math.nan},
    ],
)
def test_wrong_numbers(how):
    with pytest.raises(InvalidInput, match="give"):
        sample_times(video(range(5)), **how)


@pytest.mark.parametrize("rule", RULES)
def test_a_rule_takes_no_number_that_does_not_fit_into_memory(rule):
    for wrong in (10**400, 10**12):
        with pytest.raises(InvalidInput, match=r"^num_frames=1000"):
            sample_rule(video(range(5)), rule, wrong)
