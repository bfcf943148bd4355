"""The rates of the device this process runs on, measured with the engine's own code: what the
decoder is made of.
"""

import os
import time
from collections.abc import Callable, Iterator
from statistics import fmean

import torch

from spava_app.engine.comm import Comm
from spava_app.engine.kv_cache import KVCache
from spava_app.engine.layout import Layout
from spava_app.engine.models.config.decoder import DecoderConfig
from spava_app.engine.models.decoder import Decoder
from spava_app.engine.parallel.base import Decode
from spava_app.engine.planning.decoder_time import TOKEN_HEAD_LAUNCHES, TOKEN_LAUNCHES
from spava_app.engine.planning.hardware import Curve
from spava_app.kernels.attention import attention, visible_pairs
from spava_app.kernels.bench.stopwatch import time_call

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
# Of new tokens: bursts of so many.
_BURSTS, _TOKENS = 16, 4


def matmul_curve(device: torch.device, dtype: torch.dtype) -> Curve:
    """FLOP/s of matrix products by their FLOPs."""
    points = []
    for rows, inner, width in _PRODUCTS[device.type]:
        a = torch.randn(rows, inner, dtype=dtype, device=device)
        b = torch.randn(inner, width, dtype=dtype, device=device)
        flops = 2.0 * rows * inner * width
        points.append((flops, flops / seconds_of(lambda a=a, b=b: a @ b, device)))
    return Curve(tuple(points))


def attention_curve(device: torch.device, dtype: torch.dtype) -> Curve:
    """FLOP/s of causal attention by a call's FLOPs, with the backend that is taken by itself."""
    points = []
    for rows in _SQUARES[device.type]:
        q = torch.randn(rows, _HEADS, _HEAD_DIM, dtype=dtype, device=device)
        k, v = (torch.randn(rows, _KV_HEADS, _HEAD_DIM, dtype=dtype, device=device) for _ in "kv")
        flops = 4.0 * _HEADS * _HEAD_DIM * visible_pairs(rows, rows, causal=True)
        took = seconds_of(lambda q=q, k=k, v=v: attention(q, k, v, causal=True), device)
        points.append((flops, flops / took))
    return Curve(tuple(points))


def memory_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Bytes per second, read and written, of elementwise work: measured is an addition."""
    a, b, out = (torch.zeros(_ELEMENTS[device.type], dtype=dtype, device=device) for _ in range(3))
    rate = 3 * a.nbytes / seconds_of(lambda: torch.add(a, b, out=out), device)
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
def token_layer_seconds(comm: Comm, device: torch.device, dtype: torch.dtype) -> float:
    """Seconds of a layer for one new token when there is next to nothing to compute: of the host
    alone, and of a collective where there are several ranks. All ranks run it together.
    """
    config = DecoderConfig.from_hf(_TINY)
    decoder = Decoder(config).to(device, dtype)
    layout = Layout(1, 1, (range(1),), (0,), 0)
    positions = torch.zeros(1, dtype=torch.int64, device=device)
    hidden = decoder.embed(torch.zeros(1, dtype=torch.int64, device=device))

    def tokens() -> None:
        cache = KVCache(
            config.num_layers,
            1 + _TOKENS,
            config.num_kv_heads,
            config.head_dim,
            dtype=dtype,
            device=device,
        )
        decode = Decode(layout, comm, cache)
        for _ in range(_TOKENS):
            decoder(hidden, positions, decode.attend)
            decode.next_token()
            comm.any(False, device)  # as the next token is told, which waits for all of this one

    took: list[float] = []
    for _ in different_cores(_BURSTS, comm.rank / comm.world_size):
        comm.any(False, device)  # together
        took.append(time_call(tokens, device, runs=3).median_ms)
    layers = config.num_layers + TOKEN_HEAD_LAUNCHES / TOKEN_LAUNCHES
    return fmean(took) / 1e3 / _TOKENS / layers


def different_cores(number: int, first: float = 0.0) -> Iterator[None]:
    """Run this thread on so many cores, one after the other.

    One that shares its silicon with a busy one is half as fast, and the system runs a thread
    anywhere: what is to be expected is the mean.

    Args:
        first: which one comes first, as a share of all: processes must not meet on one.
    """
    if not hasattr(os, "sched_setaffinity"):
        yield from (None for _ in range(number))
        return
    cores = sorted(os.sched_getaffinity(0))
    try:
        for turn in range(number):
            place = int((turn / number + first) * len(cores)) % len(cores)
            os.sched_setaffinity(0, {cores[place]})
            yield
    finally:
        os.sched_setaffinity(0, cores)


def seconds_of(call: Callable[[], object], device: torch.device) -> float:
    """How long a call takes, in the middle of much work."""
    if device.type == "cuda":
        # A GPU that has worked for a while draws its full power and becomes slower.
        until = time.perf_counter() + _WARM_SECONDS
        while time.perf_counter() < until:
            call()
            torch.cuda.synchronize(device)
        return time_call(call, device, runs=20).median_ms / 1e3
    # Not the median: on a machine that others use too, small work waits more than it takes.
    return time_call(call, device).p10_ms / 1e3
