"""Every frame of every format is the one that was written: its number is read from its pixels."""

from importlib.util import find_spec

import av
import numpy as np
import pytest
from av.video.frame import PictureType
from ffmpeg import needs_ffmpeg, shown_by_ffmpeg
from format_table import CELLS, RAW, Row, make, measure
from moving_bar import SIZE, number, picture, write, write_by_ffmpeg
from PIL import Image


@pytest.mark.parametrize("shape", [SIZE, (97, 61), (320, 180), (64, 48)])
def test_a_number_is_read_back_from_its_picture(shape):
    for written in (0, 1, 2, 119, 255, 256, 1000, 65535):
        rgb = picture(written, shape)
        assert number(rgb) == written
        image = Image.fromarray(rgb)
        assert number(np.asarray(image.convert("L"))) == written
        assert number(np.asarray(image.resize((50, 70)))) == written
        assert number(255 - (255 - rgb) // 2) == written  # washed out


def test_what_was_not_written_has_no_number():
    assert number(np.full((96, 128, 3), 128, np.uint8)) is None
    assert number(np.zeros((96, 128, 3), np.uint8)) is None
    mixed = picture(3).astype(int) + picture(4)
    assert number((mixed // 2).astype(np.uint8)) is None


def test_encoders_make_b_frames_of_it(tmp_path):
    path = write(tmp_path / "clip.mp4", options={"bf": "3", "crf": "35"})
    with av.open(str(path)) as container:
        pictures = list(container.decode(video=0))
    assert [number(p.to_ndarray(format="rgb24")) for p in pictures] == list(range(120))
    assert sum(p.pict_type == PictureType.B for p in pictures) > 40


@needs_ffmpeg
def test_ffmpeg_writes_and_shows_the_same(tmp_path):
    path = write_by_ffmpeg(tmp_path / "clip.avi", 30, "-c:v", "libx264", "-bf", "3", first=500)
    assert list(map(number, shown_by_ffmpeg(path, SIZE))) == list(range(500, 530))


# One of each way in which containers keep times, and of each in which codecs reorder.
QUICK = [
    *("mp4/h264_open", "mp4/hevc_b", "fragments.mp4/h264_b", "mov/prores", "3gp/mpeg4_b"),
    *("mkv/h264_pyramid", "mkv/hevc_open", "webm/vp9", "nut/h264_b"),
    *("avi/h264_b", "avi/mpeg4_b", "avi/mpeg4_packed", "asf/h264_pyramid", "asf/mpeg2_b"),
    *("mxf/h264_open", "mxf/mpeg2_b", "flv/h264_b", "wmv/wmv2", "rm/rv20", "ogv/theora"),
    *("ts/h264_b", "ts/mpeg4_b", "m2ts/hevc_b", "mpg/mpeg2_b", "vob/h264_b", "wtv/mpeg2"),
    *("ivf/vp8", "ivf/av1", "gif/gif", "h264/h264_b", "m1v/mpeg1"),
]


def right(row: Row, cell: str) -> None:
    """Every picture by its number and in its time, none with a warning; or no picture, and why."""
    assert row.right or (row.refused and cell.split("/")[0] in RAW), row


@needs_ffmpeg
@pytest.mark.parametrize("cell", QUICK)
def test_every_frame_and_every_13th(cell, tmp_path):
    right(measure(make(tmp_path, cell, 60), 60), cell)


@needs_ffmpeg
@pytest.mark.slow
@pytest.mark.parametrize("cell", [cell for cell in CELLS if cell not in QUICK])
def test_every_frame_and_every_13th_of_the_whole_table(cell, tmp_path):
    right(measure(make(tmp_path, cell)), cell)


@needs_ffmpeg
@pytest.mark.parametrize("decoder", ["decord", "torchcodec"])
@pytest.mark.parametrize("cell", ["mp4/h264", "mp4/h264_b", "mkv/hevc_b", "webm/vp9"])
def test_other_decoders(decoder, cell, tmp_path):
    """Of files they are known to read right; decord shows other pictures of many more."""
    if find_spec(decoder) is None:
        pytest.skip(f"{decoder} is not installed")
    row = measure(make(tmp_path, cell), decoder=decoder)
    if "cannot be loaded" in row.said:
        pytest.skip(f"{decoder} {row.said}")
    right(row, cell)


@needs_ffmpeg
def test_the_table_sees_what_is_wrong(tmp_path):
    """Pictures of another recording, missing ones and surplus ones."""
    path = make(tmp_path, "mp4/h264", 50)
    assert measure(path, 50).right
    assert measure(path, 60).wrong == 10
    assert measure(path, 40).wrong == 10
    row = measure(write(tmp_path / "other.mp4", 50, first=1), 50)
    assert (row.wrong, row.sparse_wrong, row.damaged, row.right) == (50, 4, 0, False)
    row = measure(write(tmp_path / "slow.mp4", 50, fps=20), 50)
    assert row.right
    assert row.said == "times as ffmpeg has them"
