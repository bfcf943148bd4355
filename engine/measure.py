"""The rates of the device this process runs on, measured with the engine's own code."""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from spava_app.engine.comm import Comm
from spava_app.engine.costs import TOKEN_LAUNCHES
from spava_app.engine.devices import num_cores
from spava_app.engine.front_costs import source_pixels
from spava_app.engine.kv_cache import KVCache
from spava_app.engine.layout import Layout
from spava_app.engine.machine import Curve
from spava_app.engine.media import Media
from spava_app.engine.models.decoder import Decoder, DecoderConfig
from spava_app.engine.parallel.base import Decode
from spava_app.engine.processors import QwenProcessor
from spava_app.engine.video.bench_clip import repeat, write_minute
from spava_app.engine.video.pixel_config import PixelConfig
from spava_app.engine.video.preprocess import patchify_frames
from spava_app.engine.video.probe import probe
from spava_app.engine.video.sample import sample_times
from spava_app.engine.video.stream import num_processes, stream_units
from spava_app.kernels.attention import attention, visible_pairs
from spava_app.kernels.stopwatch import time_call

_HEADS, _KV_HEADS, _HEAD_DIM = 16, 4, 128
# Rows, and both widths, of products; rows of square causal attention; query rows x keys of others.
_PRODUCTS = {
    "cuda": ((64, 4096, 4096), (1024, 4096, 8192), (16384, 4096, 16384)),
    "cpu": ((16, 128, 128), (128, 512, 512), (512, 1024, 1024)),
}
_SQUARES = {"cuda": (1024, 4096, 16384, 32768), "cpu": (32, 256, 1024)}
# What a layer's elementwise work reaches of an addition of large tensors (docs/results/).
_ELEMENTWISE = {"cuda": 0.8, "cpu": 1.0}
_ELEMENTS = {"cuda": 2**28, "cpu": 2**23}
# Bytes that each rank receives.
_MESSAGES = {"cuda": (1e3, 1e6, 1e7, 1e8), "cpu": (1e3, 1e5, 1e6, 1e7)}
_TINY = {
    "model_type": "qwen2",
    "vocab_size": 64,
    "hidden_size": 64,
    "intermediate_size": 64,
    "num_hidden_layers": 8,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1e4,
}
_WARM_SECONDS = 0.5
# Of video: enough for many cores to be busy, little enough for few.
_MOST_MINUTES = 10
_PIXELS = PixelConfig(min_pixels=1, max_pixels=2**24)


class DecodeOnly(QwenProcessor):
    """Pictures are not resized: what remains is decoding."""

    def prepare(self, frames: Tensor, media: Media) -> Tensor:
        return frames[:, 0, 0, 0]


DECODE_ONLY = DecodeOnly(_PIXELS, _PIXELS, frozenset())


def matmul_curve(device: torch.device, dtype: torch.dtype) -> Curve:
    """FLOP/s of matrix products by their FLOPs."""
    points = []
    for rows, inner, width in _PRODUCTS[device.type]:
        a = torch.randn(rows, inner, dtype=dtype, device=device)
        b = torch.randn(inner, width, dtype=dtype, device=device)
        flops = 2.0 * rows * inner * width
        points.append((flops, flops / _seconds(lambda a=a, b=b: a @ b, device)))
    return Curve(tuple(points))


def attention_curve(device: torch.device, dtype: torch.dtype) -> Curve:
    """FLOP/s of causal attention by a call's FLOPs, with the backend that is taken by itself."""
    points = []
    for rows in _SQUARES[device.type]:
        q = torch.randn(rows, _HEADS, _HEAD_DIM, dtype=dtype, device=device)
        k, v = (torch.randn(rows, _KV_HEADS, _HEAD_DIM, dtype=dtype, device=device) for _ in "kv")
        flops = 4.0 * _HEADS * _HEAD_DIM * visible_pairs(rows, rows, causal=True)
        took = _seconds(lambda q=q, k=k, v=v: attention(q, k, v, causal=True), device)
        points.append((flops, flops / took))
    return Curve(tuple(points))


