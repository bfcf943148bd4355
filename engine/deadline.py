"""When a stage's ranks count as hung: after a pessimistic prediction times a margin.

Deadlines are for processes that died or hang, not for speed: a slow machine must never meet one, a
dead peer must be noticed in minutes however long the request.
"""

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
