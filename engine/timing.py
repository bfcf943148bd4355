"""Seconds per stage of a request, what was done in them, and when a stage's ranks count as hung:
after a pessimistic prediction times a margin.

Deadlines are for processes that died or hang, not for speed: a slow machine must never meet one, a
dead peer must be noticed in minutes however long the request.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch


class StageTimer:
    """Adds up the seconds spent in each named stage and reports when a stage first begins.

    Args:
        device: CUDA work is waited for at the ends of a stage, so that it is charged to the stage
            that caused it.
        on_begin: called with the stage's name the first time it begins.

    Attributes:
        seconds: per stage.
        counts: of whatever a stage counts.
        current: the stage that began last.
    """

    def __init__(self, device: torch.device, on_begin: Callable[[str], None]) -> None:
        self.seconds: dict[str, float] = {}
        self.counts: Counter[str] = Counter()
        self.current = "request"
        self._device, self._on_begin = device, on_begin

    def begin(self, name: str) -> None:
        """Say that `name` begins, unless it has begun before."""
        self.current = name
        if name not in self.seconds:
            self.seconds[name] = 0.0
            self._on_begin(name)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Charge the time inside the `with` block to `name`."""
        self.begin(name)
        self._wait()
        start = time.perf_counter()
        try:
            yield
        finally:
            self._wait()
            self.seconds[name] += time.perf_counter() - start

    def _wait(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)


LEAST_SECONDS = 30.0
MARGIN = 20.0
# FLOP/s that any supported device exceeds, and seconds within which any frame is decoded, even one
# of a large picture far behind its key frame.
SLOWEST = {"cpu": 5e9, "cuda": 3e13}
SECONDS_PER_FRAME = 2.0


def deadline_for(flops: float, device: str) -> float:
    """Seconds a stage of `flops` on one rank may take on `device` ("cpu" or "cuda")."""
    return LEAST_SECONDS + MARGIN * flops / SLOWEST[device]


def frames_deadline(num_frames: int, flops: float, device: str) -> float:
    """Seconds that decoding `num_frames` frames and encoding them with `flops` may take."""
    return deadline_for(flops, device) + SECONDS_PER_FRAME * num_frames
