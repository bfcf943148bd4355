"""Every method equals dense float64 attention under its mask, at any world size, in prefill and
decoding.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from dist import RankPool
from tasks import LAYERS, NEW_TOKENS, Case, RankResult, error_of_case, run_case
from torch import Tensor
from truth import TRUTHS, Problem, Scores, causal, dense

from spava_app.engine.parallel.base import methods
from spava_app.kernels.attention import attention

TOLERANCE = 1e-10  # float64 noise of these sizes is near 1e-15; a wrong mask shows from 1e-3
WORLD_SIZES = (1, 2, 4)
Ranks = Callable[[int], RankPool]

# num_tokens, query_len
SHAPES = {
    "even": (8 + 64 + 5, 5),
    "ragged": (8 + 61 + 7, 7),
    "block shorter than the passing length": (8 + 19 + 4, 4),
    "question longer than a block": (40 + 23, 23),
    "one-token question": (50, 1),
    "fewer context tokens than blocks": (3 + 4, 4),
    "no context": (6, 6),
}
OPTIONS: dict[str, dict[str, Any]] = {
    "star": {},
    "apb": {"anchor_len": 12, "passing_len": 3},
    "spava": {"anchor_len": 8, "passing_len": 3},
}
BLOCKWISE = tuple(OPTIONS)


def make_case(method: str, shape: str = "ragged", **options: object) -> Case:
    num_tokens, query_len = SHAPES[shape]
    if shape == "block shorter than the passing length":
        options = {"passing_len": 16, **options} if method in {"apb", "spava"} else options
    if method == "apb" and not {"passing_len", "passing_fraction"} & set(options):
        options = {"passing_len": 3, **options}
    given = {**OPTIONS.get(method, {}), **options}
    if "passing_fraction" in given:
        given.pop("passing_len", None)
    question = min(query_len, 4)
    system = min(2, num_tokens - query_len)
    return Case(method, Problem(num_tokens, query_len, system, question, options=given))


def expected(case: Case, world_size: int) -> tuple[list[Tensor], int]:
    """The oracle's output of [copies | prompt | extra | new tokens] per layer, and how many copies.

    New tokens see the prompt and the new tokens before them, and no copies nor extra rows.
    """
    problem = replace(case.problem, world_size=world_size)
    truth = TRUTHS[case.method](problem)
    copies, n = len(truth.copies), problem.num_tokens
    rows = copies + n + problem.extra_len
    scores = fixed_scores(case.scores()) if case.scored else None
    outs = []
    for q, k, v in case.tensors():
        index = [*truth.copies, *range(len(q))]
        q, k, v = q[index].double(), k[index].double(), v[index].double()
        mask = torch.zeros(k.shape[1], len(index), len(index), dtype=torch.bool)
        mask[:, :rows, :rows] = truth.mask(q[:rows], k[:rows], scores)
        mask[:, rows:, copies : copies + n] = True
        mask[:, rows:, rows:] = causal(NEW_TOKENS, 1)
        outs.append(dense(q, k, v, mask))
    return outs, copies


def fixed_scores(scores: Tensor) -> Scores:
    return lambda q, k, block, head: scores[head, block.start : block.stop].tolist()


def check(case: Case, world_size: int, results: list[RankResult]) -> None:
    """Every row of every rank, and every new token, is the oracle's."""
    outs, copies = expected(case, world_size)
    covered: set[int] = set()
    for result in results:
        anchor = range(result.first_anchor, result.first_anchor + result.num_anchor)
        places = [*anchor, *(copies + token for token in result.rows[result.num_anchor :])]
        covered.update(places)
        for layer in range(LAYERS):
            assert_equal(result.outs[layer], outs[layer][places])
            assert_equal(result.decoded[layer], outs[layer][-NEW_TOKENS:])
    assert covered >= set(range(copies, copies + case.problem.num_tokens))


def assert_equal(ours: Tensor, theirs: Tensor, atol: float = TOLERANCE) -> None:
    torch.testing.assert_close(ours, theirs, atol=atol, rtol=0)


def check_cached_once(case: Case, results: list[RankResult]) -> None:
    """The ranks' caches hold each key of the prompt and of the new tokens exactly once."""
    n = case.problem.num_tokens
    for layer, (_, k, _) in enumerate(case.tensors()):
        kept = torch.cat((k[:n], k[-NEW_TOKENS:])).flatten(1)
        cached = torch.cat([result.cached[layer] for result in results]).flatten(1)
        assert sorted(map(tuple, cached.tolist())) == sorted(map(tuple, kept.tolist()))


def run_and_check(ranks: Ranks, world_size: int, case: Case) -> list[RankResult]:
    results = ranks(world_size).run(run_case, case)
    check(case, world_size, results)
    check_cached_once(case, results)
    return results


