"""FLOPs of a decoder, counted from its sizes and from the steps of a method.

What a deadline, a prediction and a benchmark count with.
"""

from spava_app.engine.layout import Layout
from spava_app.engine.models.config.decoder import DecoderConfig
from spava_app.engine.parallel.base import Method


def prefill_flops(
    config: DecoderConfig, num_parameters: int, method: Method, layout: Layout
) -> float:
    """FLOPs of the busiest rank in the decoder's layers: 2 per parameter and row, 4 per pair, head
    and channel.

    Args:
        num_parameters: of the layers alone: rows are looked up in the embedding and not multiplied
            by it, and of the prompt only the last one gets logits (`logits_flops`).
    """
    ranks = range(layout.world_size)
    rows = max(layout.num_rows(rank) for rank in ranks)
    pairs = max(method.attention_pairs(layout, rank) for rank in ranks)
    return 2.0 * num_parameters * rows + _flops_per_pair(config) * pairs


def token_flops(config: DecoderConfig, num_parameters: int, layout: Layout) -> float:
    """FLOPs of the busiest rank for one new token in the layers: their weights, and the cache it
    attends. Arguments as of `prefill_flops`.
    """
    cached = max(layout.num_cached(rank) for rank in range(layout.world_size))
    return 2.0 * num_parameters + _flops_per_pair(config) * cached


def logits_flops(config: DecoderConfig) -> float:
    """FLOPs of the logits of one row, once for each token of an answer."""
    return 2.0 * config.vocab_size * config.hidden_size


def _flops_per_pair(config: DecoderConfig) -> float:
    return 4.0 * config.head_dim * config.num_heads * config.num_layers
