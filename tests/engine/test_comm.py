"""Collectives over real gloo processes, and what happens when a rank stays away."""

import time
from collections.abc import Callable
from pathlib import Path

import pytest
from comm_tasks import all_calls, hang_before_the_prefill, stay_away
from dist import RankPool


def test_collectives(ranks: Callable[[int], RankPool]) -> None:
    for world_size in (1, 2, 4):
        for rank, got in enumerate(ranks(world_size).run(all_calls)):
            everyone = range(world_size)
            assert got["gathered"].tolist() == [[[float(r)] * 2] * 3 for r in everyone]
            assert got["shifted"].tolist() == [(rank - 1) % world_size] * (
                (rank - 1) % world_size + 1
            )
            # Rank s sends d + 1 rows of value 10 s + d to rank d.
            exchanged = [10 * s + rank for s in everyone for _ in range(rank + 1)]
            assert got["exchanged"].tolist() == exchanged
            assert got["broadcast"] == world_size - 1
            assert got["any"] == (True, False)


@pytest.mark.parametrize("call", ["all_gather", "all_to_all", "shift"])
def test_a_collective_ends_at_its_deadline(call: str) -> None:
    """A pool of its own: a group in which a collective failed is not used again."""
    pool = RankPool(2)
    began = time.monotonic()
    waited, stayed = pool.run(stay_away, call, 1.0)
    pool.close()
    assert waited == "RuntimeError"
    assert stayed == "away"
    assert time.monotonic() - began < 30  # connected with 60 s


def test_a_rank_that_hangs_ends_the_request_at_the_stages_deadline(checkpoint: Path) -> None:
    """The deadline that `Runner` sets from its prediction, with the least one lowered to 1 s."""
    pool = RankPool(2)
    began = time.monotonic()
    waited, stayed = pool.run(hang_before_the_prefill, checkpoint, 1.0)
    pool.close()
    assert waited == "RuntimeError"
    assert stayed == "away"
    assert time.monotonic() - began < 30
