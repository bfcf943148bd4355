"""What is wrong with a file is told in one typed error, soon, and the next file is served."""

import os
import struct
import subprocess
import sys
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from zlib import crc32

import av
import numpy as np
import pytest
from clips import write_video
from PIL import Image

from spava_app.engine.video.decode import decode_frames
from spava_app.engine.video.decoder_process import decoder_process
from spava_app.engine.video.probe import look_at, probe
from spava_app.engine.video.sample import sample_times
from spava_app.errors import VideoError

pytestmark = pytest.mark.timeout(60)
GOPS = {"g": "30", "sc_threshold": "0", "bf": "2"}
# Words that a decoder or the system would say, and we never do.
FOREIGN = ("errno", "invalid data", "avcodec", "moov", "traceback", "exception", "av.error")


@pytest.fixture(autouse=True)
def same_process_after(videos) -> Iterator[None]:
    """The process that met the file serves the next one."""
    with decoder_process() as before:
        pid = before.process.pid
    yield
    assert probe(videos.short).num_frames == 14
    with decoder_process() as after:
        assert after.process.pid == pid


def refused(path: Path, says: str) -> None:
    with pytest.raises(VideoError, match=says) as caught:
        look_at(path)
    assert (caught.value.field, caught.value.value) == ("video", str(path))
    assert not any(word in caught.value.fix.lower() for word in FOREIGN)
    assert "\n" not in str(caught.value)


def long_clip(path: Path, **how) -> Path:
    """10 seconds."""
    write_video(path, list(range(300)), Fraction(1, 30), size=(320, 240), **how)
    return path


def faststart(source: Path, path: Path) -> Path:
    with (
        av.open(str(source)) as old,
        av.open(str(path), "w", options={"movflags": "faststart"}) as new,
    ):
        stream = new.add_stream_from_template(old.streams.video[0])
        for packet in old.demux(video=0):
            if packet.size:
                packet.stream = stream
                new.mux(packet)
    return path


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("kind", ["mp4", "faststart.mp4", "mkv", "webm", "avi", "mov"])
def test_cut_short(kind, share, tmp_path):
    codec = {"webm": "libvpx-vp9", "avi": "mpeg4"}.get(kind, "libx264")
    options = {"deadline": "realtime", "cpu-used": "8"} if kind == "webm" else GOPS
    path = long_clip(tmp_path / f"clip.{kind.split('.')[-1]}", codec=codec, options=options)
    if kind.startswith("fast"):
        path = faststart(path, tmp_path / "fast.mp4")
    whole = path.read_bytes()
    assert probe(path).num_frames == 300
    # An AVI ends with a table that is not needed.
    size = whole.rindex(b"idx1") if kind == "avi" else len(whole)
    path.write_bytes(whole[: int(size * share)])
    refused(path, r"cut short")


def test_nothing_like_a_video(tmp_path):
    for name, content, says in [
        ("empty.mp4", b"", "is empty"),
        ("text.mp4", b"What a day it was.\n" * 500, "not a video file"),
        ("zeros.mkv", bytes(100_000), "not a video file"),
        ("noise.avi", np.random.default_rng(0).bytes(100_000), "not a video file"),
    ]:
        path = tmp_path / name
        path.write_bytes(content)
        refused(path, says)
    refused(tmp_path / "missing.mp4", "no such file")


def test_what_is_no_file(tmp_path):
    """A pipe without a writer would block whoever opens it, a device never ends."""
    os.mkfifo(tmp_path / "pipe.mp4")
    refused(tmp_path / "pipe.mp4", "not a regular file")
    refused(Path("/dev/zero"), "not a regular file")
    (tmp_path / "folder").mkdir()
    refused(tmp_path / "folder", "a folder without pictures")
    (tmp_path / "loop.mp4").symlink_to("loop.mp4")
    refused(tmp_path / "loop.mp4", "no such file")


def test_sound_only(tmp_path):
    path = tmp_path / "sound.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=8000)
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 4096), np.float32), "fltp", "mono")
        sound.sample_rate = 8000
        container.mux([*stream.encode(sound), *stream.encode()])
    refused(path, "no video stream")


@pytest.mark.skipif(os.getuid() != 0, reason="drops what root may do more than others")
@pytest.mark.parametrize("hidden", ["file", "folder", "pictures"])
def test_what_may_not_be_read(hidden, tmp_path, videos):
    """In a process that may no longer read whatever it likes."""
    folder = tmp_path / "theirs"
    folder.mkdir()
    path = folder / "video.mp4"
    path.write_bytes(videos.odd.read_bytes())
    (path if hidden == "file" else folder).chmod(0)
    drops = (
        "import ctypes, os, sys\n"
        "for capability in (1, 2): ctypes.CDLL(None).prctl(24, capability)\n"  # CAP_DAC_*
        "os.execv(sys.executable, [sys.executable, '-c', sys.argv[1]])"
    )
    code = (
        "from spava_app.engine.video.probe import probe\n"
        "from spava_app.errors import VideoError\n"
        f"try: probe({str(folder if hidden == 'pictures' else path)!r})\n"
        "except VideoError as error: print(error)"
    )
    command = [sys.executable, "-c", drops, code]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "may not be read; change" in done.stdout


