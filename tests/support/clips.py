"""Small real videos whose frames can be told apart."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.video.stream import VideoStream

MILLISECOND = Fraction(1, 1000)


def picture(number: int, width: int, height: int) -> np.ndarray:
    """A picture that tells frames apart: slopes, a moving square, and the number in stripes."""
    rgb = np.zeros((height, width, 3), np.uint8)
    rgb[..., 0] = np.linspace(0, 255, width)[None]
    rgb[..., 1] = np.linspace(0, 255, height)[:, None]
    left = number * 5 % (width - 12)
    rgb[height // 4 : height // 2, left : left + 12, 2] = 255
    for bit in range(8):
        rgb[-8:, bit * 6 : bit * 6 + 6] = 255 * (number >> bit & 1)
    return rgb


def write_video(
    path: Path,
    times: list[int],
    time_base: Fraction,
    *,
    codec: str = "libx264",
    size: tuple[int, int] = (96, 64),
    options: dict[str, str] | None = None,
    pix_fmt: str = "yuv420p",
    rotation: int | None = None,
    rate: int = 30,
) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate, options=options or {})
        assert isinstance(stream, VideoStream)
        stream.width, stream.height = size
        stream.pix_fmt = pix_fmt
        stream.time_base = stream.codec_context.time_base = time_base
        if rotation is not None:
            stream.set_display_rotation(rotation)
        for number, time in enumerate(times):
            frame = av.VideoFrame.from_ndarray(picture(number, *size), format="rgb24")
            frame.pts, frame.time_base = time, time_base
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
