"""A long video for measurements, made in a minute or two: one encoded minute, copied."""

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.video.stream import VideoStream

from spava_app.engine.synthetic.encoding import add_h264

# How far the camera moves from frame to frame, in pixels, and how many levels of grain it adds.
_PAN = (2, 5)
_GRAIN = 6


def write_minute(path: Path, *, size: tuple[int, int], fps: int, key_every: int) -> None:
    """Encode 60 seconds of H.264 with B-frames at `size` (height, width): a pan over a textured
    scene with moving objects and grain, so that there is motion to find and detail to code.
    """
    height, width = size
    with av.open(str(path), "w") as container:
        options = {"preset": "faster", "crf": "23", "sc_threshold": "0", "keyint_min": "1"}
        stream = add_h264(container, size, fps, key_every=key_every, **options)
        for number, rgb in enumerate(_scene(height, width, 60 * fps)):
            frame = av.VideoFrame.from_ndarray(rgb, format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, fps)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def repeat(minute: Path, path: Path, times: int) -> None:
    """Copy the packets of a video `times` times, one after the other, without encoding again."""
    with av.open(str(minute)) as source, av.open(str(path), "w") as target:
        stream = source.streams.video[0]
        copy = target.add_stream_from_template(stream)
        assert isinstance(copy, VideoStream)
        packets = [packet for packet in source.demux(stream) if packet.size]
        stamps = [(packet.pts or 0, packet.dts or 0) for packet in packets]
        first, last = min(stamps)[0], max(stamps)[0]
        span = last - first + round((last - first) / (len(stamps) - 1))
        base, lengths = packets[0].time_base, [packet.duration for packet in packets]
        for turn in range(times):
            for packet, (pts, dts), length in zip(packets, stamps, lengths, strict=True):
                packet.pts, packet.dts = pts + turn * span, dts + turn * span
                # Muxing has left these in the target's time base.
                packet.duration, packet.time_base = length, base
                packet.stream = copy
                target.mux(packet)


def _scene(height: int, width: int, count: int) -> Iterator[np.ndarray]:
    random = np.random.default_rng(0)
    rows, cols = height // 8 + 64, width // 8 + 64
    coarse = random.integers(0, 200, (rows, cols, 3), dtype=np.uint8)
    texture = coarse.repeat(8, 0).repeat(8, 1)
    grain = random.integers(0, _GRAIN, (2 * height, 2 * width, 1), dtype=np.uint8)
    colors = random.integers(0, 255, (12, 3), dtype=np.uint8)
    side = height // 8
    steps = random.integers(-9, 10, (12, 2))
    starts = random.integers(0, (height - side, width - side), (12, 2))
    for number in range(count):
        down, right = (number * step % 400 for step in _PAN)
        frame = texture[down : down + height, right : right + width].copy()
        for color, start, step in zip(colors, starts, steps, strict=True):
            top, left = (start + number * step) % (height - side, width - side)
            frame[top : top + side, left : left + side] = color
        down, right = random.integers(0, (height, width))
        frame += grain[down : down + height, right : right + width]
        yield frame
