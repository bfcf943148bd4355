"""When a stage's ranks count as hung: after a pessimistic prediction times a margin.

Deadlines are for processes that died or hang, not for speed: a slow machine must never meet one, a
dead peer must be noticed in minutes however long the request. T = rows of the busiest rank.
"""

from spava_app.engine.layout import Layout
from spava_app.engine.models.decoder import DecoderConfig
from spava_app.engine.parallel.base import Method

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


def prefill_flops(
    config: DecoderConfig, num_parameters: int, method: Method, layout: Layout
) -> float:
    """FLOPs of the busiest rank: 2 per parameter and row, 4 per pair, head and channel."""
    ranks = range(layout.world_size)
    rows = max(layout.num_rows(rank) for rank in ranks)
    pairs = max(method.attention_pairs(layout, rank) for rank in ranks)
    return 2.0 * num_parameters * rows + _flops_per_pair(config) * pairs


def token_flops(config: DecoderConfig, num_parameters: int, layout: Layout) -> float:
    """FLOPs of the busiest rank for one new token: the weights, and the cache it attends."""
    cached = max(layout.num_cached(rank) for rank in range(layout.world_size))
    return 2.0 * num_parameters + _flops_per_pair(config) * cached


def _flops_per_pair(config: DecoderConfig) -> float:
    return 4.0 * config.head_dim * config.num_heads * config.num_layers
