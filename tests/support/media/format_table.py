"""Every container with every codec it takes: how many frames are not the ones that were written.

    python tests/support/media/format_table.py [--only avi/h264] [--decoder pyav] [--frames 120]

Prints a line per file and, at the end, how many are wrong.
"""

import argparse
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from fractions import Fraction
from itertools import zip_longest
from pathlib import Path

import av
import numpy as np
from ffmpeg import run_ffmpeg, shown_by_ffmpeg
from moving_bar import SIZE, number, write_by_ffmpeg

from spava_app.engine.video.decode import decode_frames
from spava_app.engine.video.probe import VideoInfo, probe
from spava_app.errors import SpavaError

FPS, SPARSE = 25, 13
_X264 = ["-c:v", "libx264", "-preset", "fast", "-sc_threshold", "0"]
_X265 = ["-c:v", "libx265", "-preset", "ultrafast", "-x265-params"]
_QUICK_VPX = ["-deadline", "good", "-cpu-used", "5", "-lag-in-frames", "12", "-auto-alt-ref", "1"]
_MPEG2_B = ["-c:v", "mpeg2video", "-q:v", "3", "-g", "12", "-bf", "2"]
# What ffmpeg is told for each.
CODECS: dict[str, list[str]] = {
    "h264": [*_X264, "-bf", "0", "-g", "12"],
    "h264_b": [*_X264, "-bf", "3", "-g", "12"],
    "h264_open": [*_X264, "-bf", "3", "-g", "12", "-x264-params", "open-gop=1:b-adapt=0"],
    "h264_pyramid": [*_X264, "-bf", "5", "-g", "30", "-x264-params", "b-adapt=0:b-pyramid=normal"],
    "h264_fields": [*_X264, "-bf", "2", "-g", "12", "-flags", "+ildct+ilme"],
    "hevc": [*_X265, "log-level=none:keyint=12:min-keyint=12:bframes=0:open-gop=0"],
    "hevc_b": [*_X265, "log-level=none:keyint=12:bframes=4:b-adapt=0:open-gop=0"],
    "hevc_open": [*_X265, "log-level=none:keyint=12:bframes=4:b-adapt=0:open-gop=1"],
    "mpeg4": ["-c:v", "mpeg4", "-q:v", "3", "-g", "12"],
    "mpeg4_b": ["-c:v", "mpeg4", "-q:v", "3", "-g", "12", "-bf", "2"],
    "mpeg4_packed": [],  # see `packed`
    "mpeg1": ["-c:v", "mpeg1video", "-q:v", "3", "-g", "12", "-bf", "2"],
    "mpeg2": ["-c:v", "mpeg2video", "-q:v", "3", "-g", "12"],
    "mpeg2_b": _MPEG2_B,
    "mpeg2_closed": [*_MPEG2_B, "-flags", "+cgop", "-sc_threshold", "1000000000"],
    "vp8": ["-c:v", "libvpx", *_QUICK_VPX, "-g", "30", "-b:v", "1M"],
    "vp9": ["-c:v", "libvpx-vp9", *_QUICK_VPX, "-g", "30", "-b:v", "1M"],
    "av1": ["-c:v", "libaom-av1", "-cpu-used", "8", "-crf", "20", "-g", "30", "-row-mt", "0"],
    "mjpeg": ["-c:v", "mjpeg", "-q:v", "3", "-pix_fmt", "yuvj420p"],
    "theora": ["-c:v", "libtheora", "-q:v", "7", "-g", "12"],
    "wmv1": ["-c:v", "wmv1", "-q:v", "3", "-g", "12"],
    "wmv2": ["-c:v", "wmv2", "-q:v", "3", "-g", "12"],
    "msmpeg4": ["-c:v", "msmpeg4", "-q:v", "3", "-g", "12"],
    "flv1": ["-c:v", "flv", "-q:v", "3", "-g", "12"],
    "rv10": ["-c:v", "rv10", "-q:v", "3", "-g", "12"],
    "rv20": ["-c:v", "rv20", "-q:v", "3", "-g", "12"],
    "prores": ["-c:v", "prores_ks", "-profile:v", "0"],
    "ffv1": ["-c:v", "ffv1"],
    "huffyuv": ["-c:v", "huffyuv"],
    "cinepak": ["-c:v", "cinepak", "-max_strips", "1"],
    "rawvideo": ["-c:v", "rawvideo"],
    "gif": [],
}
_YUV = ["-pix_fmt", "yuv420p"]
_OWN_PIXELS = {"mjpeg", "prores", "huffyuv", "cinepak", "rawvideo", "gif"}
_H264 = ["h264", "h264_b", "h264_open", "h264_pyramid", "h264_fields"]
_HEVC = ["hevc", "hevc_b", "hevc_open"]
_MPEG4 = ["mpeg4", "mpeg4_b"]
_MPEG2 = ["mpeg1", "mpeg2", "mpeg2_b", "mpeg2_closed"]
_MODERN, _OLD = ["vp8", "vp9", "av1"], ["mjpeg", "wmv2", "msmpeg4", "huffyuv", "cinepak"]
_FRAGMENTS = ["-movflags", "frag_keyframe+empty_moov"]
# Ending, what ffmpeg is told, and the codecs it takes.
CONTAINERS: dict[str, tuple[list[str], list[str]]] = {
    "mp4": ([], [*_H264, *_HEVC, *_MPEG4, *_MPEG2, "vp9", "av1", "mjpeg"]),
    "fragments.mp4": (_FRAGMENTS, ["h264_b", "h264_open", "hevc_b", "vp9", "av1"]),
    "mov": ([], [*_H264, *_HEVC, *_MPEG4, *_MPEG2, "mjpeg", "prores", "cinepak", "rawvideo"]),
    "3gp": ([], [*_H264, "mpeg4", "mpeg4_b"]),
    "f4v": ([], _H264),
    "mkv": ([], [*_H264, *_HEVC, *_MPEG4, *_MPEG2, *_MODERN, *_OLD, "theora", "prores", "ffv1"]),
    "live.mkv": (["-live", "1"], ["h264_b", "h264_open", "hevc_b", "mpeg4_b"]),
    "webm": ([], ["vp8", "vp9", "av1"]),
    # ffmpeg writes HEVC into it, but does not know it again.
    "avi": ([], [*_H264, *_MPEG4, "mpeg4_packed", *_MPEG2, *_MODERN, *_OLD, "flv1", "rawvideo"]),
    "ts": ([], [*_H264, *_HEVC, *_MPEG2, "mpeg4", "mpeg4_b"]),
    "m2ts": ([], [*_H264, *_HEVC, *_MPEG2]),
    "mpg": ([], [*_MPEG2, "h264_b"]),
    "vob": ([], [*_MPEG2, "h264_b"]),
    "flv": ([], [*_H264, *_HEVC, "flv1", "vp9", "av1"]),
    "mxf": ([], [*_H264, *_MPEG2[1:], "prores", "ffv1"]),
    "ogv": ([], ["theora", "vp8"]),
    "nut": ([], [*_H264, *_HEVC, *_MPEG4, *_MPEG2, "vp8", "vp9", "av1", "mjpeg", "ffv1"]),
    "wmv": ([], ["wmv1", "wmv2", "msmpeg4"]),
    "asf": ([], [*_H264, *_MPEG4, *_MPEG2, "vp8", "mjpeg", "wmv2"]),
    "ivf": ([], ["vp8", "vp9", "av1"]),
    "gif": ([], ["gif"]),
    "rm": ([], ["rv10", "rv20"]),
    "wtv": ([], [*_H264, *_MPEG2]),
    "h264": ([], _H264),
    "hevc": ([], _HEVC),
    "m1v": ([], ["mpeg1"]),
    "m2v": ([], ["mpeg2", "mpeg2_b", "mpeg2_closed"]),
}
# Streams without a container carry no times; they may be refused.
RAW = {"h264", "hevc", "m1v", "m2v"}
CELLS = [f"{ending}/{codec}" for ending, (_, codecs) in CONTAINERS.items() for codec in codecs]


