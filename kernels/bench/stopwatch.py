"""Timing calls on a GPU by its own events, on a CPU by the clock."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import quantiles
from time import perf_counter

import torch


@dataclass(frozen=True)
class Timing:
    """Milliseconds: the first call, and median, 10th and 90th percentile of `runs` timed ones."""

    first_ms: float
    median_ms: float
    p10_ms: float
    p90_ms: float
    runs: int


def time_call(call: Callable[[], object], device: torch.device, runs: int | None = None) -> Timing:
    """Time one call; see `time_stages`."""
    return time_stages([call], device, runs)[0]


def time_stages(
    stages: Sequence[Callable[[], object]], device: torch.device, runs: int | None = None
) -> list[Timing]:
    """Time calls that run one after the other, each with the caches as the one before leaves them.

    Args:
        runs: how often; by default 10 times if all together take under 1 s, 3 times under 10 s,
            else once.
    """
    first = _run(stages, device)
    warm = sum(_run(stages, device))
    if runs is None:
        runs = 10 if warm < 1e3 else 3 if warm < 1e4 else 1
    times = zip(*(_run(stages, device) for _ in range(runs)), strict=True)
    return [_summary(*pair) for pair in zip(first, times, strict=True)]


def _run(stages: Sequence[Callable[[], object]], device: torch.device) -> list[float]:
    """Milliseconds of each stage, once; on a GPU the host runs ahead, as it does in use."""
    if device.type != "cuda":
        marks = [perf_counter()]
        for stage in stages:
            stage()
            marks.append(perf_counter())
        return [(after - before) * 1e3 for before, after in pairwise(marks)]
    torch.cuda.synchronize(device)
    events = [torch.cuda.Event(enable_timing=True) for _ in range(len(stages) + 1)]
    events[0].record()
    for stage, event in zip(stages, events[1:], strict=True):
        stage()
        event.record()
    torch.cuda.synchronize(device)
    return [before.elapsed_time(after) for before, after in pairwise(events)]


def _summary(first: float, times: Sequence[float]) -> Timing:
    tenths = quantiles(times, n=10, method="inclusive") if len(times) > 1 else [times[0]] * 9
    return Timing(first, tenths[4], tenths[0], tenths[8], len(times))
