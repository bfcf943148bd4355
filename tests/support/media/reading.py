"""What the decoder process makes of a file: what is there, and its pictures."""

from pathlib import Path

import numpy as np

from spava_app.engine.video.decode import decode_frames
from spava_app.engine.video.probe import PictureInfo, VideoInfo, look_at


def read_still(path: Path) -> np.ndarray:
    """A picture file, `[h, w, 3]` uint8."""
    info = look_at(path)
    assert isinstance(info, PictureInfo)
    [group] = decode_frames(info.source())
    assert group.pictures.shape[1:3] == info.shape
    return group.pictures[0].copy()


def read_moving(path: Path) -> tuple[VideoInfo, np.ndarray]:
    """A file of several pictures, and all of them, `[N, h, w, 3]` uint8."""
    info = look_at(path)
    assert isinstance(info, VideoInfo)
    groups = decode_frames(info.source(range(info.num_frames)))
    return info, np.concatenate([group.pictures.copy() for group in groups])