def memory_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Bytes per second, read and written, of elementwise work: measured is an addition."""
    a, b, out = (torch.zeros(_ELEMENTS[device.type], dtype=dtype, device=device) for _ in range(3))
    rate = 3 * a.nbytes / _seconds(lambda: torch.add(a, b, out=out), device)
    return rate * _ELEMENTWISE[device.type]


def link_curve(comm: Comm, device: torch.device) -> Curve:
    """Bytes per second that this rank receives in an all-gather, by those bytes. All ranks run it
    together.
    """
    points = []
    for size in _MESSAGES[device.type]:
        share = torch.zeros(max(1, int(size) // (comm.world_size - 1)), dtype=torch.uint8)
        share = share.to(device)
        received = float((comm.world_size - 1) * share.numel())
        comm.any(False, device)  # together
        # A set number of runs: one rank must not measure once more than another.
        took = time_call(lambda share=share: comm.all_gather(share)(), device, runs=20).p10_ms
        points.append((received, received / took * 1e3))
    return Curve(tuple(points))


@torch.inference_mode()
def launch_seconds(device: torch.device, dtype: torch.dtype) -> float:
    """Seconds of the host for each kernel: of layers with next to nothing to compute."""
    config = DecoderConfig.from_hf(_TINY)
    decoder = Decoder(config).to(device, dtype)
    layout = Layout(1, 1, (range(1),), (0,), 0)
    positions = torch.zeros(1, dtype=torch.int64, device=device)
    hidden = decoder.embed(torch.zeros(1, dtype=torch.int64, device=device))

    def token() -> None:
        cache = KVCache(
            config.num_layers, 2, config.num_kv_heads, config.head_dim, dtype=dtype, device=device
        )
        decode = Decode(layout, Comm(), cache)
        decoder(hidden, positions, decode.attend)

    return _seconds(token, device) / config.num_layers / TOKEN_LAUNCHES


def prepare_rates(device: torch.device) -> tuple[float, float]:
    """Pixels per second that are resized, and seconds of the host for each unit besides."""
    processor = QwenProcessor(_PIXELS, _PIXELS, frozenset())
    points: list[tuple[float, float]] = []
    for height, width in ((180, 320), (1080, 1920)):
        frames = np.zeros((2, height, width, 3), np.uint8)
        size = (height // 2 // 28 * 28, width // 2 // 28 * 28)
        pixels = 2.0 * (height * width + size[0] * size[1])

        def prepare(frames: np.ndarray = frames, size: tuple[int, int] = size) -> None:
            patchify_frames(torch.from_numpy(frames).to(device), processor.video, size=size)

        points.append((pixels, _seconds(prepare, device)))
    (few, short), (many, long) = points
    rate = (many - few) / max(long - short, 1e-9)
    return rate, max(short - few / rate, 1e-6)


def decode_rates() -> tuple[float, float]:
    """Source pixels per second of a decoder process, and seconds until a file's first frames come.

    As many run at once as the cores keep busy, since they share the memory.
    """
    cores = max(2, num_cores())
    with tempfile.TemporaryDirectory(prefix="spava-calibrate-") as folder:
        media = _clip(Path(folder), minutes=min(cores, _MOST_MINUTES))
        _decode(media, cores)  # the decoder processes start
        first, total = _decode(media, cores)
    rate = source_pixels(media) / max(total - first, 1e-9)
    return rate / num_processes(cores, media.num_units), max(first, 1e-3)


def _clip(folder: Path, minutes: int) -> Media:
    """Some minutes of video as most are made, and two of its frames each second."""
    write_minute(folder / "minute.mp4", size=(360, 640), fps=30, key_every=250)
    repeat(folder / "minute.mp4", folder / "clip.mp4", minutes)
    info = probe(folder / "clip.mp4")
    sample = sample_times(info, fps=2.0)
    fit = DECODE_ONLY.fit(len(sample), info.height, info.width, picture=False)
    return Media(
        path=info.path,
        picture=False,
        frames=sample.frames,
        times=sample.times,
        size=fit.size,
        grid=fit.grid,
        unit_tokens=fit.unit_tokens,
        starts=tuple(range(fit.grid[0])),
        source=info.source(sample.frames),
    )


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


def _seconds(call: Callable[[], object], device: torch.device) -> float:
    if device.type == "cuda":
        # A card that has worked for a while draws its full power and becomes slower.
        until = time.perf_counter() + _WARM_SECONDS
        while time.perf_counter() < until:
            call()
            torch.cuda.synchronize(device)
        return time_call(call, device, runs=20).median_ms / 1e3
    # Not the median: on a machine that others use too, small work waits more than it takes.
    return time_call(call, device).p10_ms / 1e3
