"""The memory formula against the bytes of the tensors there are, counted while a request runs.

Counting needs no GPU: what a rank holds is the same everywhere, but for what kernels use inside.
"""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from bare_media import bare_media
from dist import RankPool
from live_bytes import LiveBytes
from memory_tasks import CONFIG, predicted_and_counted

from spava_app.engine.layout import PromptShape
from spava_app.engine.media import Media
from spava_app.engine.models.causal_lm import CausalLM
from spava_app.engine.models.qwen2_5_vl import Qwen25VL
from spava_app.engine.parallel.base import make_method, methods
from spava_app.engine.planning.memory import predict

Ranks = Callable[[int], RankPool]


@pytest.mark.parametrize(("world_size", "chunk_rows"), [(1, 128), (2, 128), (4, 128), (2, None)])
@pytest.mark.parametrize("method", methods())
def test_within_a_tenth_of_what_is_counted(
    ranks: Ranks, method: str, world_size: int, chunk_rows: int | None
) -> None:
    """In bfloat16, as on GPUs: what is merged and rotated takes float32 copies."""
    answers = ranks(world_size).run(predicted_and_counted, method, 1600, torch.bfloat16, chunk_rows)
    for memory, counted in answers:
        assert memory.total == pytest.approx(counted, rel=0.1)
    # What decides whether a request fits is the rank that needs most.
    most, counted = max(m.total for m, _ in answers), max(c for _, c in answers)
    assert most == pytest.approx(counted, rel=0.05)


@pytest.mark.parametrize("method", ["full", "zigzag_ring", "spava"])
def test_in_float32_there_are_no_wide_copies(ranks: Ranks, method: str) -> None:
    for memory, counted in ranks(2).run(predicted_and_counted, method, 1600, torch.float32, 128):
        assert memory.total == pytest.approx(counted, rel=0.06)


def test_chunks_save_what_they_are_for(ranks: Ranks) -> None:
    whole, chunked = (
        ranks(1).run(predicted_and_counted, "full", 1600, torch.bfloat16, rows)[0][1]
        for rows in (None, 128)
    )
    assert chunked < 0.6 * whole


def test_parts_add_up() -> None:
    with torch.device("meta"):
        model = CausalLM(CONFIG)
    method = make_method("spava")
    layout = method.layout(PromptShape(10_000, 50), 2)
    first, second = predict(model, method, layout, dtype=torch.bfloat16, max_new_tokens=9)
    assert first.weights == second.weights == 2 * sum(p.numel() for p in model.parameters())
    assert first.cache == 3 * (layout.num_cached(0) + 5) * 2 * 2 * 32 * 2
    parts = first.to_dict()
    assert parts["total"] == first.total
    assert parts["attention"]["exchange"] > 0
    in_attention = first.heads + first.attention.total
    expected = first.weights + first.hidden + first.cache + first.rotary
    assert first.total == expected + max(first.project, in_attention, first.mlp)
    # With more ranks each holds less, weights aside.
    layout = method.layout(PromptShape(10_000, 50), 8)
    spread = predict(model, method, layout, dtype=torch.bfloat16, max_new_tokens=9)
    assert max(m.total - m.weights for m in spread) < 0.3 * (first.total - first.weights)


def test_frames_take_no_more_than_predicted() -> None:
    vision = {
        "depth": 2,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_heads": 2,
        "out_hidden_size": 256,
        "fullatt_block_indexes": [1],
    }
    model = Qwen25VL({**CONFIG, "vision_config": vision}).requires_grad_(requires_grad=False)
    grid = (16, 8, 12)
    media = bare_media(grid, 24, range(0, 16 * 24, 24))
    method = make_method("full")
    layout = method.layout(PromptShape(400, 4), 1)

    def predicted(*media: Media) -> int:
        memories = predict(
            model,
            method,
            layout,
            dtype=torch.float32,
            max_new_tokens=1,
            media=media,
            device="cpu",
        )
        return memories[0].vision

    config = model.vision.config
    with LiveBytes() as counter:
        model.vision(torch.ones(16 * 8 * 12, config.patch_dim), grid)
    assert counter.peak < predicted(media) < 2.5 * counter.peak
    assert predicted() == 0
    # Units are encoded some at a time: past that only the embeddings grow.
    long = replace(media, grid=(1600, 8, 12), starts=tuple(range(0, 1600 * 24, 24)))
    embeddings = 1600 * 24 * 256 * 4
    assert embeddings < predicted(long) < 4.1 * embeddings + 2 * predicted(media)
