"""Videos that are no video files: a folder or a list of pictures, or an array.

N = frames, H, W = height and width.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
from torch import Tensor

from spava_app.engine.media import FrameSource
from spava_app.engine.video.array_files import ArrayFiles
from spava_app.engine.video.frame_index import FrameIndex
from spava_app.engine.video.probe import VideoInfo, picture_files
from spava_app.errors import InvalidInput, VideoError, plain_number

_FASTEST = 1000.0


@dataclass(frozen=True, eq=False)
class Frames:
    """The frames of one video, in the order they are shown.

    Args:
        pictures: paths of picture files, or uint8 RGB frames as an array or tensor `[N, H, W, 3]`
            or `[N, 3, H, W]`; all of one size.
        fps: how many make a second, so that times mean something; by default one each second.

    Raises:
        InvalidInput: something else, or none.
    """

    pictures: Sequence[str | Path] | np.ndarray | Tensor
    fps: float = 1.0

    def __post_init__(self) -> None:
        rate = plain_number(self.fps)
        if rate is None or not 0 < rate <= _FASTEST:
            raise InvalidInput("fps", self.fps, f"give frames per second, up to {_FASTEST:.0f}")
        object.__setattr__(self, "fps", rate)
        if isinstance(self.pictures, np.ndarray | Tensor):
            _check_array(self.pictures)
        elif (
            isinstance(self.pictures, str)
            or not isinstance(self.pictures, Sequence)
            or not self.pictures
            or not all(isinstance(path, str | Path) and path for path in self.pictures)
        ):
            fix = "give the paths of pictures, or uint8 frames [N, height, width, 3]"
            raise InvalidInput("pictures", self.pictures, fix)

    def info(self) -> VideoInfo:
        """Its times, for sampling."""
        return _timed(len(self.pictures), self.fps)

    def shape(self) -> tuple[int, int]:
        """(height, width) of the first frame.

        Raises:
            VideoError: its file cannot be read.
        """
        pictures = self.pictures
        if isinstance(pictures, np.ndarray | Tensor):
            channels_last = pictures.shape[3] == 3
            height, width = pictures.shape[1:3] if channels_last else pictures.shape[2:4]
            return int(height), int(width)
        return picture_files([pictures[0]])[0].shape

    def source(self, frames: Sequence[int], arrays: ArrayFiles | None) -> FrameSource:
        """What it takes to read these frames.

        Args:
            arrays: where an array's frames are written, for the ranks to read; to be kept for as
                long as they do. Picture files need none.

        Raises:
            VideoError: a picture cannot be read, or their sizes differ.
            InvalidInput: there is no room for an array's frames.
        """
        if isinstance(self.pictures, np.ndarray | Tensor):
            assert arrays is not None
            return arrays.source(self.pictures, frames)
        given = [self.pictures[frame] for frame in frames]
        files = picture_files(given)
        for name, file in zip(given, files, strict=True):
            if file.shape != files[0].shape:
                height, width = files[0].shape
                fix = f"all pictures of a video must be {width}x{height} pixels like the first"
                raise VideoError("video", str(name), f"{fix}; resize it")
        paths = tuple(file.path for file in files)
        stamps = tuple(file.stamp for file in files)
        rows = tuple(range(len(files)))
        return FrameSource("pictures", paths, stamps, files[0].shape, rows)


def natural_order(names: Sequence[str]) -> list[str]:
    """Sorted as people number files: `frame2.png` before `frame10.png`."""

    def key(name: str) -> list[tuple[int, int, str]]:
        parts = re.split(r"([0-9]+)", name.casefold())
        return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in parts]

    return sorted(names, key=lambda name: (key(name), name))


def _timed(count: int, fps: float) -> VideoInfo:
    base = 1 / Fraction(fps).limit_denominator(10**6)
    nowhere = np.empty((0, 4), np.int64)
    index = FrameIndex.from_pts(np.arange(count), nowhere, base, base)
    return VideoInfo("", 0, 0, index.duration, fps, "frames", index)


def _check_array(frames: np.ndarray | Tensor) -> None:
    shape = tuple(frames.shape)
    right = len(shape) == 4 and 3 in (shape[1], shape[3]) and 0 not in shape
    if not right or str(frames.dtype).removeprefix("torch.") != "uint8":
        value = (shape, str(frames.dtype))
        raise InvalidInput("video", value, "give uint8 frames, [N, height, width, 3]")
