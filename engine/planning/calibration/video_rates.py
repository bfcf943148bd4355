"""The rates of the front end on the device this process runs on, measured with its own code."""

import tempfile
import time
from dataclasses import replace
from pathlib import Path
from statistics import fmean, median

import numpy as np
import torch
from torch import Tensor

from spava_app.engine.comm import Comm
from spava_app.engine.devices import num_cores
from spava_app.engine.media import FrameSource, Media
from spava_app.engine.models.flops import qwen_config
from spava_app.engine.models.qwen2_5_vl import VisionTower
from spava_app.engine.models.vision_batch import MAX_UNITS
from spava_app.engine.multimodal.encoder import MediaEncoder
from spava_app.engine.multimodal.pixel_stream import stream_units
from spava_app.engine.multimodal.pixels.config import PixelConfig
from spava_app.engine.multimodal.pixels.patches import patchify_frames
from spava_app.engine.multimodal.processors import QwenProcessor
from spava_app.engine.multimodal.single_video import video_alone
from spava_app.engine.multimodal.unit_sharding import deal
from spava_app.engine.parallel.base import make_method
from spava_app.engine.planning.calibration.decoder_rates import different_cores, seconds_of
from spava_app.engine.planning.video_time import Decoding
from spava_app.engine.request import Request
from spava_app.engine.synthetic.long_clip import repeat, write_minute

# Of video: enough for many cores to be busy, little enough for few.
_MOST_MINUTES = 10
_PIXELS = PixelConfig(min_pixels=1, max_pixels=2**24)
# What models that run there let such frames become.
_SIZES = {"cuda": (364, 644), "cpu": (84, 140)}
# Runs of both, and seconds of the work between two steps.
_RUNS, _WORK = 5, 0.2
# Of a prompt whose embeddings are put in their places.
_UNITS, _UNIT_TOKENS = 256, 256


class DecodeOnly(QwenProcessor):
    """Pictures are not resized: what remains is decoding."""

    def prepare(self, frames: Tensor, media: Media) -> Tensor:
        return frames[:, 0, 0, 0]


DECODE_ONLY = DecodeOnly(_PIXELS, _PIXELS, frozenset())
_PROCESSOR = QwenProcessor(_PIXELS, _PIXELS, frozenset())


def prepare_rate(device: torch.device) -> float:
    """Pixels per second, of the source and resized, that are resized."""
    points: list[tuple[float, float]] = []
    for height, width in ((180, 320), (1080, 1920)):
        frames = np.zeros((2, height, width, 3), np.uint8)
        size = (height // 28 * 28, width // 28 * 28)
        pixels = 2.0 * (height * width + size[0] * size[1])

        def prepare(frames: np.ndarray = frames, size: tuple[int, int] = size) -> None:
            patchify_frames(torch.from_numpy(frames).to(device), _PIXELS, size=size)

        points.append((pixels, seconds_of(prepare, device)))
    (few, short), (many, long) = points
    return (many - few) / max(long - short, 1e-9)


def decode_rates(device: torch.device, prepare: float) -> dict[str, float]:
    """Of `Machine`: "decode", "decode_start", and "unit_seconds", where pixels are resized at the
    rate `prepare`.

    As many decoders run at once as the cores keep busy, since they share the memory; units are
    prepared beside them, as in use.
    """
    cores = max(2, num_cores())
    with tempfile.TemporaryDirectory(prefix="spava-calibrate-") as folder:
        media = _clip(Path(folder), cores)
        _decode(media, cores)  # the decoder processes start
        firsts, totals = zip(*(_decode(media, cores) for _ in range(_RUNS)), strict=True)
        first, total = median(firsts), median(totals)
        resized = replace(media, size=_SIZES[device.type])
        _prepare(resized, cores, device)  # kernels are built
        preparing = fmean(_prepare(resized, cores, device) for _ in different_cores(_RUNS))
    decoding = Decoding.of(media, range(media.num_units), cores)
    rate = (decoding.pixels - decoding.first_pixels) / max(total - first, 1e-9)
    (height, width), (rows, cols) = media.source.shape, resized.size
    preparing -= len(media.frames) * (height * width + rows * cols) / prepare
    return {
        "decode": rate,
        "decode_start": max(first - decoding.first_pixels / rate, 1e-3),
        "unit_seconds": max(preparing, 1e-6) / media.num_units,
    }


def _prepare(media: Media, cores: int, device: torch.device) -> float:
    """Seconds in which the units of a medium are prepared while they are decoded, between other
    work.
    """
    timings: dict[str, float] = {}
    for _ in stream_units(
        media,
        range(media.num_units),
        _PROCESSOR,
        batch_units=MAX_UNITS,
        device=device,
        threads=cores,
        timings=timings,
    ):
        time.sleep(_WORK)
    return timings["preprocess"]


def _clip(folder: Path, cores: int) -> Media:
    """Some minutes of video as most are made, and one of its frames each second."""
    minutes = min(cores, _MOST_MINUTES)
    write_minute(folder / "minute.mp4", size=(360, 640), fps=30, key_every=250)
    repeat(folder / "minute.mp4", folder / "clip.mp4", minutes)
    return video_alone(folder / "clip.mp4", DECODE_ONLY, fps=1.0)


def _decode(media: Media, cores: int) -> tuple[float, float]:
    """Seconds until the first frames of a medium come, and until the last."""
    began = time.perf_counter()
    units = range(media.num_units)
    stream = stream_units(media, units, DECODE_ONLY, batch_units=1, threads=cores)
    next(stream)
    first = time.perf_counter() - began
    for _ in stream:
        pass
    return first, time.perf_counter() - began


def place_seconds() -> float:
    """Seconds of the host, per visual token, for what embeddings belong where."""
    tokens = _UNITS * _UNIT_TOKENS
    source = FrameSource("array", ("",), ((0, 0),), (1, 1), ())
    media = Media(
        path="",
        picture=False,
        frames=(),
        times=(),
        size=(1, 1),
        grid=(_UNITS, 1, 1),
        unit_tokens=_UNIT_TOKENS,
        starts=tuple(range(0, tokens, _UNIT_TOKENS)),
        source=source,
    )
    request = Request((0,) * (tokens + 1), 1, 0, 0, "spava", {}, 1, (), (media,))
    layout = make_method(request.method).layout(request.shape, 1)
    with torch.device("meta"):
        tower = VisionTower(qwen_config(1))
    encoder = MediaEncoder(tower, _PROCESSOR, Comm())
    dealt, encoded = deal(request.media, layout), torch.zeros(tokens, 1)

    def deliver() -> None:
        encoder.deliver(request, layout, dealt, encoded)

    return seconds_of(deliver, torch.device("cpu")) / tokens
