"""The frame index: when each frame of a video is shown.

N = frames, in the order they are shown. Time stamps are the container's integers ("pts").
"""

from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property

import numpy as np

# How many key frames back decoding may start when it fails from the nearest one: 0, 1, 3, 7, 15.
_TRIES = 5


@dataclass(frozen=True, eq=False)
class FrameIndex:
    """Presentation times of all frames.

    Attributes:
        times: [N] float64, seconds since the first frame, strictly increasing from 0.
        is_key: [N] bool, whether decoding may start at the frame.
        pts: [N] int64, the same times as the container writes them; what decoding matches by.
        time_base: seconds per unit of `pts`.
        duration: seconds from the first frame's start to the last frame's end.
    """

    times: np.ndarray
    is_key: np.ndarray
    pts: np.ndarray
    time_base: Fraction
    duration: float

    @classmethod
    def from_pts(
        cls, pts: np.ndarray, is_key: np.ndarray, time_base: Fraction, last_span: Fraction
    ) -> "FrameIndex":
        """From ascending time stamps, and the seconds that the last frame stays."""
        times = (pts - pts[0]) * (time_base.numerator / time_base.denominator)
        return cls(times, is_key, pts, time_base, float(times[-1]) + float(last_span))

    def __len__(self) -> int:
        return len(self.pts)

    def seeks(self, frame: int) -> tuple[int, ...]:
        """Time stamps of key frames from which to decode `frame`, the nearest first, then ever
        farther ones; the first frame, where the file starts, is not among them.
        """
        nearest = int(np.searchsorted(self._keys, frame, side="right")) - 1
        tries = [nearest + 1 - 2**power for power in range(_TRIES)]
        keys = [int(self._keys[key]) for key in tries if key >= 0]
        return tuple(int(self.pts[key]) for key in keys if key > 0)

    @cached_property
    def _keys(self) -> np.ndarray:
        return np.flatnonzero(self.is_key)
