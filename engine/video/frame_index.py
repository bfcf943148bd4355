"""The frame index: when each frame of a video is shown.

N = frames, in the order they are shown. Time stamps are the container's integers ("pts").
"""

from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property

import numpy as np

from spava_app.engine.media import Seek

# How many key frames back decoding may start when it fails from the nearest one: 0, 1, 3, 7, 15.
_TRIES = 5


@dataclass(frozen=True, eq=False)
class FrameIndex:
    """Presentation times of all frames, and from where they can be decoded.

    Attributes:
        times: [N] float64, seconds since the first frame, strictly increasing from 0.
        pts: [N] int64, the same times as the container writes them.
        time_base: seconds per unit of `pts`.
        duration: seconds from the first frame's start to the last frame's end.
        entries: [K, 4] int64, frames from which decoding may start, ascending; each with its time
            and byte in the container, and the shift of the clock there.
        by_bytes: whether the byte is to be sought, because times name no place in the file.
        counted: whether decoded pictures are told apart by counting them, not by `pts`.
    """

    times: np.ndarray
    pts: np.ndarray
    time_base: Fraction
    duration: float
    entries: np.ndarray
    by_bytes: bool = False
    counted: bool = False

    @classmethod
    def from_pts(
        cls,
        pts: np.ndarray,
        entries: np.ndarray,
        time_base: Fraction,
        last_span: Fraction,
        *,
        by_bytes: bool = False,
        counted: bool = False,
    ) -> "FrameIndex":
        """From ascending time stamps, and the seconds that the last frame stays."""
        times = (pts - pts[0]) * (time_base.numerator / time_base.denominator)
        duration = float(times[-1]) + float(last_span)
        return cls(times, pts, time_base, duration, entries, by_bytes, counted)

    def __len__(self) -> int:
        return len(self.pts)

    @cached_property
    def stamps(self) -> np.ndarray:
        """[N] int64, what decoded pictures are told apart by."""
        return np.arange(len(self.pts)) if self.counted else self.pts

    def seeks(self, frame: int) -> tuple[Seek, ...]:
        """Where to start decoding for `frame`, the nearest first, then ever farther ones; the first
        frame, where the file starts, is not among them.
        """
        nearest = int(np.searchsorted(self.entries[:, 0], frame, side="right")) - 1
        tries = [nearest + 1 - 2**power for power in range(_TRIES)]
        found = [self.entries[place].tolist() for place in tries if place >= 0]
        return tuple((int(self.stamps[number]), *where) for number, *where in found if number)
