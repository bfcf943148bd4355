"""What is kept under a file's content was decoded from that content: a file that is exchanged at
any moment, however well it is disguised, is refused or not kept.

An exchange that leaves the size and the time of last modification as they were.
"""

import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from bare_media import bare_media
from clips import write_video
from PIL import Image

from spava_app.engine.media import FrameSource, Media
from spava_app.engine.multimodal.embedding_cache import EmbeddingCache, Kind
from spava_app.engine.multimodal.fingerprint import file_content, on_this_machine, with_content
from spava_app.engine.video import shared_ring as ring
from spava_app.engine.video.decode import decode_frames
from spava_app.engine.video.frames import Frames
from spava_app.engine.video.probe import probe
from spava_app.errors import VideoError

HIDDEN = 4
Exchange = Callable[[Path], None]


def disguised(path: Path, before: os.stat_result) -> None:
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def overwrite(path: Path) -> None:
    """The same file with other bytes."""
    before, data = path.stat(), bytearray(path.read_bytes())
    data[-1] ^= 1
    with path.open("r+b") as file:
        file.write(data)
    disguised(path, before)


def rename(path: Path) -> None:
    """Another file under its name."""
    before, data = path.stat(), bytearray(path.read_bytes())
    data[-1] ^= 1
    other = path.with_name("other.part")
    other.write_bytes(data)
    disguised(other, before)
    other.rename(path)


EXCHANGES = pytest.mark.parametrize("exchange", [overwrite, rename])


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    write_video(tmp_path / "clip.mp4", list(range(40)), Fraction(1, 30), size=(320, 240))
    return tmp_path / "clip.mp4"


@pytest.fixture
def pictures(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / f"{number}.png" for number in range(40)]
    for number, path in enumerate(paths):
        Image.new("RGB", (32, 24), (6 * number, 0, 0)).save(path)
    return paths


def medium(source: FrameSource) -> Media:
    units = len(source)
    return bare_media((units, 1, 1), 1, range(units), path=source.name, source=source)


def is_kept(media: Media) -> bool:
    """Whether embeddings of this medium that are made now are there for the next question."""
    cache = EmbeddingCache(Kind("m", HIDDEN, torch.float32, "cpu"), memory_bytes=10**6)
    with cache.entry(media) as entry:
        entry.write(range(media.num_units), torch.zeros(media.num_units, HIDDEN))
        return all(rows is not None for _, rows in entry.read(range(media.num_units)))


@EXCHANGES
def test_a_video_between_the_look_and_the_decoder(exchange: Exchange, clip: Path) -> None:
    source = probe(clip).source([0, 9, 39])
    assert len(list(decode_frames(source))) == 3
    exchange(clip)
    with pytest.raises(VideoError, match="was changed while it was looked at"):
        list(decode_frames(source))


@EXCHANGES
def test_a_picture_between_the_look_and_the_decoder(
    exchange: Exchange, pictures: list[Path]
) -> None:
    source = Frames(pictures).source(range(40), None)
    assert [group.pictures[0, 0, 0, 0] for group in decode_frames(source)] == [*range(0, 240, 6)]
    exchange(pictures[30])
    with pytest.raises(VideoError, match=r"30\.png.* was changed while it was looked at"):
        list(decode_frames(source))


def test_a_video_that_is_written_while_it_is_decoded(
    clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ring, "PREFETCH_BYTES", 1)
    frames = decode_frames(probe(clip).source(range(40)))
    next(frames)
    overwrite(clip)
    with pytest.raises(VideoError, match="was changed while it was looked at"):
        list(frames)


@pytest.mark.parametrize("change", [rename, Path.unlink])
def test_a_video_that_is_removed_while_it_is_decoded(
    change: Exchange, clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was read as it was; but what it was can be looked up nowhere."""
    monkeypatch.setattr(ring, "PREFETCH_BYTES", 1)
    media = with_content(medium(probe(clip).source(range(40))))
    whole = [group.pictures.copy() for group in decode_frames(media.source)]
    assert is_kept(media)
    frames = decode_frames(media.source)
    first = next(frames).pictures.copy()
    change(clip)
    rest = [group.pictures.copy() for group in frames]
    np.testing.assert_array_equal([first, *rest], whole)
    assert not is_kept(media)


@EXCHANGES
def test_a_video_between_the_decoder_and_keeping(exchange: Exchange, clip: Path) -> None:
    media = with_content(medium(probe(clip).source(range(40))))
    assert media.content == file_content(clip)[0] != ""
    exchange(clip)
    assert not is_kept(media)


@EXCHANGES
def test_a_picture_between_the_decoder_and_keeping(
    exchange: Exchange, pictures: list[Path]
) -> None:
    media = with_content(medium(Frames(pictures).source(range(40), None)))
    assert is_kept(media)
    exchange(pictures[17])
    assert not is_kept(media)


@EXCHANGES
@pytest.mark.parametrize("several", [True, False])
def test_between_the_look_and_the_hash(
    exchange: Exchange, several: bool, clip: Path, pictures: list[Path]
) -> None:
    chosen = Frames(pictures).source(range(3), None) if several else probe(clip).source([0])
    exchange(pictures[1] if several else clip)
    assert with_content(medium(chosen)).content == ""


def test_a_pipe_in_place_of_a_file_is_not_waited_for(clip: Path) -> None:
    source = probe(clip).source([0])
    clip.unlink()
    os.mkfifo(clip)
    assert with_content(medium(source)).content == ""
    with pytest.raises(VideoError, match="not a regular file"):
        list(decode_frames(source))


def test_copies_on_several_machines(clip: Path) -> None:
    """There a file is the same when its bytes and its time of last modification are."""
    source, data = probe(clip).source([0, 39]), clip.with_name("copy")
    shutil.copy2(clip, data)
    data.rename(clip)
    with pytest.raises(VideoError, match="was changed"):
        list(decode_frames(source.on_this_machine()))
    told = FrameSource.from_dict(source.portable().to_dict())
    here = told.on_this_machine()
    assert len(list(decode_frames(here))) == 2
    assert is_kept(with_content(medium(here)))
    clip.write_bytes(clip.read_bytes() + b"x")
    for late in (here, told.on_this_machine()):
        with pytest.raises(VideoError, match="was changed"):
            list(decode_frames(late))


def test_a_copy_that_holds_something_else(clip: Path, tmp_path: Path) -> None:
    """With the size and the time of the file that was hashed: kept under what it holds itself."""
    asked = with_content(medium(probe(clip).source([0, 39])))
    told = replace(asked, source=FrameSource.from_dict(asked.source.portable().to_dict()))
    assert on_this_machine(told).content == asked.content != ""
    overwrite(clip)
    here = on_this_machine(told)
    assert here.content == file_content(clip)[0] != asked.content
    assert is_kept(here)
    clip.write_bytes(clip.read_bytes() + b"x")  # no copy: refused when it is decoded
    with pytest.raises(VideoError, match="was changed"):
        list(decode_frames(on_this_machine(told).source))
