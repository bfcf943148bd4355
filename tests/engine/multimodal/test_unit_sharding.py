"""Units go where their tokens are needed, evenly."""

import torch
from bare_media import bare_media
from hypothesis import given
from hypothesis import strategies as st

from spava_app.engine.layout import Layout, PromptShape
from spava_app.engine.media import Media
from spava_app.engine.multimodal.unit_sharding import _assign, deal, indices, token_indices
from spava_app.engine.parallel.base import make_method, methods


def media_of(sizes: list[tuple[int, int]], gap: int) -> tuple[tuple[Media, ...], int]:
    """Media of (units, tokens of a unit) with `gap` tokens of text before every unit; and the
    prompt's length with 5 tokens of question.
    """
    media, place = [], 0
    for units, unit_tokens in sizes:
        starts = [place + gap + unit * (unit_tokens + gap) for unit in range(units)]
        media.append(bare_media((units, 1, unit_tokens), unit_tokens, starts))
        place += units * (unit_tokens + gap)
    return tuple(media), place + 5


@given(
    sizes=st.lists(st.tuples(st.integers(1, 40), st.integers(1, 9)), min_size=1, max_size=4),
    gap=st.integers(0, 3),
    world_size=st.integers(1, 6),
    method=st.sampled_from(sorted(methods())),
)
def test_every_unit_once_and_evenly(
    sizes: list[tuple[int, int]], gap: int, world_size: int, method: str
) -> None:
    media, num_tokens = media_of(sizes, gap)
    world_size = min(world_size, num_tokens)
    layout = make_method(method, {}).layout(PromptShape(num_tokens, 5), world_size)
    dealt = deal(media, layout)
    assert len(dealt) == world_size
    assert all(units == sorted(units) for units in dealt)
    total = sum(units for units, _ in sizes)
    assert sorted(unit for units in dealt for unit in units) == list(range(total))
    tokens = [size for units, size in sizes for _ in range(units)]
    loads = [sum(tokens[unit] for unit in units) for units in dealt]
    assert max(loads) - min(loads) <= max(size for _, size in sizes)
    first = 0
    for units, _ in sizes:
        counts = [sum(first <= unit < first + units for unit in own) for own in dealt]
        assert max(counts) - min(counts) <= 1
        first += units


def moved(media: tuple[Media, ...], layout: Layout, dealt: list[list[int]]) -> int:
    """Embeddings that are needed by a rank that did not encode them."""
    unit_of = torch.full((layout.num_tokens,), -1)
    [medium] = media
    unit_of[token_indices(medium)] = torch.arange(medium.num_units).repeat_interleave(
        medium.unit_tokens
    )
    moving = 0
    for rank, units in enumerate(dealt):
        needed = unit_of[indices(layout.rows(rank))]
        moving += int(((needed >= 0) & ~torch.isin(needed, torch.tensor(units))).sum())
    return moving


def test_few_embeddings_travel() -> None:
    """Spava's zigzag blocks of 64 units of 8 on 4 ranks: without the anchor, what moves is at most
    a unit and a half at each of a block's two ends, and even runs would move nearly all.
    """
    media, num_tokens = media_of([(64, 8)], 0)
    method = make_method("spava", {"virtual_hosts": 8, "anchor_len": 16})
    layout = method.layout(PromptShape(num_tokens, 5), 4)
    dealt = deal(media, layout)
    even = [list(range(16 * rank, 16 * rank + 16)) for rank in range(4)]
    assert moved(media, layout, dealt) <= 8 * 8 * 1.5
    assert moved(media, layout, even) >= 256


def test_a_block_apiece_moves_nothing() -> None:
    media, num_tokens = media_of([(12, 10)], 0)
    layout = Layout(num_tokens, 2, (range(60), range(60, 120)), (1, 0), 0, query_len=5)
    dealt = deal(media, layout)
    assert dealt == [[6, 7, 8, 9, 10, 11], [0, 1, 2, 3, 4, 5]]
    assert moved(media, layout, dealt) == 0


def test_one_rank_needs_all_and_all_encode() -> None:
    media, num_tokens = media_of([(10, 4)], 1)
    layout = make_method("full", {}).layout(PromptShape(num_tokens, 5), 3)
    assert deal(media, layout) == [[0, 1, 2, 3], [4, 5, 6], [7, 8, 9]]


def test_units_that_are_dear_elsewhere_choose_first() -> None:
    """Rank 0 needs most of all three units and has room for two: the middle one goes."""
    assert _assign(torch.tensor([[8, 5, 8], [0, 4, 0]]), [2, 1]) == [0, 1, 0]
    assert _assign(torch.tensor([[8, 5, 8]]), [3]) == [0, 0, 0]
