"""Clips whose every picture tells its own number, after any lossy coding, scaling or recolouring.

The upper half is a slope over which a bar moves, so that encoders find motion and make B-frames
(in noise they make none). The lower half is the number in large black and white blocks: 8 columns,
the lowest bit on the left, in four rows: the low byte, its complement, the high byte, its
complement. A block that does not differ from its complement belongs to no picture that was written.
"""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.video.stream import VideoStream
from ffmpeg import run_ffmpeg

SIZE = (128, 96)  # blocks of 16 x 12 pixels
_COLUMNS, _ROWS = 8, 4
# Less than this between a block and its complement, of 255: two pictures mixed, or none at all.
_CLEAR = 64


def picture(number: int, size: tuple[int, int] = SIZE) -> np.ndarray:
    """The picture of a number of 0 to 65535, `[height, width, 3]` uint8; `size` is (width,
    height).
    """
    width, height = size
    rgb = np.empty((height, width, 3), np.uint8)
    rgb[..., 0] = np.linspace(40, 200, width)[None]
    rgb[..., 1] = np.linspace(40, 200, height)[:, None]
    rgb[..., 2] = 90
    bar = (np.arange(width) - number * 3) % width < width // 6
    rgb[height // 8 : height * 3 // 8, bar] = (230, 220, 30)
    rows = np.arange(height // 2) * _ROWS // (height // 2)
    columns = np.arange(width) * _COLUMNS // width
    rgb[height - height // 2 :] = np.where(_blocks(number)[rows][:, columns], 235, 20)[..., None]
    return rgb


def number(rgb: np.ndarray) -> int | None:
    """The number in a picture of any size; None where it shows none, or a mixture of several."""
    grey = np.asarray(rgb).reshape(*rgb.shape[:2], -1).mean(-1)
    height, width = grey.shape
    means = np.empty((_ROWS, _COLUMNS))
    for row, column in np.ndindex(means.shape):
        # Its middle half: edges are blurred by coding and scaling.
        top, left = height / 2 * (1 + (row + 0.25) / _ROWS), width * (column + 0.25) / _COLUMNS
        bottom, right = top + height / 4 / _ROWS, left + width / 2 / _COLUMNS
        means[row, column] = grey[round(top) : round(bottom), round(left) : round(right)].mean()
    differ = means[0::2] - means[1::2]
    if np.abs(differ).min() < _CLEAR:
        return None
    return int(np.packbits(differ.ravel() > 0, bitorder="little").view("<u2")[0])


def _blocks(number: int) -> np.ndarray:
    """Which of the blocks are white, `[4, 8]` bool."""
    low, high = np.unpackbits(np.array([number], "<u2").view(np.uint8), bitorder="little").reshape(
        2, _COLUMNS
    )
    return np.stack([low, 1 - low, high, 1 - high]) > 0


def write(
    path: Path,
    count: int = 120,
    codec: str = "libx264",
    *,
    first: int = 0,
    size: tuple[int, int] = SIZE,
    fps: Fraction | int = 25,
    pix_fmt: str = "yuv420p",
    options: dict[str, str] | None = None,
    container_format: str | None = None,
    container_options: dict[str, str] | None = None,
    sample_aspect: Fraction | None = None,
) -> Path:
    """Write the pictures `first` to `first + count - 1` with PyAV.

    Args:
        options: of the encoder, such as {"bf": "3"}.
        container_format: FFmpeg's name of it; without, the path's ending tells.
        container_options: of the muxer, such as {"movflags": "faststart"}.
        sample_aspect: how wide a pixel is, of a height of 1.
    """
    given = dict(options or {})
    if codec == "libx264":  # its arithmetic for some CPUs gives other bytes each time
        own = given.get("x264-params")
        given["x264-params"] = f"{own}:cpu-independent=1" if own else "cpu-independent=1"
    with av.open(
        str(path), "w", format=container_format, options=dict(container_options or {})
    ) as container:
        stream = container.add_stream(codec, rate=Fraction(fps), options=given)
        assert isinstance(stream, VideoStream)
        stream.width, stream.height = size
        stream.pix_fmt = pix_fmt
        if sample_aspect is not None:
            stream.codec_context.sample_aspect_ratio = sample_aspect
        stream.time_base = stream.codec_context.time_base = 1 / Fraction(fps)
        for place in range(count):
            frame = av.VideoFrame.from_ndarray(picture(first + place, size), format="rgb24")
            frame.pts, frame.time_base = place, 1 / Fraction(fps)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def write_by_ffmpeg(
    path: Path,
    count: int = 120,
    *options: str,
    first: int = 0,
    size: tuple[int, int] = SIZE,
    fps: Fraction | int = 25,
) -> Path:
    """The same by the ffmpeg program: `options` stand before the output's name."""
    pixels = b"".join(picture(first + place, size).tobytes() for place in range(count))
    shape = ["-s", f"{size[0]}x{size[1]}", "-r", str(Fraction(fps))]
    raw = ["-f", "rawvideo", "-pix_fmt", "rgb24", *shape, "-i", "-"]
    run_ffmpeg(*raw, *options, f"file:{path}", stdin=pixels)
    return path
