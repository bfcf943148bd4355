"""The same cards in files as other programs write them: all are read."""

import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import av
import pytest
from ffmpeg import needs_ffmpeg, run_ffmpeg

from spava_app import VideoQA
from spava_app.engine.synthetic.cards import CardScene
from spava_app.errors import VideoError

pytestmark = [needs_ffmpeg, pytest.mark.slow]

X264 = ["-c:v", "libx264", "-bf", "3"]


@pytest.fixture(scope="module")
def qa() -> Iterator[VideoQA]:
    with VideoQA(gpus=0, cpu_ranks=1) as qa:
        yield qa


def converted(name: str, *options: str) -> Callable[[Path, Path], Path]:
    def make(cards: Path, folder: Path) -> Path:
        run_ffmpeg("-i", cards, *options, folder / name)
        return folder / name

    return make


def copied_twice(first: str, second: str) -> Callable[[Path, Path], Path]:
    """As one file, then without coding as another."""

    def make(cards: Path, folder: Path) -> Path:
        run_ffmpeg("-i", cards, *X264, folder / first)
        run_ffmpeg("-i", folder / first, "-c", "copy", folder / second)
        return folder / second

    return make


def put_together(cards: Path, folder: Path) -> Path:
    for name, *part in (("1.ts", "-t", "12"), ("2.ts", "-ss", "12")):
        run_ffmpeg(*part, "-i", cards, *X264, folder / name)
    path = folder / "both.ts"
    path.write_bytes((folder / "1.ts").read_bytes() + (folder / "2.ts").read_bytes())
    return path


def behind_a_thumbnail(cards: Path, folder: Path) -> Path:
    run_ffmpeg("-i", cards, "-frames:v", "1", "-s", "64x64", folder / "small.mp4")
    path = folder / "thumbnail.mp4"
    run_ffmpeg(
        *("-i", folder / "small.mp4", "-i", cards, "-map", "0", "-map", "1", "-c", "copy"),
        *("-disposition:v:0", "0", "-disposition:v:1", "default", path),
    )
    return path


def behind_a_small_one(cards: Path, folder: Path) -> Path:
    run_ffmpeg("-i", cards, "-s", "64x64", *X264, folder / "small.mp4")
    path = folder / "small.mkv"
    run_ffmpeg(
        *("-i", folder / "small.mp4", "-i", cards, "-map", "0", "-map", "1", "-c", "copy"),
        *("-disposition:v:0", "0", "-disposition:v:1", "default", path),
    )
    return path


def whose_last_picture_stays(cards: Path, folder: Path) -> Path:
    with av.open(str(cards)) as old, av.open(str(folder / "stays.mp4"), "w") as new:
        source = old.streams.video[0]
        stream = new.add_stream_from_template(source)
        packets = [packet for packet in old.demux(source) if packet.size]
        last = max(packets, key=lambda packet: packet.pts or 0)
        last.duration = int(30 / (source.time_base or 1))
        for packet in packets:
            packet.stream = stream
            new.mux(packet)
    run_ffmpeg("-i", folder / "stays.mp4", "-c", "copy", folder / "stays.mkv")
    return folder / "stays.mkv"


def with_chapters_that_go_on(cards: Path, folder: Path) -> Path:
    chapters = folder / "chapters.txt"
    lines = "".join(
        f"[CHAPTER]\nTIMEBASE=1/1\nSTART={start}\nEND={start + 60}\ntitle=part {start}\n"
        for start in (0, 60)
    )
    chapters.write_text(";FFMETADATA1\n" + lines)
    path = folder / "chapters.mp4"
    run_ffmpeg("-i", cards, "-i", chapters, "-map_chapters", "1", "-c", "copy", path)
    return path


def mirrored(cards: Path, folder: Path) -> Path:
    path = folder / "mirrored.mp4"
    run_ffmpeg("-i", cards, "-vf", "hflip", *X264, path)
    data = bytearray(path.read_bytes())
    struct.pack_into(">iiiii", data, data.index(b"tkhd") + 44, -(1 << 16), 0, 0, 0, 1 << 16)
    path.write_bytes(data)
    return path


FILES = {
    "avi with B-frames": converted("a.avi", *X264),
    "avi, mpeg4": converted("m.avi", "-c:v", "mpeg4", "-bf", "2", "-q:v", "2"),
    "raw": converted("x.h264", *X264, "-f", "h264"),
    "raw, then mp4": copied_twice("x.h264", "x.mp4"),
    "wmv": converted("a.wmv", *X264),
    "vob": converted("a.vob", "-c:v", "mpeg2video", "-q:v", "2", "-bf", "2", "-r", "25"),
    "recordings put together": put_together,
    "behind a thumbnail": behind_a_thumbnail,
    "behind a small one": behind_a_small_one,
    "whose last picture stays": whose_last_picture_stays,
    "with chapters that go on": with_chapters_that_go_on,
    "mirrored": mirrored,
    "pixels that are not square": converted("sar.mp4", "-vf", "scale=112:224,setsar=2/1", *X264),
    "animated WebP": converted("a.webp", "-r", "2", "-lossless", "1", "-loop", "0"),
    "animated PNG": converted("a.png", "-r", "2", "-f", "apng"),
}


@pytest.mark.parametrize("name", FILES)
def test_all_cards(name: str, qa: VideoQA, scene: CardScene, video: Path, tmp_path: Path) -> None:
    path = FILES[name](video, tmp_path)
    answers = [qa.ask(path, card.question, fps=1) for card in scene.cards]
    assert [answer.text for answer in answers] == [card.answer for card in scene.cards]
    told = {note for answer in answers for note in answer.warnings if "embedded" not in note}
    several = name.startswith("behind")
    assert len(told) == several
    assert all("2 video streams: stream 1" in note for note in told)


@pytest.mark.parametrize(
    ("name", "how"),
    [
        ("half.flv", X264),
        ("half.mxf", ["-c:v", "mpeg2video", "-q:v", "2", "-r", "25"]),
        ("half.ivf", ["-c:v", "libvpx", "-b:v", "1M", "-deadline", "realtime"]),
        ("half.mkv", X264),
        ("half.avi", X264),
        ("half.wmv", X264),
    ],
)
def test_half_a_file(name: str, how: list[str], qa: VideoQA, video: Path, tmp_path: Path) -> None:
    path = converted(name, *how)(video, tmp_path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(
        VideoError, match=r"it is cut short, [\d.]+ [KM]iB of [\d.]+ [KM]iB are there"
    ):
        qa.plan(path, "What?")
