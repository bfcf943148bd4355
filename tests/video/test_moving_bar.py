"""Every frame of every format is the one that was written: its number is read from its pixels."""

import av
import numpy as np
import pytest
from av.video.frame import PictureType
from ffmpeg import needs_ffmpeg, shown_by_ffmpeg
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