@dataclass(frozen=True)
class Row:
    """What came of a file.

    Attributes:
        frames: that it has, by its index.
        wrong: of all, in order: other pictures than were written, missing ones and surplus ones.
        damaged: of all, those with a warning.
        sparse_wrong, sparse_damaged: the same of every 13th.
        mistimed: pictures more than half a frame from where they were written, unless ffmpeg has
            all of them at the same times as we do, since not every container keeps what it was
            given.
        said: why it was refused, or what is odd.
    """

    frames: int = 0
    wrong: int = 0
    damaged: int = 0
    sparse_wrong: int = 0
    sparse_damaged: int = 0
    mistimed: int = 0
    said: str = ""

    @property
    def right(self) -> bool:
        """Every picture there, none with a warning."""
        return self.frames > 0 and not any(self.counts()[1:])

    @property
    def refused(self) -> bool:
        return self.frames == 0

    def counts(self) -> list[int]:
        return [getattr(self, field.name) for field in fields(self)[:-1]]


def make(folder: Path, cell: str, frames: int = 120) -> Path:
    """Write the file of a cell such as "avi/h264_b"."""
    ending, codec = cell.split("/")
    muxer = CONTAINERS[ending][0]
    pixels = [] if codec in _OWN_PIXELS else _YUV
    path = folder / f"{codec}.{ending}"
    if codec == "mpeg4_packed":
        return packed(path, frames)
    return write_by_ffmpeg(path, frames, *CODECS[codec], *pixels, *muxer, fps=FPS)


