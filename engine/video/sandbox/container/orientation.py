"""How stored pictures are turned and mirrored to be shown: the eight ways a rectangle fits itself.

A way is a number of three bits: rows and columns change places, then rows are turned round, then
columns.
"""

from typing import Any

import numpy as np
from av.sidedata.sidedata import Type
from av.video.frame import VideoFrame

_TRANSPOSED, _ROWS, _COLUMNS = 1, 2, 4
# Turned counter-clockwise so many times.
_BY_QUARTERS = (0, _TRANSPOSED | _ROWS, _ROWS | _COLUMNS, _TRANSPOSED | _COLUMNS)


def orientation(picture: VideoFrame) -> int:
    """As the display matrix of a decoded picture says (ISO/IEC 14496-12, 6.2.2): the pixel at
    (x, y) is shown at (a x + c y, b x + d y). Angles between are taken for the nearest right one.
    """
    try:
        sides: Any = picture.side_data  # the library's annotations say that its keys are strings
        data = sides.get(Type.DISPLAYMATRIX)
    except (
        ValueError
    ):  # PyAV knows not all kinds of its own FFmpeg, such as Exif: the angle is left
        return _BY_QUARTERS[round(picture.rotation / 90) % 4]
    if data is None:
        return 0
    a, b, _, c, d, *_ = np.frombuffer(memoryview(data), np.int32).tolist()
    transposed = abs(b) + abs(c) > abs(a) + abs(d)
    across, down = (c, b) if transposed else (a, d)
    return _TRANSPOSED * transposed | _ROWS * (down < 0) | _COLUMNS * (across < 0)


def swaps_sides(way: int) -> bool:
    """Whether width and height change places."""
    return bool(way & _TRANSPOSED)


def upright(stored: np.ndarray, way: int) -> np.ndarray:
    """A view of `[height, width, ...]` pixels as they are shown."""
    if way & _TRANSPOSED:
        stored = stored.swapaxes(0, 1)
    return stored[:: -1 if way & _ROWS else 1, :: -1 if way & _COLUMNS else 1]
