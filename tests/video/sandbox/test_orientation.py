"""Pictures are shown upright, as their display matrix and the shape of their pixels mean it."""

import struct
from fractions import Fraction
from io import BytesIO
from itertools import product
from pathlib import Path

import av
import numpy as np
import pytest
from clips import write_video
from ffmpeg import needs_ffmpeg, run_ffmpeg
from moving_bar import number, picture, write
from PIL import Image

from spava_app.engine.video.decode import decode_frames
from spava_app.engine.video.probe import VideoInfo, probe
from spava_app.engine.video.sandbox.container.orientation import _BY_QUARTERS, upright

SIZE = (96, 64)  # width, height
WAYS = [
    (a, b, c, d)
    for a, b, c, d in product((-1, 0, 1), repeat=4)
    if abs(a) + abs(b) == abs(c) + abs(d) == 1 and abs(a * d - b * c) == 1
]


def turned(path: Path, matrix: tuple[int, int, int, int]) -> None:
    """Write the display matrix of an mp4: (x, y) is shown at (a x + c y, b x + d y)."""
    data = bytearray(path.read_bytes())
    a, b, c, d = (value << 16 for value in matrix)
    struct.pack_into(">iiiii", data, data.index(b"tkhd") + 44, a, b, 0, c, d)
    path.write_bytes(data)


def first_picture(info: VideoInfo) -> np.ndarray:
    for group in decode_frames(info.source([0])):
        return group.pictures[0].copy()
    raise AssertionError("no picture")


def stored(path: Path) -> np.ndarray:
    with av.open(str(path)) as container:
        return next(container.decode(video=0)).to_ndarray(format="rgb24")


def shown(pixels: np.ndarray, matrix: tuple[int, int, int, int]) -> np.ndarray:
    """Each pixel put where the matrix says, and all of it moved to where no place is negative."""
    a, b, c, d = matrix
    y, x = np.indices(pixels.shape[:2])
    right, down = a * x + c * y, b * x + d * y
    right, down = right - right.min(), down - down.min()
    out = np.empty((down.max() + 1, right.max() + 1, 3), np.uint8)
    out[down, right] = pixels
    return out


def test_there_are_eight_ways() -> None:
    assert len(WAYS) == len(set(WAYS)) == 8


@pytest.mark.parametrize("matrix", WAYS, ids=str)
def test_all_eight_ways(matrix: tuple[int, int, int, int], tmp_path: Path) -> None:
    path = tmp_path / "turned.mp4"
    write_video(path, list(range(4)), Fraction(1, 30), size=SIZE)
    turned(path, matrix)
    info = probe(path)
    expected = shown(stored(path), matrix)
    assert (info.height, info.width) == expected.shape[:2]
    np.testing.assert_array_equal(first_picture(info), expected)


@needs_ffmpeg
@pytest.mark.parametrize("matrix", WAYS, ids=str)
def test_as_ffmpeg_turns_them(matrix: tuple[int, int, int, int], tmp_path: Path) -> None:
    path = tmp_path / "turned.mp4"
    write_video(path, list(range(2)), Fraction(1, 30), size=SIZE)
    turned(path, matrix)
    raw = run_ffmpeg("-i", path, "-frames:v", "1", "-f", "rawvideo", "-pix_fmt", "rgb24", "-")
    info = probe(path)
    theirs = np.frombuffer(raw, np.uint8).reshape(info.height, info.width, 3)
    # Its colours are converted after turning, ours before.
    difference = np.abs(theirs.astype(int) - first_picture(info))
    assert difference.mean() < 3


@pytest.mark.parametrize(
    ("size", "aspect", "displayed"),
    [
        ((112, 224), Fraction(2), (224, 224)),
        ((180, 144), Fraction(16, 15), (192, 144)),  # a quarter of PAL, 4:3
        ((180, 120), Fraction(8, 9), (160, 120)),  # a quarter of NTSC, 4:3
        ((360, 270), Fraction(4, 3), (480, 270)),  # a quarter of HDV
        ((128, 96), Fraction(1), (128, 96)),
        ((128, 96), Fraction(1, 5000), (128, 96)),  # a mistake
    ],
)
@pytest.mark.parametrize("ending", ["mp4", "mkv", "avi"])
def test_pixels_that_are_not_square(
    size: tuple[int, int], aspect: Fraction, displayed: tuple[int, int], ending: str, tmp_path: Path
) -> None:
    path = tmp_path / f"wide.{ending}"
    write(path, 6, "mpeg4", size=size, sample_aspect=aspect)
    info = probe(path)
    assert (info.width, info.height) == displayed
    seen = first_picture(info)
    assert seen.shape == (displayed[1], displayed[0], 3)
    assert number(seen) == 0


def test_wide_pixels_that_are_turned(tmp_path: Path) -> None:
    """The side that is wider is the stored one."""
    path = tmp_path / "wide.mp4"
    write(path, 6, "mpeg4", size=(112, 224), sample_aspect=Fraction(3))
    turned(path, (0, 1, -1, 0))
    info = probe(path)
    assert (info.width, info.height) == (224, 336)
    assert number(np.rot90(first_picture(info), 1)) == 0


def test_quarter_turns_are_those_of_numpy() -> None:
    pixels = np.arange(24).reshape(2, 4, 3)
    for quarters, way in enumerate(_BY_QUARTERS):
        np.testing.assert_array_equal(upright(pixels, way), np.rot90(pixels, quarters))


@pytest.mark.parametrize("ending", ["avi", "mov", "mkv"])
def test_frames_that_carry_exif(ending: str, tmp_path: Path) -> None:
    """As cameras write motion JPEG; the library has no name for that beside a picture."""
    exif = Image.Exif()
    exif[0x010F] = "a camera"
    with av.open(str(tmp_path / f"clip.{ending}"), "w") as container:
        stream = container.add_stream("mjpeg", rate=25)
        stream.width, stream.height, stream.pix_fmt = 128, 96, "yuvj420p"
        for place in range(5):
            jpeg = BytesIO()
            Image.fromarray(picture(place)).save(jpeg, "JPEG", exif=exif, quality=90)
            packet = av.Packet(jpeg.getvalue())
            packet.stream, packet.is_keyframe = stream, True
            packet.pts = packet.dts = place
            packet.time_base = Fraction(1, 25)
            container.mux(packet)
    info = probe(tmp_path / f"clip.{ending}")
    shown = [number(group.pictures[0]) for group in decode_frames(info.source(range(5)))]
    assert shown == list(range(5))
