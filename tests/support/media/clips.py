"""Small real videos whose frames can be told apart."""

import math
import struct
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
    tag: str | None = None,
) -> None:
    """Write a frame per time; `tag` becomes the file's title and the name of its stream."""
    given = dict(options or {})
    if codec == "libx264":  # its arithmetic for some CPUs gives other bytes each time
        own = given.get("x264-params")
        given["x264-params"] = f"{own}:cpu-independent=1" if own else "cpu-independent=1"
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate, options=given)
        assert isinstance(stream, VideoStream)
        if tag is not None:
            container.metadata["title"] = tag
            stream.metadata["title"] = stream.metadata["handler_name"] = tag
        stream.width, stream.height = size
        stream.pix_fmt = pix_fmt
        stream.time_base = stream.codec_context.time_base = time_base
        for number, time in enumerate(times):
            frame = av.VideoFrame.from_ndarray(picture(number, *size), format="rgb24")
            frame.pts, frame.time_base = time, time_base
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    if rotation is not None:
        _rotate(path, rotation)


def _rotate(path: Path, degrees: int) -> None:
    """Write the display matrix of an mp4 file, since not every PyAV can."""
    data = bytearray(path.read_bytes())
    # Behind the header's name, version, five fields, and 16 bytes of others; 16.16 fixed point.
    cos, sin = (round(f(math.radians(degrees))) * 2**16 for f in (math.cos, math.sin))
    struct.pack_into(">iiiii", data, data.index(b"tkhd") + 44, cos, -sin, 0, sin, cos)
    path.write_bytes(data)
