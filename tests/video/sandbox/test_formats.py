"""Sampled frames of every common format equal a sequential decode's at the same times, however they
are dealt to ranks.
"""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from clips import MILLISECOND, write_video

from spava_app.engine.synthetic.long_clip import repeat
from spava_app.engine.video.decode import decode_frames
from spava_app.engine.video.probe import VideoInfo, probe
from spava_app.engine.video.sample import sample_times

X265 = "keyint=12:min-keyint=12:scenecut=0:bframes=3:log-level=none"
# Encoder and options, all with key frames and, where the codec has them, B-frames.
CODECS = {
    "h264": ("libx264", {"g": "12", "sc_threshold": "0", "bf": "3"}),
    "h265": ("libx265", {"x265-params": X265}),
    "h265_layers": ("libx265", {"x265-params": f"{X265}:b-adapt=0:temporal-layers=3"}),
    "vp9": ("libvpx-vp9", {"deadline": "good", "cpu-used": "8", "g": "12", "lag-in-frames": "8"}),
    "av1": ("libsvtav1", {"preset": "12", "g": "12", "svtav1-params": "lp=1"}),
    "mpeg4": ("mpeg4", {"g": "12", "bf": "2"}),
}
FILES = {
    "mp4": ["h264", "h265", "h265_layers", "vp9", "av1", "mpeg4"],
    "mkv": ["h264", "h265", "h265_layers", "vp9", "av1", "mpeg4"],
    "webm": ["vp9", "av1"],
    "avi": ["mpeg4", "h264"],
    "mov": ["h264", "h265", "mpeg4"],
}
RATES = {
    "24": (range(60), Fraction(1, 24)),
    "29.97": (range(60), Fraction(1001, 30000)),
    "60": (range(60), Fraction(1, 60)),
    "variable": (np.cumsum([0, *([40] * 9 + [700, 33, 34, 33, 250]) * 4]), MILLISECOND),
}