def packed(path: Path, frames: int) -> Path:
    """MPEG-4 as DivX and XviD packed it for AVI, where times were to ascend: a B-frame lies behind
    the frame that is shown after it, in one packet, and an empty frame takes its place.
    """
    plain = path.with_name("plain.avi")
    write_by_ffmpeg(plain, frames, *CODECS["mpeg4"], "-bf", "1", "-b_strategy", "0", *_YUV, fps=FPS)
    start, empty = b"\0\0\1\xb6", b"\0\0\1\xb6\x51\xe0\x7f"
    with av.open(str(plain)) as old, av.open(str(path), "w") as new:
        stream = new.add_stream_from_template(old.streams.video[0])
        data = [bytes(packet) for packet in old.demux(video=0) if packet.size]
        keys = [frame[frame.index(start) + 4] >> 6 == 0 for frame in data]
        for place, frame in enumerate(data):
            if frame[frame.index(start) + 4] >> 6 == 2:
                frame = empty
            elif (
                place + 1 < len(data)
                and data[place + 1][data[place + 1].index(start) + 4] >> 6 == 2
            ):
                frame += data[place + 1]
            if keys[place]:
                frame = frame.replace(start, b"\0\0\1\xb2DivX503b1393p" + start, 1)
            packet = av.Packet(frame)
            packet.stream, packet.is_keyframe = stream, keys[place]
            packet.pts = packet.dts = place
            packet.time_base = Fraction(1, FPS)
            new.mux(packet)
    return path


def measure(path: Path, frames: int = 120, decoder: str = "pyav") -> Row:
    """Read all frames of a file, and then every 13th in two calls."""
    try:
        info = probe(path)
        found, damaged = _read(info, range(info.num_frames), decoder)
        sparse = range(0, info.num_frames, SPARSE)
        middle = len(sparse) // 2
        some, bad = [], 0
        for part in (sparse[:middle], sparse[middle:]):
            more, damage = _read(info, part, decoder)
            some, bad = some + more, bad + damage
    except SpavaError as error:
        return Row(said=str(getattr(error, "fix", error)))
    truth = list(range(frames))
    said = "" if found == truth else _said_by_ffmpeg(path, truth)
    mistimed = _mistimed(found, info.index.times)
    if mistimed and not said:
        times = _times_of_ffmpeg(path)
        same = len(times) == len(info.index) and np.abs(times - info.index.times).max() < 0.6 / FPS
        mistimed, said = (0, "times as ffmpeg has them") if same else (mistimed, said)
    return Row(
        info.num_frames,
        sum(one != other for one, other in zip_longest(found, truth)),
        damaged,
        sum(one != other for one, other in zip(some, sparse, strict=True)),
        bad,
        mistimed,
        said,
    )


