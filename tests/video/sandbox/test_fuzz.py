"""Mutated files of all formats: each is read or refused, in bounded time and memory."""

import re
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from clips import picture, write_video
from PIL import Image
from pillow_heif import register_heif_opener

from spava_app.engine.video.decode import decode_frames
from spava_app.engine.video.decoder_process import decoder_process, end_idle
from spava_app.engine.video.probe import FolderInfo, VideoInfo, look_at
from spava_app.engine.video.sample import sample_times
from spava_app.errors import VideoError

ENCODERS = {
    "h264.mp4": ("libx264", {"g": "12", "bf": "2"}),
    "h264.mkv": ("libx264", {"g": "12", "bf": "2"}),
    "h264.ts": ("libx264", {"g": "12", "bf": "2"}),
    "h265.mp4": ("libx265", {"x265-params": "keyint=12:log-level=none"}),
    "h265.mov": ("libx265", {"x265-params": "keyint=12:log-level=none"}),
    "vp9.webm": ("libvpx-vp9", {"deadline": "realtime", "cpu-used": "8", "g": "12"}),
    "av1.mp4": ("libsvtav1", {"preset": "12", "g": "12", "svtav1-params": "lp=1"}),
    "mpeg4.avi": ("mpeg4", {"g": "12", "bf": "2"}),
    "mpeg4.mkv": ("mpeg4", {"g": "12", "bf": "2"}),
}
PICTURES = ("png", "jpg", "webp", "bmp", "tiff", "gif", "heic", "avif")
register_heif_opener()
MOVING = ("png", "webp", "tiff", "avif")


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """One small file of each format."""
    folder = tmp_path_factory.mktemp("originals")
    for name, (codec, options) in ENCODERS.items():
        write_video(folder / name, list(range(40)), Fraction(1, 30), codec=codec, options=options)
    for ending in PICTURES:
        Image.fromarray(picture(9, 96, 64)).save(folder / f"picture.{ending}")
    images = [Image.fromarray(picture(number, 96, 64)) for number in range(4)]
    for ending in MOVING:
        path = folder / f"moving.{ending}"
        images[0].save(path, save_all=True, append_images=images[1:], duration=100)
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def mutate(random: np.random.Generator, data: bytes, others: list[bytes]) -> bytes:
    """Changes of one kind: bits, bytes near the start, a cut, a hole or a piece of another file."""
    out = bytearray(data)
    kind = random.integers(6)
    if kind == 0:
        for at in random.integers(len(out), size=random.integers(1, 60)):
            out[at] ^= 1 << random.integers(8)
    elif kind == 1:  # where sizes, counts and times are
        for at in random.integers(min(len(out), 2000), size=random.integers(1, 12)):
            out[at] = random.choice([0, 1, 0x7F, 0x80, 0xFF])
    elif kind == 2:
        del out[random.integers(len(out)) :]
    elif kind == 3:
        start, size = random.integers(len(out)), random.integers(1, len(out) // 2 + 2)
        del out[start : start + size]
    else:
        other = others[random.integers(len(others))] if kind == 4 else random.bytes(5000)
        start, size = random.integers(len(other)), random.integers(1, 4000)
        at = random.integers(len(out))
        out[at : at + (size if random.integers(2) else 0)] = other[start : start + size]
    return bytes(out)


def peak(pid: int) -> int:
    """Most memory that a process held, in bytes."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024


def read(path: Path) -> str:
    """Look at a file and take a few frames of it."""
    try:
        info = look_at(path)
        assert not isinstance(info, FolderInfo)
        frames = sample_times(info, num_frames=6).frames if isinstance(info, VideoInfo) else ()
        source = info.source(frames) if isinstance(info, VideoInfo) else info.source()
        damaged = False
        for group in decode_frames(source, group=2):
            assert group.pictures.shape[1:3] == source.shape
            damaged |= bool(group.damaged)
    except VideoError as error:
        return re.sub(r"[0-9.]+", "N", error.fix)
    return "read, damaged" if damaged else "read"


# The last three once found that a stream may appear on the way.
@pytest.mark.parametrize("seed", [0, 1, 2, 3, 4, 111, 121, 141])
def test_a_hundred_mutated_files(seed, originals, tmp_path):
    random = np.random.default_rng(seed)
    names, contents = list(originals), list(originals.values())
    end_idle()
    outcomes: dict[str, int] = {}
    most = 0
    for number in range(100):
        name = names[number % len(names)]
        path = tmp_path / f"{number}.{name}"
        data = originals[name]
        for _ in range(random.integers(1, 3)):
            data = mutate(random, data or b"?", contents)
        path.write_bytes(data)
        outcome = read(path)
        # It neither hung, crashed nor ran into a wall: it said what is wrong.
        assert not outcome.startswith("the decoder"), path
        outcomes[outcome] = outcomes.get(outcome, 0) + 1
        with decoder_process() as process:
            most = max(most, peak(process.process.pid))
        path.unlink()
    assert outcomes["read"] > 0
    assert len(outcomes) > 3
    assert most < 2**30, outcomes
