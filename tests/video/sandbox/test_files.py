"""The decoder process gets its files open from who asks, one after the other and some ahead."""

import io
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from spava_app.engine.video.decode import decode_frames
from spava_app.engine.video.decoder_process import decoder_process, end_idle
from spava_app.engine.video.frames import Frames
from spava_app.engine.video.media_file import open_media
from spava_app.errors import VideoError

COUNT = 100  # more than the process may have open


@pytest.fixture
def pictures(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / f"{number}.tif" for number in range(COUNT)]
    for number, path in enumerate(paths):
        Image.new("RGB", (32, 24), (number, 2 * number, 0)).save(path)
    return paths


def shown(paths: list[Path]) -> list[int]:
    """The number in each picture, in groups of three."""
    groups = decode_frames(Frames(paths).source(range(len(paths)), None), group=3)
    return [int(number) for group in groups for number in group.pictures[:, 0, 0, 0].tolist()]


def pid() -> int:
    with decoder_process() as process:
        return process.process.pid


def test_more_than_may_be_open_at_once(pictures: list[Path]) -> None:
    assert shown(pictures) == [*range(COUNT)]
    again = [pictures[5]] * 40
    assert shown(again) == [5] * 40


@pytest.mark.parametrize("bad", [0, 7, COUNT - 1])
@pytest.mark.parametrize("fault", ["gone", "empty", "pipe", "no picture", "damaged"])
def test_what_was_asked_ahead_of_one_that_is_bad(
    fault: str, bad: int, pictures: list[Path], tmp_path: Path
) -> None:
    """Its error is told, and the process serves on, without a descriptor more."""
    good = [shutil.copy(pictures[n], tmp_path / f"good-{n}.tif") for n in range(9)]
    assert shown(good) == [*range(9)]
    before, path = pid(), pictures[bad]
    held = len(os.listdir(f"/proc/{before}/fd")) if os.getuid() == 0 else 0
    source = Frames(pictures).source(range(COUNT), None)
    data = path.read_bytes()
    path.unlink()
    match fault:
        case "empty":
            path.touch()
        case "pipe":
            os.mkfifo(path)
        case "no picture":
            path.write_text("What a day it was.\n" * 100)
        case "damaged":
            path.write_bytes(data[: len(data) // 2])
    for look in (lambda: list(decode_frames(source)), lambda: shown(pictures)):
        with pytest.raises(VideoError) as caught:
            look()
        assert caught.value.value == str(path)
    assert shown(good) == [*range(9)]
    assert pid() == before
    left = (
        {n: os.readlink(f"/proc/{before}/fd/{n}") for n in os.listdir(f"/proc/{before}/fd")}
        if held
        else {}
    )
    assert len(left) == held, left


def test_places_of_one_descriptor_are_their_own(tmp_path: Path) -> None:
    data = np.random.default_rng(0).bytes(300_000)
    (tmp_path / "data").write_bytes(data)
    file = open_media(str(tmp_path / "data"))
    with file.open() as one, file.open() as other:
        assert one.read(100_000) == data[:100_000]
        assert other.seek(-5, os.SEEK_END) == len(data) - 5
        assert other.read() == data[-5:]
        assert other.seek(0) == 0
        assert one.read(10) == data[100_000:100_010]
        assert other.read(70_000) == data[:70_000]
        with pytest.raises(io.UnsupportedOperation):
            one.fileno()  # or a library would map the file
    assert os.lseek(file.descriptor, 0, os.SEEK_CUR) == 0
    file.close()
    file.close()


def test_too_many_open_files_of_who_asks(
    pictures: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    shown(pictures[:2])
    source = Frames(pictures[:2]).source([0, 1], None)

    def refuse(*_: object) -> int:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr("spava_app.engine.video.media_file.os.open", refuse)
    with pytest.raises(VideoError, match=r"cannot be opened \(Too many open files\)"):
        list(decode_frames(source))


@pytest.fixture(autouse=True)
def none_kept() -> None:
    end_idle()