def test_headers_that_claim_too_many_pixels(tmp_path):
    raw = tmp_path / "raw.avi"
    write_video(raw, [0, 1], Fraction(1, 25), codec="rawvideo", pix_fmt="bgr24", size=(64, 48))
    data = raw.read_bytes()
    at = data.index(struct.pack("<ii", 40, 64)) + 4
    for side in (100_000, 16_000, 2**31 - 1):
        raw.write_bytes(data[:at] + struct.pack("<ii", side, side) + data[at + 8 :])
        refused(raw, r"pixels|cannot be decoded|no decoder|not a video")
    gif = tmp_path / "big.gif"
    Image.new("P", (8, 8)).save(gif)
    data = gif.read_bytes()
    gif.write_bytes(data[:6] + struct.pack("<HH", 60_000, 60_000) + data[10:])
    refused(gif, r"pixels|cannot be decoded")
    png = tmp_path / "big.png"
    Image.new("RGB", (8, 8)).save(png)
    data = png.read_bytes()
    header = b"IHDR" + struct.pack(">II", 100_000, 100_000) + data[24:29]
    png.write_bytes(data[:12] + header + struct.pack(">I", crc32(header)) + data[33:])
    refused(png, r"at most \d+ pixels")


def test_ten_hours_claimed_for_three_frames(tmp_path):
    """No byte is missing: the packets say how long it is."""
    path = tmp_path / "claim.mkv"
    write_video(path, [0, 1, 2], Fraction(1, 30))
    data = path.read_bytes()
    at = data.index(b"\x44\x89\x88") + 3  # Duration, 8 bytes of float, in milliseconds
    path.write_bytes(data[:at] + struct.pack(">d", 36e6) + data[at + 8 :])
    with av.open(str(path)) as container:
        assert container.duration == 36_000_000_000
    info = probe(path)
    assert (info.num_frames, info.duration) == (3, pytest.approx(0.1, abs=0.02))


def test_three_frames_over_ten_hours(tmp_path, sequential):
    """Legal, and no reason to decode or hold more than there is."""
    path = tmp_path / "slow.mp4"
    write_video(path, [0, 1, 36_000], Fraction(1, 1), options={"bf": "0"})
    info = probe(path)
    assert info.num_frames == 3
    assert info.duration == pytest.approx(36_000, rel=1e-3)
    sample = sample_times(info, fps=2.0, max_frames=768)
    _, truth = sequential(path)
    for frame, group in zip(sample.frames, decode_frames(info.source(sample.frames)), strict=True):
        np.testing.assert_array_equal(group.pictures[0], truth[frame])


def test_fifty_thousand_frames_a_second(tmp_path, sequential):
    path = tmp_path / "fast.mp4"
    write_video(path, list(range(200)), Fraction(1, 50_000), options=GOPS, rate=50_000)
    info = probe(path)
    assert info.fps == pytest.approx(50_000, rel=0.01)
    assert sample_times(info, fps=2.0).frames == (0,)
    sample = sample_times(info, num_frames=16)
    _, truth = sequential(path)
    for frame, group in zip(sample.frames, decode_frames(info.source(sample.frames)), strict=True):
        np.testing.assert_array_equal(group.pictures[0], truth[frame])


def test_deleted_or_replaced_while_it_is_decoded(tmp_path, videos):
    """An open file stays readable; whoever opens it later is told."""
    path = tmp_path / "gone.mp4"
    path.write_bytes(videos.gop250.read_bytes())
    source = probe(path).source(range(0, 620, 5))
    groups = decode_frames(source)
    next(groups)
    path.unlink()
    assert len(list(groups)) == len(source) - 1
    with pytest.raises(VideoError, match="no such file"):
        list(decode_frames(source))
    path.write_bytes(videos.short_gops.read_bytes())
    with pytest.raises(VideoError, match="was changed"):
        list(decode_frames(source))


def test_damaged_in_the_middle(tmp_path, videos, sequential):
    """A tenth of the file is noise: what is whole is served as it is, the rest by neighbours."""
    data = bytearray(videos.gop250.read_bytes())
    start = len(data) // 2
    data[start : start + len(data) // 10] = np.random.default_rng(1).bytes(len(data) // 10)
    path = tmp_path / "noise.mp4"
    path.write_bytes(data)
    _, truth = sequential(videos.gop250)
    frames = list(range(0, 620, 10))
    same, damaged = [], []
    for frame, group in zip(frames, decode_frames(probe(path).source(frames)), strict=True):
        if group.damaged:
            damaged.append(frame)
            assert any((truth[n] == group.pictures[0]).all() for n in range(frame))
        else:
            same.append(frame)
            np.testing.assert_array_equal(group.pictures[0], truth[frame])
    assert damaged
    assert len(same) > len(damaged)
    assert set(range(0, 250, 10)) <= set(same)