def by_token(results: list[RankResult], layer: int) -> dict[int, Tensor]:
    """The attention of each prompt token that is not an anchor row."""
    rows: dict[int, Tensor] = {}
    for result in results:
        for place in range(result.num_anchor, len(result.rows)):
            rows[result.rows[place]] = result.outs[layer][place]
    return rows


def test_every_method_has_a_truth() -> None:
    assert set(methods()) == set(TRUTHS)


@pytest.mark.parametrize("world_size", WORLD_SIZES)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("method", TRUTHS)
def test_method_is_its_mask(ranks: Ranks, world_size: int, shape: str, method: str) -> None:
    run_and_check(ranks, world_size, make_case(method, shape))


@pytest.mark.parametrize("world_size", WORLD_SIZES)
@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("spava", {"anchor_len": 0, "passing_len": 0}),
        ("spava", {"anchor_len": 0, "passing_len": 4, "virtual_hosts": 5}),
        ("spava", {"anchor_len": 8, "passing_len": 100, "virtual_hosts": 3}),
        ("spava", {"anchor_len": 1000, "passing_len": 4, "virtual_hosts": 4}),
        ("spava", {"anchor_len": 7, "virtual_hosts": 11, "share_anchor": False}),
        ("spava", {"passing_fraction": 0.3, "virtual_hosts": 6, "placement": "contiguous"}),
        ("star", {"anchor_len": 5, "virtual_hosts": 6}),
        ("star", {"virtual_hosts": 3, "share_anchor": True}),
        ("star", {"virtual_hosts": 8, "placement": "zigzag"}),
        ("apb", {"anchor_len": 6, "passing_fraction": 0.5, "virtual_hosts": 5}),
        ("apb", {"anchor_len": 1000, "passing_len": 3, "virtual_hosts": 4}),
        ("apb", {"anchor_len": 9, "passing_len": 2, "virtual_hosts": 7, "share_anchor": True}),
        ("apb", {"anchor_len": 9, "passing_len": 0, "virtual_hosts": 4, "placement": "zigzag"}),
    ],
)
def test_options(ranks: Ranks, world_size: int, method: str, options: dict[str, Any]) -> None:
    run_and_check(ranks, world_size, make_case(method, **options))


@pytest.mark.parametrize("world_size", WORLD_SIZES)
@pytest.mark.parametrize("method", BLOCKWISE)
def test_extra_query_sees_the_context_and_is_not_cached(
    ranks: Ranks, world_size: int, method: str
) -> None:
    case = make_case(method, virtual_hosts=4)
    run_and_check(ranks, world_size, replace(case, problem=replace(case.problem, extra_len=5)))


@pytest.mark.parametrize("world_size", WORLD_SIZES)
@pytest.mark.parametrize("method", ["apb", "spava"])
def test_retaining_head_scores_choose_what_is_passed(
    ranks: Ranks, world_size: int, method: str
) -> None:
    run_and_check(ranks, world_size, replace(make_case(method, virtual_hosts=5), scored=True))


def test_apb_withheld_rows_still_lift_their_neighbours(ranks: Ranks) -> None:
    """Pooling is over the block; only then are the rows that the others hold as anchor left out."""
    case = make_case("apb", "even", virtual_hosts=4, anchor_len=12, passing_len=2)
    case = replace(case, scored=True)
    copied = 12 - case.problem.question_len
    # A seed whose highest score at the border lies on the last withheld row.
    seeds = (
        seed
        for seed in range(10_000)
        if all(
            scores[copied - 1] == scores[: copied + 10].max()
            for scores in replace(case, seed=seed).scores()
        )
    )
    run_and_check(ranks, 2, replace(case, seed=next(seeds)))


@pytest.mark.parametrize("world_size", WORLD_SIZES)
@pytest.mark.parametrize(("anchor_len", "virtual_hosts"), [(0, 2), (8, 8), (13, 5)])
@pytest.mark.parametrize("shape", SHAPES)
def test_spava_that_passes_everything_is_exact(
    ranks: Ranks, world_size: int, shape: str, anchor_len: int, virtual_hosts: int
) -> None:
    options = {
        "passing_fraction": 1.0,
        "anchor_len": anchor_len,
        "virtual_hosts": virtual_hosts,
    }
    case = Case("spava", Problem(*SHAPES[shape], options=options))
    results = ranks(world_size).run(run_case, case)
    outs, _ = expected(Case("full", case.problem), world_size)
    for result in results:
        for layer in range(LAYERS):
            assert_equal(result.outs[layer], outs[layer][result.rows])


@pytest.mark.parametrize("method", BLOCKWISE)
def test_for_fixed_blocks_the_world_size_does_not_matter(ranks: Ranks, method: str) -> None:
    case = make_case(method, virtual_hosts=6)
    single = ranks(1).run(run_case, case)
    for world_size in (2, 4):
        several = ranks(world_size).run(run_case, case)
        for layer in range(LAYERS):
            alone, spread = by_token(single, layer), by_token(several, layer)
            for token in set(alone) & set(spread):
                assert_equal(spread[token], alone[token], atol=1e-12)