def _read(info: VideoInfo, frames: Sequence[int], decoder: str) -> tuple[list[int | None], int]:
    """The numbers in some frames, and how many came with a warning."""
    source = info.source(frames)
    if decoder != "pyav":
        source = replace(source, rows=tuple(frames))  # they go by frame number
    found, damaged = [], 0
    for group in decode_frames(source, group=4, decoder=decoder):
        found += map(number, group.pictures)
        damaged += len(group.damaged)
    return found, damaged


def _mistimed(numbers: list[int | None], times: np.ndarray) -> int:
    """How many numbers are more than half a frame from their times, in seconds."""
    first = numbers[0] or 0
    return sum(
        number is not None and bool(abs(time * FPS - (number - first)) > 0.6)
        for time, number in zip(times, numbers, strict=False)
    )


def _times_of_ffmpeg(path: Path) -> np.ndarray:
    """When ffmpeg shows each picture, in seconds since the first."""
    how = ["-fps_mode", "passthrough", "-enc_time_base", "demux", "-c:v", "rawvideo"]
    lines = (
        run_ffmpeg("-i", path, "-map", "0:v:0", *how, "-f", "framecrc", "-").decode().split("\n")
    )
    [base] = [Fraction(line.split()[-1]) for line in lines if line.startswith("#tb 0:")]
    stamps = [int(line.split(",")[2]) for line in lines if line and not line.startswith("#")]
    return np.array([float((stamp - stamps[0]) * base) for stamp in stamps])


def _said_by_ffmpeg(path: Path, written: list[int]) -> str:
    """What ffmpeg makes of a file of which we show something else than was written."""
    try:
        shown = list(map(number, shown_by_ffmpeg(path, SIZE)))
    except AssertionError:
        return "ffmpeg cannot read it"
    wrong = sum(one != other for one, other in zip_longest(shown, written))
    return f"ffmpeg shows {len(shown)} frames, {wrong} of them wrong"


def rows(cells: Sequence[str], frames: int, decoder: str) -> Iterator[tuple[str, Row | str]]:
    """The row of each cell, or why there is no file of it."""
    with tempfile.TemporaryDirectory() as folder:
        for cell in cells:
            try:
                path = make(Path(folder), cell, frames)
            except AssertionError as error:
                yield cell, f"not made: {str(error)[-60:]}"
                continue
            yield cell, measure(path, frames, decoder)
            path.unlink()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="*", default=[""], help="parts of names: avi, /h264_b")
    parser.add_argument("--decoder", default="pyav")
    parser.add_argument("--frames", type=int, default=120)
    given = parser.parse_args()
    cells = [cell for cell in CELLS if any(part in cell for part in given.only)]
    heads = ["frames", "wrong", "warn", "13:wrong", "13:warn", "mistimed"]
    say(f"{'':28}" + "".join(f"{head:>9}" for head in heads))
    bad = 0
    for cell, row in rows(cells, given.frames, given.decoder):
        if isinstance(row, str):
            say(f"{cell:28}{row}")
            continue
        fine = row.right or (row.refused and cell.split("/")[0] in RAW)
        bad += not fine
        counts = "refused" if row.refused else "".join(f"{count:9}" for count in row.counts())
        say(f"{cell:28}{counts}  {'' if fine else 'WRONG '}{row.said[:100]}")
    say(f"{bad} of {len(cells)} files wrong")
    return min(bad, 1)


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
