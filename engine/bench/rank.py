"""One rank of the engine's benchmark: what a worker does, with times, FLOPs and memory.

Every rank runs the same list of cases; all that it finds out goes to the parent as it comes.
"""

import gc
import os
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

from spava_app.engine.bench.cases import Case
from spava_app.engine.bench.host_memory import drop_from_cache, host_memory, sampled_anonymous
from spava_app.engine.checkpoints.load import load_model
from spava_app.engine.checkpoints.random import random_model
from spava_app.engine.comm import Comm
from spava_app.engine.flops import prefill_flops
from spava_app.engine.models.registry import Model
from spava_app.engine.parallel.base import make_method
from spava_app.engine.planning.memory import predict
from spava_app.engine.request import Request
from spava_app.engine.runner import Runner
from spava_app.engine.timing import StageTimer
from spava_app.kernels.bench.stopwatch import time_call

MATMUL_SIZE = {"cuda": 8192, "cpu": 512}
# A first run that takes longer is not repeated.
WARM_SECONDS = 60.0


@dataclass(frozen=True)
class RankSetup:
    """What all cases share.

    Attributes:
        device: "cpu" or "cuda"; on CUDA rank r takes card r.
        new_tokens: length of an answer.
        profile: how many of the longest kernels to list.
    """

    ranks: int
    device: str
    dtype: torch.dtype
    new_tokens: int
    profile: int


def serve(
    rank: int, setup: RankSetup, rendezvous: str, cases: tuple[Case, ...], pipe: Connection
) -> None:
    """Measure all cases on one rank; sends (kind, value) pairs, at last ("done", None)."""
    try:
        for answer in _measure_all(rank, setup, rendezvous, cases):
            pipe.send(answer)
        pipe.send(("done", None))
    except Exception:  # noqa: BLE001 (the parent prints it and stops all ranks)
        pipe.send(("failed", f"rank {rank}:\n{traceback.format_exc()}"))


def _measure_all(
    rank: int, setup: RankSetup, rendezvous: str, cases: tuple[Case, ...]
) -> Iterator[tuple[str, Any]]:
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // setup.ranks))
    os.environ |= {"GLOO_SOCKET_IFNAME": "lo", "NCCL_SOCKET_IFNAME": "lo"}  # as the engine does
    device = torch.device(setup.device)
    if device.type == "cuda":
        device = torch.device("cuda", rank)
        torch.cuda.set_device(device)
    backend = "nccl" if device.type == "cuda" else "gloo"
    comm = Comm.connect(rank, setup.ranks, init_method=rendezvous, backend=backend, deadline=600.0)
    peak = _matmul_flops(device, setup.dtype)
    yield "matmul", peak
    for _, same in groupby(cases, key=lambda case: case.model):
        group = list(same)
        model, load = _model(group[0], device, setup.dtype)
        yield "load", load
        for case in group:
            yield "case", _measure(model, comm, case, setup, peak)
        del model  # before the next one's weights
    comm.close()


def _measure(
    model: Model, comm: Comm, case: Case, setup: RankSetup, matmul: float
) -> dict[str, Any]:
    """One case, run once for kernels and plans to be built and then for the record."""
    request, runner = case.request(setup.new_tokens), Runner(model.decoder, None, comm)
    _release(runner.device)
    first = _run(runner, request)
    seconds = first
    if not comm.any(sum(first.values()) > WARM_SECONDS, runner.device):
        seconds = _run(runner, request)
    method = make_method(case.method, case.options)
    layout = method.layout(request.shape, comm.world_size)
    config = runner.decoder.config
    weights = sum(weight.numel() for weight in runner.decoder.layers.parameters())
    flops = prefill_flops(config, weights, method, layout)
    memory = predict(
        model,
        method,
        layout,
        dtype=setup.dtype,
        max_new_tokens=setup.new_tokens,
        device=setup.device,
    )[comm.rank]
    return {
        "first_seconds": first,
        "seconds": seconds,
        "seconds_per_token": seconds.get("generate", 0.0) / max(1, setup.new_tokens - 1),
        "flops": flops,
        "of_matmul": flops / seconds["prefill"] / matmul,
        "predicted": memory.to_dict(),
        **_device_memory(runner.device),
        "profile": _profile(runner, request, setup.profile) if setup.profile else None,
    }


def _device_memory(device: torch.device) -> dict[str, int | None]:
    """Bytes of tensors at the peak, what the allocator took for them, and what others hold now: the
    CUDA context, kernels, NCCL.
    """
    if device.type != "cuda":
        return {"peak": None, "reserved": None, "outside": None}
    free, total = torch.cuda.mem_get_info(device)
    return {
        "peak": torch.cuda.max_memory_allocated(device),
        "reserved": torch.cuda.max_memory_reserved(device),
        "outside": total - free - torch.cuda.memory_reserved(device),
    }


def _run(runner: Runner, request: Request) -> dict[str, float]:
    """Seconds per stage of one run, by a peak counter that starts with it."""
    if runner.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(runner.device)
    timer = StageTimer(runner.device, lambda stage: None)
    for _ in runner.run(request, timer):
        pass
    return timer.seconds


def _profile(runner: Runner, request: Request, rows: int) -> list[dict[str, Any]]:
    """What took longest in one more run, `rows` of them: kernels, on a CPU operations."""
    with torch.profiler.profile() as profiler:
        _run(runner, request)
    on_gpu = runner.device.type == "cuda"
    found = [
        {
            "name": event.key,
            "ms": (event.self_device_time_total if on_gpu else event.self_cpu_time_total) / 1e3,
            "calls": event.count,
        }
        for event in profiler.key_averages()
        if (event.device_type.name == "CUDA") == on_gpu
    ]
    return sorted(found, key=lambda kernel: -kernel["ms"])[:rows]


def _model(case: Case, device: torch.device, dtype: torch.dtype) -> tuple[Model, dict[str, Any]]:
    """The model, and how it came to the device; files are loaded from the disk and once more."""
    _release(device)
    if case.folder is None:
        started = time.perf_counter()
        model = random_model(case.config, case.model, device=device, dtype=dtype)
        _wait(device)
        return model, {"made": time.perf_counter() - started}
    before = host_memory()
    for file in case.folder.glob("*.safetensors"):
        drop_from_cache(file)
    with sampled_anonymous() as anonymous:
        model, cold = _load(case.folder, device, dtype)
    after = {**host_memory(), "peak_anonymous": max(anonymous, default=None)}
    del model
    _release(device)
    model, warm = _load(case.folder, device, dtype)
    return model, {"cold": cold, "warm": warm, "host_before": before, "host_after": after}


def _load(folder: Path, device: torch.device, dtype: torch.dtype) -> tuple[Model, dict[str, float]]:
    started = time.perf_counter()
    model = load_model(folder, device=device, dtype=dtype)
    _wait(device)
    seconds = time.perf_counter() - started
    size = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
    return model, {"seconds": seconds, "bytes": size, "gb_per_s": size / seconds / 1e9}


def _matmul_flops(device: torch.device, dtype: torch.dtype) -> float:
    size = MATMUL_SIZE[device.type]
    a, b = (torch.randn(size, size, dtype=dtype, device=device) for _ in range(2))
    return 2 * size**3 / time_call(lambda: a @ b, device).median_ms * 1e3


def _release(device: torch.device) -> None:
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
