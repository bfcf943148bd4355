"""Which picture shows when, in containers whose time stamps do not say so plainly."""

from collections.abc import Callable, Iterable
from fractions import Fraction
from pathlib import Path
from time import sleep

import av
import numpy as np
import pytest
from ffmpeg import needs_ffmpeg
from moving_bar import number, write, write_by_ffmpeg

from spava_app.engine.video.decode import decode_frames
from spava_app.engine.video.probe import VideoInfo, probe

B_FRAMES = {"bf": "3", "g": "30", "x264-params": "b-adapt=0"}
FPS = 10


def numbers(info: VideoInfo, frames: Iterable[int]) -> list[int | None]:
    """What the pictures of these frames show; none of them may be damaged."""
    shown = []
    for group in decode_frames(info.source(list(frames))):
        assert not group.damaged
        shown.append(number(group.pictures[0]))
    return shown


def check(path: Path, expected: list[int], fps: float = FPS) -> VideoInfo:
    """Every frame has its number and its time; read in one go, sparsely, backwards, and by two."""
    info = probe(path)
    assert info.num_frames == len(expected)
    np.testing.assert_allclose(info.index.times, np.arange(len(expected)) / fps, atol=2e-3)
    assert info.duration == pytest.approx(len(expected) / fps, abs=2e-2)
    every = range(len(expected))
    assert numbers(info, every) == expected
    for some in (every[5::13], every[::-17], every[len(expected) // 2 :]):
        assert numbers(info, some) == [expected[frame] for frame in some]
    return info


def remuxed(source: Path, path: Path, change: Callable[[av.Packet], None]) -> Path:
    """A copy whose packets were changed."""
    with av.open(str(source)) as old, av.open(str(path), "w") as new:
        stream = new.add_stream_from_template(old.streams.video[0])
        for packet in old.demux(video=0):
            if packet.size:
                change(packet)
                packet.stream = stream
                new.mux(packet)
    return path


def in_decoding_order(packet: av.Packet) -> None:
    packet.pts = packet.dts


@pytest.mark.parametrize("ending", ["avi", "asf", "h264", "hevc", "m2v", "mp4", "mkv"])
def test_containers_that_know_decoding_times_only(ending: str, tmp_path: Path) -> None:
    path, rate = tmp_path / f"clip.{ending}", FPS
    codec, options = "libx264", B_FRAMES
    if ending == "hevc":
        codec = "libx265"
        options = {"x265-params": "bframes=3:b-adapt=0:keyint=30:log-level=none"}
    elif ending == "m2v":  # which knows no such rate
        codec, options, rate = "mpeg2video", {"bf": "2", "g": "12"}, 25
    if ending in {"mp4", "mkv"}:
        right = write(tmp_path / "right.mp4", 120, options=options, fps=rate)
        # Decoding times without negative ones, which not every container takes.
        remuxed(right, path, in_decoding_order)
    else:
        write(path, 120, codec, options=options, fps=rate)
    if ending == "mp4":  # as players do, the frame before time 0 is left out
        info = probe(path)
        shown = numbers(info, range(info.num_frames))
        assert shown == sorted(set(shown) - {None})
        assert len(shown) >= 118
        return
    info = check(path, list(range(120)), rate)
    assert info.notes == ()


def test_seeking_where_only_decoding_times_are_known(tmp_path: Path) -> None:
    """From IDR pictures on it can be counted; from those of an open group it cannot."""
    closed = probe(write(tmp_path / "closed.avi", 120, options=B_FRAMES, fps=FPS))
    assert closed.index.counted
    assert closed.index.entries[:, 0].tolist() == [0, 30, 60, 90]
    opened = B_FRAMES | {"x264-params": "b-adapt=0:open-gop=1"}
    path = write(tmp_path / "open.avi", 120, options=opened, fps=FPS)
    assert probe(path).index.entries[:, 0].tolist() == [0]
    check(path, list(range(120)))


def test_decoders_that_could_reorder_and_do_not(tmp_path: Path) -> None:
    """Without B-frames time stamps in decoding order are right, and seeking goes by them."""
    for name, codec, options in (
        ("i.avi", "mpeg4", {"bf": "0", "g": "20"}),
        ("i.mp4", "mpeg2video", {"bf": "0", "g": "20"}),
        ("i.mkv", "libx264", {"bf": "0", "g": "20"}),
    ):
        info = check(
            write(tmp_path / name, 60, codec, options=options, fps=25), list(range(60)), 25
        )
        assert not info.index.counted
        assert len(info.index.entries) > 2


CLOCKS = [
    pytest.param(0, 0, id="starts again"),
    pytest.param(40_000, 0, id="far lower"),
    pytest.param(0, 40_000, id="far higher"),
    pytest.param(95_440, 50_000, id="wraps, then half way back"),
    pytest.param(3, 0, id="a little back"),
    pytest.param(5, 95_440, id="about to wrap"),
]


@pytest.mark.parametrize(("first", "second"), CLOCKS)
@pytest.mark.parametrize("form", ["mpegts", "vob"])
def test_recordings_put_together(form: str, first: int, second: int, tmp_path: Path) -> None:
    """A recorder's next file, behind the one before: its clock is another."""
    codec, options = ("libx264", B_FRAMES) if form == "mpegts" else ("mpeg2video", {"bf": "2"})
    parts = [
        write(
            tmp_path / f"{place}.part",
            60,
            codec,
            first=60 * place,
            fps=25,
            options=options,
            container_format=form,
            container_options={"output_ts_offset": str(offset)},
        ).read_bytes()
        for place, offset in enumerate((first, second))
    ]
    both = tmp_path / "both.ts"
    both.write_bytes(b"".join(parts))
    info = check(both, list(range(120)), 25)
    assert info.index.counted if form == "vob" else len(info.index.entries) > 1
    assert info.notes == ()


def test_a_gap_stays_a_gap(tmp_path: Path) -> None:
    """What a recorder did not record for some seconds is no jump of its clock."""
    right = write(tmp_path / "right.ts", 60, options=B_FRAMES, fps=FPS)

    def late(packet: av.Packet) -> None:
        if packet.dts >= 30 * 9000 + 0:
            packet.dts += 8 * 90_000
            packet.pts += 8 * 90_000

    info = probe(remuxed(right, tmp_path / "gap.ts", late))
    assert info.duration == pytest.approx(6 + 8, abs=0.2)
    assert np.diff(info.index.times).max() == pytest.approx(8.1, abs=0.35)


def test_times_that_are_too_coarse(tmp_path: Path) -> None:
    """Milliseconds, of 2500 frames a second: each is there, in its order."""
    right = write(tmp_path / "right.mkv", 120, options={"bf": "0", "g": "30"}, fps=25)

    def hurry(packet: av.Packet) -> None:
        packet.pts = packet.dts = (packet.pts or 0) // 100

    path = remuxed(right, tmp_path / "fast.mkv", hurry)
    info = probe(path)
    assert info.index.counted
    assert numbers(info, range(120)) == list(range(120))
    assert numbers(info, [100, 31, 32, 119]) == [100, 31, 32, 119]
    assert (np.diff(info.index.times) > 0).all()
    np.testing.assert_allclose(info.index.times, np.arange(120) / 2500, atol=1e-3)


def test_a_clock_that_stands_still(tmp_path: Path) -> None:
    right = write(tmp_path / "right.mkv", 60, options={"bf": "0"}, fps=25)

    def still(packet: av.Packet) -> None:
        packet.pts = packet.dts = 0

    info = check(remuxed(right, tmp_path / "still.mkv", still), list(range(60)), 25)
    assert info.notes == ("its time stamps repeat: frames are taken to be evenly spaced",)


def test_what_is_left_out_is_said(tmp_path: Path) -> None:
    """A recording that starts in the middle of a group."""
    right = write(tmp_path / "right.ts", 90, options=B_FRAMES, fps=FPS)
    begins = Fraction(1, 2)  # seconds into the first of three groups
    path = tmp_path / "late.ts"
    with av.open(str(right)) as old, av.open(str(path), "w") as new:
        stream = new.add_stream_from_template(old.streams.video[0])
        packets = [packet for packet in old.demux(video=0) if packet.size]
        for packet in packets[int(begins * FPS) :]:
            packet.stream = stream
            new.mux(packet)
    info = probe(path)
    assert numbers(info, range(info.num_frames)) == list(range(30, 90))
    assert info.notes == ("25 frames at its start need others that are not in it: left out",)


@pytest.mark.parametrize(("form", "codec"), [("mpeg", "mpeg1video"), ("vob", "mpeg2video")])
def test_pictures_that_share_a_time_stamp(form: str, codec: str, tmp_path: Path) -> None:
    """In program streams small ones lie in one packet; read one by one they are the same."""
    options = {"bf": "2", "g": "12", "b": "100000", "qmin": "12"}
    path = write(tmp_path / "small.mpg", 70, codec, fps=25, options=options, container_format=form)
    info = check(path, list(range(70)), 25)
    assert [numbers(info, [frame])[0] for frame in range(70)] == list(range(70))


def test_leading_pictures_that_can_be_decoded(tmp_path: Path) -> None:
    """They stand behind the key frame from which the recording starts, and are shown before it."""
    options = {"x265-params": "keyint=24:min-keyint=24:bframes=4:b-adapt=0:open-gop=0:radl=3"}
    options["x265-params"] += ":scenecut=0:log-level=none"
    right = write(tmp_path / "right.mkv", 72, "libx265", options=options, fps=25)
    path = tmp_path / "late.mkv"
    with av.open(str(right)) as old, av.open(str(path), "w") as new:
        stream = new.add_stream_from_template(old.streams.video[0])
        packets = [packet for packet in old.demux(video=0) if packet.size]
        keys = [place for place, packet in enumerate(packets) if packet.is_keyframe]
        for packet in packets[keys[1] :]:
            packet.stream = stream
            new.mux(packet)
    info = probe(path)
    first = numbers(info, [0])[0]
    assert first == 21
    assert numbers(info, range(info.num_frames)) == list(range(first, 72))
    assert info.notes == ()


@needs_ffmpeg
@pytest.mark.parametrize("ending", ["avi", "asf"])
def test_uneven_times_where_only_decoding_times_are_known(ending: str, tmp_path: Path) -> None:
    """A picture is shown when it comes out of the decoder; none is lost at the end."""
    uneven = ["-vf", "setpts='(N*N/20+N)/25/TB'", "-fps_mode", "vfr", "-enc_time_base", "1/1000"]
    coded = ["-c:v", "libx264", "-bf", "3", "-g", "12", "-x264-params", "b-adapt=0"]
    path = write_by_ffmpeg(tmp_path / f"uneven.{ending}", 100, *uneven, *coded, fps=25)
    info = probe(path)
    assert info.index.counted
    assert numbers(info, range(info.num_frames)) == list(range(100))
    frames = np.arange(98)  # behind them there is nothing to tell
    np.testing.assert_allclose(info.index.times[:98], (frames**2 / 20 + frames) / 25, atol=0.1)


@pytest.mark.parametrize(("ending", "codec"), [("mkv", "libx264"), ("ts", "libx264")])
def test_files_put_together_whose_times_overlap(ending: str, codec: str, tmp_path: Path) -> None:
    options = B_FRAMES | {"g": "12"}
    parts = [
        write(tmp_path / f"{place}.{ending}", 48, codec, first=48 * place, fps=25, options=options)
        for place in range(2)
    ]
    if ending == "ts":  # by two frames
        offset = {"output_ts_offset": str(46 / 25)}
        write(parts[1], 48, codec, first=48, fps=25, options=options, container_options=offset)
    both = tmp_path / f"both.{ending}"
    both.write_bytes(b"".join(part.read_bytes() for part in parts))
    info = check(both, list(range(96)), 25)
    assert [numbers(info, [frame])[0] for frame in range(96)] == list(range(96))


def test_many_small_frames(tmp_path: Path) -> None:
    """More than messages about them fit into a socket, while who takes them is busy."""
    info = probe(write(tmp_path / "long.mp4", 1500, options={"bf": "0", "preset": "ultrafast"}))
    groups = decode_frames(info.source(range(1500)))
    assert number(next(groups).pictures[0]) == 0
    sleep(1)
    assert [number(group.pictures[0]) for group in groups] == list(range(1, 1500))


@pytest.mark.parametrize("ending", ["avi", "asf", "mpg", "h264", "ts", "mkv", "mp4", "flv", "m2v"])
@pytest.mark.parametrize("count", [1, 2, 3])
def test_few_frames(ending: str, count: int, tmp_path: Path) -> None:
    old = ending in {"mpg", "m2v"}
    codec, options = ("mpeg2video", {"bf": "2"}) if old else ("libx264", B_FRAMES)
    path = write(tmp_path / f"few.{ending}", count, codec, options=options, fps=25)
    if ending == "ts" and count < 3:  # too short for the library to know its size
        return
    info = probe(path)
    assert numbers(info, range(info.num_frames)) == list(range(count))
