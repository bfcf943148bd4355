"""Which frames of a video the model sees: uniform or at a rate, by time and never by counting; and
by the rules of benchmarks, which count.
"""

import math
from dataclasses import dataclass

import numpy as np

from spava_app.engine.video.frame_rules import RULES
from spava_app.engine.video.probe import VideoInfo
from spava_app.errors import InvalidInput, finite_number, plain_number

# Times are sums of container ticks: an instant that falls on a frame up to rounding means it.
_ROUNDING = 1e-6
# Rules make a list as long as the number they are given, also for a video that has fewer frames.
_MOST_OF_RULE = 10**6


@dataclass(frozen=True)
class FrameSample:
    """Chosen frames, in the order they are shown, none twice.

    Attributes:
        frames: numbers in the video's frame index.
        times: when they are shown, seconds since the first frame.
        interval: mean seconds from one chosen frame to the next; the whole duration for just one.
    """

    frames: tuple[int, ...]
    times: tuple[float, ...]
    interval: float

    def __len__(self) -> int:
        return len(self.frames)


def sample_times(
    info: VideoInfo,
    *,
    num_frames: int | None = None,
    fps: float | None = None,
    max_frames: int | None = None,
) -> FrameSample:
    """Choose the frames shown at evenly spaced instants; at an instant t, the last with time <= t.

    With `num_frames` the instants start that many equal parts of the duration. With `fps` they are
    0, 1/fps, 2/fps, ...; when that is more than `max_frames`, `max_frames` equal parts instead.
    A frame that stays on screen over several instants (a still of a variable-rate video, a rate
    above the video's own) is taken once, so there can be fewer samples, never more than frames.

    Raises:
        InvalidInput: none or both of `num_frames` and `fps`, or a number that is not positive.
    """
    if (num_frames is None) == (fps is None):
        value = {"num_frames": num_frames, "fps": fps}
        raise InvalidInput("num_frames, fps", value, "give exactly one of the two")
    limit = info.num_frames
    if max_frames is not None:
        limit = min(limit, _count("max_frames", max_frames))
    rate = None if fps is None else _rate(fps)
    if rate is None:
        wanted = _count("num_frames", num_frames)
    else:
        steps = (info.duration - _ROUNDING) * rate
        wanted = limit + 1 if steps > limit else max(1, math.ceil(steps))
    if wanted >= info.num_frames == limit:
        return _sample(info, np.arange(limit))
    if rate is None or wanted > limit:
        parts = min(wanted, limit)
        instants = np.arange(parts) * (info.duration / parts)
    else:
        instants = np.arange(wanted) / rate
    shown = np.searchsorted(info.index.times, instants + _ROUNDING, side="right") - 1
    return _sample(info, np.unique(shown))


def sample_rule(info: VideoInfo, rule: str, num_frames: int | None = None) -> FrameSample:
    """Choose frames by one of `frame_rules.RULES`, with the times they are truly shown at.

    Raises:
        InvalidInput: no such rule, or a number of frames that it does not take.
    """
    if rule not in RULES:
        raise InvalidInput("frame_rule", rule, f"choose one of {', '.join(RULES)}")
    wanted = None if num_frames is None else _count("num_frames", num_frames)
    if wanted is not None and wanted > _MOST_OF_RULE:
        fix = f"give at most {_MOST_OF_RULE} frames to a frame_rule"
        raise InvalidInput("num_frames", num_frames, fix)
    frames = RULES[rule](info.num_frames, info.duration, wanted)
    return _sample(info, np.array(frames))


def _sample(info: VideoInfo, frames: np.ndarray) -> FrameSample:
    times = info.index.times[frames]
    gaps = len(times) - 1
    interval = float(times[-1] - times[0]) / gaps if gaps else info.duration
    return FrameSample(tuple(frames.tolist()), tuple(times.tolist()), interval)


def _rate(fps: float) -> float:
    rate = finite_number(fps)
    if rate is None or rate <= 0:
        raise InvalidInput("fps", fps, "give a positive number of frames per second")
    return rate


def _count(field: str, value: int | None) -> int:
    count = plain_number(value)
    if not isinstance(count, int) or count < 1:
        raise InvalidInput(field, value, "give a whole number of frames, at least 1")
    return count
