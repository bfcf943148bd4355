"""Layouts by enumeration and by property: who owns what, who sees what, and what it costs."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spava_app.engine.flops import prefill_flops, token_flops
from spava_app.engine.layout import (
    Layout,
    PromptShape,
    contiguous_owners,
    cut,
    shard,
    zigzag_owners,
)
from spava_app.engine.models.config.decoder import DecoderConfig
from spava_app.engine.models.config.rope import RopeConfig
from spava_app.engine.parallel.base import make_method, methods
from spava_app.engine.timing import LEAST_SECONDS, deadline_for, frames_deadline
from spava_app.errors import InvalidInput

METHODS = tuple(methods())


def flat(ranges: list[range]) -> list[int]:
    return [token for tokens in ranges for token in tokens]


def layout_of(method: str, prompt: PromptShape, world_size: int, **options: object) -> Layout:
    return make_method(method, options).layout(prompt, world_size)


@given(
    method=st.sampled_from(METHODS),
    context=st.integers(0, 600),
    query=st.integers(1, 40),
    world_size=st.integers(1, 16),
)
def test_every_token_is_computed_and_cached_once(
    method: str, context: int, query: int, world_size: int
) -> None:
    n = context + query
    if world_size > n:
        with pytest.raises(InvalidInput, match="ranks"):
            layout_of(method, PromptShape(n, query), world_size)
        return
    layout = layout_of(method, PromptShape(n, query), world_size)
    ranks = range(world_size)
    cached = sorted(token for rank in ranks for token in flat(layout.cached(rank)))
    assert cached == list(range(n))
    assert sorted({token for rank in ranks for token in flat(layout.rows(rank))}) == list(range(n))
    for rank in ranks:
        assert len(flat(layout.rows(rank))) == layout.num_rows(rank)
        assert len(flat(layout.positions(rank))) == layout.num_rows(rank)
        assert len(flat(layout.cached(rank))) == layout.num_cached(rank)
    owner = layout.query_owner
    assert flat(layout.rows(owner))[layout.last_row(owner)] == n - 1
    assert len(layout.owners) == len(layout.blocks)
    for before, after in zip(layout.blocks[:-1], layout.blocks[1:], strict=True):
        assert before.stop == after.start


@given(
    method=st.sampled_from(["apb", "spava"]),
    context=st.integers(0, 600),
    blocks=st.integers(1, 20),
    length=st.integers(0, 50),
)
def test_a_block_passes_what_it_has_and_the_last_nothing(
    method: str, context: int, blocks: int, length: int
) -> None:
    layout = layout_of(
        method, PromptShape(context + 3, 3), 1, virtual_hosts=blocks, passing_len=length
    )
    assert layout.passing[-1] == 0
    for passing, candidates in zip(layout.passing[:-1], layout.candidates, strict=False):
        assert passing == min(length, len(candidates))
    for block in range(blocks):
        assert layout.passed_before(block) == sum(layout.passing[:block])


@pytest.mark.parametrize("blocks_per_rank", [2, 4])
@pytest.mark.parametrize("world_size", [2, 4, 8, 16])
def test_zigzag_balances_passing_and_attention(world_size: int, blocks_per_rank: int) -> None:
    method = make_method("spava", {"virtual_hosts": blocks_per_rank * world_size})
    layout = method.layout(PromptShape(2**19 + 100, 100), world_size)
    ranks = range(world_size)
    received = [sum(layout.passed_before(j) for j in layout.own(rank)) for rank in ranks]
    pairs = [method.attention_pairs(layout, rank) for rank in ranks]
    assert max(received) <= 1.05 * min(received)
    assert max(pairs) <= 1.05 * min(pairs)


# Query-key pairs per head on the busiest rank in n^2, default ratios; last digit as printed.
COSTS = {
    4: {"full": 0.5, "zigzag_ring": 0.125, "star": 0.125, "apb": 0.047, "spava": 0.0258},
    8: {"full": 0.5, "zigzag_ring": 0.0625, "star": 0.0313, "apb": 0.0236, "spava": 0.0130},
}


@pytest.mark.parametrize("world_size", COSTS)
@pytest.mark.parametrize("method", ["full", "zigzag_ring", "star", "apb", "spava"])
def test_the_cost_table(world_size: int, method: str) -> None:
    n = 2**20
    share = {"anchor_len": n // 64, "passing_len": n // 64} if method == "apb" else {}
    made = make_method(method, {**share, **({"share_anchor": False} if method == "spava" else {})})
    # A question of one token, so that only the context counts.
    layout = made.layout(PromptShape(n, 1, question_len=0), world_size)
    busiest = max(made.attention_pairs(layout, rank) for rank in range(world_size)) / n**2
    assert busiest == pytest.approx(COSTS[world_size][method], rel=0.015)


def test_apb_anchor_embeds_the_question_behind_the_system_prompt() -> None:
    prompt = PromptShape(100, 10, system_len=5, question_len=7)
    layout = layout_of("apb", prompt, 3, anchor_len=20)
    assert layout.anchor == (range(5), range(90, 97), range(5, 13))
    assert flat(layout.rows(1))[:14] == [*range(5), *range(90, 97), 5, 6]
    assert flat(layout.positions(1))[:21] == [*range(20), 30]
    assert layout.anchor_rows(0) == range(0)
    assert layout.candidates[0] == range(13, 30)


def test_apb_follows_the_paper_for_text_and_the_baseline_for_video() -> None:
    text = layout_of("apb", PromptShape(131_072 + 64, 64), 8)
    assert (text.anchor_len, text.passing[0]) == (4096, 2048)
    video = layout_of("apb", PromptShape(131_072 + 64, 64, has_video=True), 8)
    assert (video.anchor_len, video.passing[0]) == (2049, 2049)
    longest = layout_of("apb", PromptShape(2**20 + 64, 64), 8)
    assert (longest.anchor_len, longest.passing[0]) == (8192, 8192)


def test_spava_follows_the_papers_defaults() -> None:
    layout = layout_of("spava", PromptShape(131_072 + 64, 64), 4)
    assert (layout.anchor_len, layout.passing[0], len(layout.blocks)) == (2048, 1024, 8)
    assert layout.owners == (0, 1, 2, 3, 3, 2, 1, 0)


def test_owners() -> None:
    assert zigzag_owners(6, 2) == (0, 1, 1, 0, 0, 1)
    assert contiguous_owners(6, 2) == (0, 0, 0, 1, 1, 1)
    assert contiguous_owners(3, 4) == (0, 1, 2)


@given(length=st.integers(0, 200), parts=st.integers(1, 20))
def test_cut_and_shard_cover_without_overlap(length: int, parts: int) -> None:
    for pieces in (cut(0, length, parts), [shard(length, i, parts) for i in range(parts)]):
        assert [i for piece in pieces for i in piece] == list(range(length))
    sizes = [len(shard(length, i, parts)) for i in range(parts)]
    assert max(sizes) - min(sizes) <= 1
    assert sizes[-1] == max(sizes)


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({"num_tokens": 4, "query_len": 5}, "query_len"),
        ({"num_tokens": 4, "query_len": 0}, "query_len"),
        ({"num_tokens": 4, "query_len": 2, "system_len": 3}, "system_len"),
        ({"num_tokens": 4, "query_len": 2, "question_len": 3}, "question_len"),
        ({"num_tokens": 4, "query_len": 2, "extra_len": -1}, "extra_len"),
    ],
)
def test_prompt_shapes_that_cannot_be(values: dict[str, int], field: str) -> None:
    with pytest.raises(InvalidInput, match=field):
        PromptShape(**values)


def test_deadlines_grow_with_the_work_and_never_fall_below_the_least() -> None:
    assert deadline_for(0, "cpu") == LEAST_SECONDS
    assert deadline_for(1e12, "cpu") == LEAST_SECONDS + 20 * 200
    assert frames_deadline(10, 0, "cuda") == LEAST_SECONDS + 20


def test_predicted_flops_by_hand() -> None:
    """Two tokens on each of two ranks: 2 x 1,000 x 2 weights, then pairs x 4 x 8 x 4 x 3."""
    config = DecoderConfig(
        vocab_size=10,
        hidden_size=32,
        intermediate_size=8,
        num_layers=3,
        num_heads=4,
        num_kv_heads=2,
        head_dim=8,
        norm_eps=1e-6,
        rope=RopeConfig(1e4),
        mrope_section=None,
        qkv_bias=False,
        output_bias=False,
        tie_embeddings=True,
        max_positions=64,
    )
    method = make_method("ring")
    layout = method.layout(PromptShape(4, 1), 2)
    assert prefill_flops(config, 1000, method, layout) == 2 * 1000 * 2 + (3 + 4) * 384
    assert token_flops(config, 1000, layout) == 2 * 1000 + 2 * 384


@pytest.mark.parametrize("method", ["apb", "spava"])
@pytest.mark.parametrize("share", [0.07, 0.29, 0.57, 0.58, 1.0, 1e-05, 0.1])
def test_a_fraction_passes_as_many_keys_as_its_decimal_says(method: str, share: float) -> None:
    """0.07 * 100 is a little more than 7 in floats."""
    options = {"passing_fraction": share, "virtual_hosts": 3, "anchor_len": 1}
    layout = make_method(method, options).layout(PromptShape(302, 1), 1)
    block = len(layout.blocks[1])
    assert layout.passing[1] == -(-Fraction(str(share)) * block // 1)
    assert block == (100 if method == "spava" else 101)


def test_pairs_with_extra_rows() -> None:
    """One rank: a context of 5 seen by 3 question and 2 extra rows, which see themselves too."""
    method = make_method("spava", {"anchor_len": 0, "virtual_hosts": 1})
    layout = method.layout(PromptShape(8, 3, extra_len=2), 1)
    assert method.attention_pairs(layout, 0) == 15 + (3 + 2) * 5 + 6 + 3
    assert layout.last_row(0) == 7
