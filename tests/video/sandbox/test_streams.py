"""Which of several video streams is looked at: the one that ffmpeg would pick."""

from pathlib import Path

import av
import numpy as np
import pytest
from av.stream import Disposition
from ffmpeg import needs_ffmpeg, run_ffmpeg
from moving_bar import SIZE, number, picture

from spava_app.engine.video.decode import decode_frames
from spava_app.engine.video.probe import VideoInfo, probe

SMALL, LARGE = (64, 48), (192, 144)


def write_streams(
    path: Path, *streams: tuple[tuple[int, int], int, int, Disposition | None]
) -> Path:
    """Streams of a size, with so many frames, numbered from a number, of a disposition."""
    with av.open(str(path), "w") as container:
        made = []
        for size, count, first, disposition in streams:
            stream = container.add_stream("libx264", rate=25, options={"bf": "0"})
            stream.width, stream.height = size
            stream.pix_fmt = "yuv420p"
            if disposition is not None:
                stream.disposition = disposition
            made.append((stream, size, count, first))
        for place in range(max(count for *_, count, _ in made)):
            for stream, size, count, first in made:
                if place < count:
                    frame = av.VideoFrame.from_ndarray(picture(first + place, size))
                    frame.pts = place
                    container.mux(stream.encode(frame))
        for stream, *_ in made:
            container.mux(stream.encode())
    return path


def numbers(info: VideoInfo) -> list[int | None]:
    groups = decode_frames(info.source(list(range(info.num_frames))))
    return [number(group.pictures[0]) for group in groups]


DEFAULT, NONE = Disposition.default, Disposition(0)
CASES = [
    pytest.param([(SIZE, 1, 500, NONE), (SIZE, 20, 0, NONE)], 1, id="a thumbnail comes first"),
    pytest.param([(LARGE, 1, 500, DEFAULT), (SIZE, 20, 0, NONE)], 1, id="a large thumbnail"),
    pytest.param([(SIZE, 20, 500, NONE), (SIZE, 20, 0, DEFAULT)], 1, id="the default"),
    pytest.param([(SMALL, 20, 500, DEFAULT), (LARGE, 20, 0, DEFAULT)], 1, id="the largest"),
    pytest.param([(LARGE, 20, 500, NONE), (SMALL, 20, 0, DEFAULT)], 1, id="default before size"),
    pytest.param([(SIZE, 20, 0, DEFAULT), (SIZE, 20, 500, DEFAULT)], 0, id="of equals the first"),
]


@pytest.mark.parametrize(("streams", "chosen"), CASES)
@pytest.mark.parametrize("ending", ["mp4", "mkv"])
def test_which_stream(streams, chosen: int, ending: str, tmp_path: Path) -> None:
    path = write_streams(tmp_path / f"several.{ending}", *streams)
    info = probe(path)
    assert info.stream == chosen
    assert numbers(info) == list(range(20))
    width, height = streams[chosen][0]
    said = f"it has 2 video streams: stream {chosen} ({width}x{height}) is looked at"
    assert info.notes == (said,)


@needs_ffmpeg
@pytest.mark.parametrize(("streams", "chosen"), CASES[2:6])
def test_as_ffmpeg_picks(streams, chosen: int, tmp_path: Path) -> None:
    """Where no stream is a single picture, for which it does not look."""
    path = write_streams(tmp_path / "several.mp4", *streams)
    raw = run_ffmpeg("-i", path, "-frames:v", "1", "-f", "rawvideo", "-pix_fmt", "rgb24", "-")
    width, height = streams[chosen][0]
    assert len(raw) == width * height * 3
    assert number(np.frombuffer(raw, np.uint8).reshape(height, width, 3)) == 0


def test_one_stream_says_nothing(tmp_path: Path) -> None:
    info = probe(write_streams(tmp_path / "one.mp4", (SIZE, 20, 0, NONE)))
    assert (info.stream, info.notes) == (0, ())


def test_several_processes_read_the_same_stream(tmp_path: Path) -> None:
    path = write_streams(tmp_path / "two.mp4", (SMALL, 20, 500, DEFAULT), (LARGE, 20, 0, DEFAULT))
    source = probe(path).source([3, 9, 12, 19])
    shown = [number(group.pictures[0]) for group in decode_frames(source.pick([1, 3]))]
    assert shown == [9, 19]