@pytest.mark.parametrize("method", BLOCKWISE)
def test_overlapped_is_bit_for_bit_the_same(ranks: Ranks, method: str) -> None:
    overlapped = ranks(2).run(run_case, make_case(method, virtual_hosts=4))
    waiting = ranks(2).run(run_case, make_case(method, virtual_hosts=4, overlap=False))
    for one, other in zip(overlapped, waiting, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one.outs, other.outs, strict=True))


@pytest.mark.parametrize("method", BLOCKWISE)
def test_shared_anchor_is_a_copied_anchor(ranks: Ranks, method: str) -> None:
    shared = ranks(4).run(run_case, make_case(method, virtual_hosts=5, share_anchor=True))
    copied = ranks(4).run(run_case, make_case(method, virtual_hosts=5, share_anchor=False))
    for layer in range(LAYERS):
        one, other = by_token(shared, layer), by_token(copied, layer)
        for token in set(one) & set(other):
            assert_equal(one[token], other[token], atol=1e-12)


@pytest.mark.parametrize("world_size", WORLD_SIZES)
@pytest.mark.parametrize("method", TRUTHS)
def test_in_bfloat16_merging_adds_no_error(ranks: Ranks, world_size: int, method: str) -> None:
    """Twice the error of one plain bfloat16 call is allowed, as norm over norm.

    Partial results and their log-sum-exp travel and merge in float32. Packed in bfloat16, a
    log-sum-exp of 20 would be off by up to 0.06 and its part's weight by 6 %.
    """
    case = replace(make_case(method), dtype=torch.bfloat16, heads=(4, 2, 64), sharpness=8.0)
    results = ranks(world_size).run(run_case, case)
    outs, copies = expected(case, world_size)
    for layer, (q, k, v) in enumerate(case.tensors()):
        plain = attention(q, k, v, causal=True)[0]
        exact = dense(q.double(), k.double(), v.double(), causal(len(q), k.shape[1]))
        allowed = 2 * relative_error(plain, exact)
        for result in results:
            anchor = range(result.first_anchor, result.first_anchor + result.num_anchor)
            places = [*anchor, *(copies + token for token in result.rows[result.num_anchor :])]
            if places:
                assert relative_error(result.outs[layer], outs[layer][places]) < allowed
            assert relative_error(result.decoded[layer], outs[layer][-NEW_TOKENS:]) < allowed


def relative_error(ours: Tensor, theirs: Tensor) -> float:
    return float((ours.double() - theirs).norm() / theirs.norm())


@pytest.mark.parametrize("heads", [(4, 4, 8), (8, 1, 8), (4, 2, 16)])
@pytest.mark.parametrize("method", TRUTHS)
def test_head_ratios(ranks: Ranks, method: str, heads: tuple[int, int, int]) -> None:
    run_and_check(ranks, 4, replace(make_case(method), heads=heads))


@pytest.mark.parametrize(
    ("case", "message"),
    [
        (Case("nearly", Problem(20, 4)), "method='nearly': choose one of"),
        (Case("ring", Problem(20, 4, options={"anchor_len": 4})), "anchor_len=4: method ring"),
        (Case("full", Problem(1, 1)), "ranks=2: the prompt has 1 tokens"),
        (Case("ulysses", Problem(20, 4), heads=(3, 1, 8)), "ranks=2: ulysses cannot spread 3"),
        (Case("ring", Problem(20, 4, extra_len=2)), "extra_len=2: method ring"),
        (make_case("spava", passing_fraction=2), "passing_fraction=2: must be 0 to 1"),
        (make_case("spava", virtual_hosts=0), "virtual_hosts=0: must be an integer of at"),
        (make_case("spava", anchor_len=True), "anchor_len=True: must be an integer"),
        (make_case("spava", share_anchor=1), "share_anchor=1: must be true or false"),
        (make_case("star", placement="left"), "placement='left': choose one of contiguous"),
        (make_case("apb", anchor_len=3), "anchor_len=3: the system prompt and the question"),
        (
            Case("apb", Problem(20, 4, options={"passing_len": 1, "passing_fraction": 0.5})),
            "passing_fraction=0.5: give it or passing_len, not both",
        ),
        (Case("full", Problem(20, 4), heads=(3, 2, 8)), "num_heads=3: must be a multiple"),
        (make_case("spava", backend="fast"), "backend='fast': choose auto or one of"),
    ],
)
def test_wrong_input_is_the_same_typed_error_on_all_ranks(
    ranks: Ranks, case: Case, message: str
) -> None:
    errors = ranks(2).run(error_of_case, case)
    assert errors[0] == errors[1]
    assert errors[0][0] == "InvalidInput"
    assert message in errors[0][1]
