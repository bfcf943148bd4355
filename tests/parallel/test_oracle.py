"""Every method equals dense float64 attention under its mask, at any world size, in prefill and
decoding.
"""

from collections.abc import Callable

import pytest
import torch
import truth
from dist import RankPool
from tasks import LAYERS, Case, RankResult, run_case
from torch import Tensor

TOLERANCE = 1e-10  # float64 noise of these sizes is near 1e-15; a wrong mask shows from 1e-3
WORLD_SIZES = (1, 2, 4)
Ranks = Callable[[int], RankPool]

SHAPES = {
    "even": (8 + 64 + 5, 5),
    "ragged": (8 + 61 + 7, 7),
    "question longer than a block": (40 + 23, 23),
    "one-token question": (50, 1),
    "fewer context tokens than blocks": (3 + 4, 4),
    "no context": (6, 6),
}


def expected(case: Case, world_size: int) -> list[Tensor]:
    """The oracle's output of all rows, new tokens included, per layer."""
    outs = []
    for q, k, v in case.tensors():
        mask = truth.causal(len(q), k.shape[1])
        if case.method == "spava":
            n = case.num_tokens
            options = {"virtual_hosts": 2 * world_size, **case.options}
            mask[:, :n, :n] = truth.spava(
                q[:n],
                k[:n],
                case.query_len,
                virtual_hosts=options["virtual_hosts"],
                anchor_len=options["anchor_len"],
                passing_len=options["passing_len"],
            )
        outs.append(truth.dense(q, k, v, mask))
    return outs


def check(case: Case, results: list[RankResult], expected: list[Tensor]) -> None:
    n = case.num_tokens
    covered: set[int] = set()
    for result in results:
        covered.update(result.rows)
        for layer in range(LAYERS):
            torch.testing.assert_close(
                result.outs[layer], expected[layer][result.rows], atol=TOLERANCE, rtol=0
            )
            torch.testing.assert_close(
                result.decoded[layer], expected[layer][n:], atol=TOLERANCE, rtol=0
            )
    assert covered == set(range(n))


def check_cached_once(case: Case, results: list[RankResult]) -> None:
    """The ranks' caches hold each key of the prompt and of the new tokens exactly once."""
    for layer, (_, k, _) in enumerate(case.tensors()):
        cached = torch.cat([result.cached[layer] for result in results])
        order = [tuple(row) for row in cached.flatten(1).tolist()]
        assert sorted(order) == sorted(tuple(row) for row in k.flatten(1).tolist())


@pytest.mark.parametrize("world_size", WORLD_SIZES)
@pytest.mark.parametrize("shape", SHAPES)
def test_full_is_dense_causal_attention(ranks: Ranks, world_size: int, shape: str) -> None:
    case = Case("full", *SHAPES[shape])
    results = ranks(world_size).run(run_case, case)
    check(case, results, expected(case, world_size))
    check_cached_once(case, results)


@pytest.mark.parametrize("share_anchor", [True, False])
@pytest.mark.parametrize("world_size", WORLD_SIZES)
@pytest.mark.parametrize("shape", SHAPES)
def test_spava_is_its_mask(ranks: Ranks, world_size: int, shape: str, share_anchor: bool) -> None:
    options = {"anchor_len": 8, "passing_len": 3, "share_anchor": share_anchor}
    case = Case("spava", *SHAPES[shape], options)
    results = ranks(world_size).run(run_case, case)
    check(case, results, expected(case, world_size))
    check_cached_once(case, results)


@pytest.mark.parametrize("world_size", WORLD_SIZES)
@pytest.mark.parametrize(
    ("anchor_len", "passing_len", "virtual_hosts"),
    [(0, 0, None), (0, 4, 5), (8, 100, 3), (1000, 4, 4), (7, 2, 11)],
)
def test_spava_with_other_lengths(
    ranks: Ranks, world_size: int, anchor_len: int, passing_len: int, virtual_hosts: int | None
) -> None:
    options: dict[str, object] = {"anchor_len": anchor_len, "passing_len": passing_len}
    if virtual_hosts is not None:
        options["virtual_hosts"] = virtual_hosts
    case = Case("spava", 67, 6, options)
    results = ranks(world_size).run(run_case, case)
    check(case, results, expected(case, world_size))
    check_cached_once(case, results)


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
    case = Case("spava", *SHAPES[shape], options)
    results = ranks(world_size).run(run_case, case)
    check(case, results, expected(Case("full", *SHAPES[shape]), world_size))


def test_spava_overlapped_is_bit_for_bit_the_same(ranks: Ranks) -> None:
    options = {"anchor_len": 8, "passing_len": 3, "virtual_hosts": 4}
    overlapped = ranks(2).run(run_case, Case("spava", 77, 5, options))
    waiting = ranks(2).run(run_case, Case("spava", 77, 5, {**options, "overlap": False}))
    for one, other in zip(overlapped, waiting, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one.outs, other.outs, strict=True))