def check(path: Path, sequential, num_frames: int = 13, rotation: int = 0) -> VideoInfo:
    """Frames sampled from `path`, read by 1, 2 and 4 ranks, against the sequential decode."""
    times, truth = sequential(path)
    info = probe(path)
    np.testing.assert_allclose(info.index.times, times, rtol=0, atol=1e-6)
    sample = sample_times(info, num_frames=num_frames)
    source = info.source(sample.frames)
    for ranks in (1, 2, 4):
        gathered = []
        for part in np.array_split(np.arange(len(sample)), ranks):
            own = source.pick(part.tolist())
            for group in decode_frames(own, group=2):
                assert not group.damaged
                gathered += list(group.pictures.copy())
        shown = [truth[np.abs(times - time).argmin()] for time in sample.times]
        assert len(gathered) == len(shown)
        for time, mine, right in zip(sample.times, gathered, shown, strict=True):
            turned = np.rot90(right, rotation // 90)
            np.testing.assert_array_equal(mine, turned, err_msg=f"at {time} s on {ranks} ranks")
    return info


@pytest.mark.parametrize(
    ("ending", "codec", "rate"),
    [
        (ending, codec, list(RATES)[number % (3 if ending == "avi" else 4)])
        for ending, codecs in FILES.items()
        for number, codec in enumerate(codecs)
    ]
    + [("mp4", "h264", rate) for rate in RATES if rate != "24"]
    + [("mkv", "h265", "29.97"), ("webm", "vp9", "variable")],
)
def test_codecs_containers_and_rates(ending, codec, rate, tmp_path, sequential):
    times, base = RATES[rate]
    encoder, options = CODECS[codec]
    path = tmp_path / f"clip.{ending}"
    write_video(path, list(map(int, times)), base, codec=encoder, options=options)
    info = check(path, sequential)
    names = {"h265": "hevc", "h265_layers": "hevc", "av1": "libdav1d"}
    assert info.codec == names.get(codec, codec)
    span = float((times[-1] - times[0]) * base)
    assert info.index.times[-1] == pytest.approx(span, abs=2e-3)


@pytest.mark.parametrize("rotation", [90, 180, 270])
def test_rotation(rotation, tmp_path, sequential):
    path = tmp_path / "turned.mp4"
    write_video(path, list(range(30)), Fraction(1, 30), rotation=rotation)
    check(path, sequential, rotation=rotation)


@pytest.mark.parametrize("size", [(97, 61), (18, 130), (101, 64)])
def test_odd_sizes(size, tmp_path, sequential):
    path = tmp_path / "odd.mp4"
    write_video(path, list(range(30)), Fraction(1, 30), size=size, pix_fmt="yuv444p")
    info = check(path, sequential)
    assert (info.width, info.height) == size


@pytest.mark.parametrize("ending", ["mp4", "mkv", "avi"])
@pytest.mark.parametrize("encoding", ["latin-1", "cp1251", "shift-jis"])
def test_tags_that_are_not_utf8(ending, encoding, tmp_path, sequential):
    path, tag = tmp_path / f"old.{ending}", "a tag in ASCII"
    codec = "mpeg4" if ending == "avi" else "libx264"
    write_video(path, list(range(5)), Fraction(1, 25), codec=codec, tag=tag)
    truth, data = sequential(path), path.read_bytes()
    assert data.count(tag.encode()) >= 2  # of the file, and of the stream
    title = {"latin-1": "Café del Mar", "cp1251": "Привет, мир", "shift-jis": "テスト"}[encoding]
    path.write_bytes(data.replace(tag.encode(), title.encode(encoding).ljust(len(tag))))
    assert check(path, lambda _: truth, num_frames=3).num_frames == 5


@pytest.mark.parametrize(("ending", "codec"), [("mp4", "h264"), ("mkv", "vp9"), ("avi", "mpeg4")])
def test_one_frame(ending, codec, tmp_path, sequential):
    path = tmp_path / f"one.{ending}"
    write_video(path, [0], Fraction(1, 25), codec=CODECS[codec][0])
    assert check(path, sequential).num_frames == 1


@pytest.mark.parametrize("ending", ["mkv", "mp4", "mov", "ts"])
def test_a_stream_that_starts_late(ending, tmp_path, sequential):
    path = tmp_path / f"late.{ending}"
    write_video(path, list(range(700, 790)), Fraction(1, 30), options=CODECS["h264"][1])
    info = check(path, sequential)
    assert info.index.pts[0] * info.index.time_base > 20
    assert info.duration == pytest.approx(3, abs=0.05)


def test_no_duration_in_the_header(tmp_path, sequential):
    """As browsers record, and as a pipe leaves it."""
    path = tmp_path / "live.mkv"
    write_video(tmp_path / "clip.mkv", list(range(90)), Fraction(1, 30))
    with (
        av.open(str(tmp_path / "clip.mkv")) as old,
        av.open(str(path), "w", format="matroska", options={"live": "1"}) as new,
    ):
        stream = new.add_stream_from_template(old.streams.video[0])
        for packet in old.demux(video=0):
            if packet.size:
                packet.stream = stream
                new.mux(packet)
    with av.open(str(path)) as container:
        assert container.duration is None
    assert check(path, sequential).duration == pytest.approx(3, abs=0.05)


def test_two_hours_at_a_low_rate(tmp_path):
    """Its one minute is known; the other 119 are copies."""
    minute, path = tmp_path / "minute.mp4", tmp_path / "hours.mp4"
    options = {"g": "60", "sc_threshold": "0", "bf": "3"}
    write_video(minute, list(range(300)), Fraction(1, 5), options=options)
    repeat(minute, path, 120)
    with av.open(str(minute)) as container:
        truth = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    info = probe(path)
    assert info.num_frames == 36_000
    assert info.duration == pytest.approx(7200, abs=0.5)
    sample = sample_times(info, num_frames=50)
    assert max(sample.times) > 7000
    groups = decode_frames(info.source(sample.frames))
    for frame, group in zip(sample.frames, groups, strict=True):
        np.testing.assert_array_equal(group.pictures[0], truth[frame % 300])
