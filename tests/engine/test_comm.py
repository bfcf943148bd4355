"""Collectives over real gloo processes, and what happens when a rank stays away."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from comm_tasks import all_calls, hang_before_the_prefill, meet_again, stay_away
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


@pytest.fixture(scope="module")
def processes() -> Iterator[RankPool]:
    """Two of them for groups that fail."""
    pool = RankPool(2)
    yield pool
    pool.close()


@pytest.fixture
def group(processes: RankPool, tmp_path: Path) -> RankPool:
    """They, in a group in which no collective has failed."""
    processes.run(meet_again, f"file://{tmp_path / 'store'}")
    return processes


@pytest.mark.parametrize("call", ["all_gather", "all_to_all", "shift"])
def test_a_collective_ends_at_its_deadline(call: str, group: RankPool) -> None:
    began = time.monotonic()
    waited, stayed = group.run(stay_away, call, 1.0)
    assert waited == "RuntimeError"
    assert stayed == "away"
    assert 1 <= time.monotonic() - began < 30  # connected with 60 s


def test_a_rank_that_hangs_ends_the_request_at_the_stages_deadline(
    checkpoint: Path, group: RankPool
) -> None:
    """The deadline that `Runner` sets from its prediction, with the least one lowered to 1 s."""
    began = time.monotonic()
    waited, stayed = group.run(hang_before_the_prefill, checkpoint, 1.0)
    assert waited == "RuntimeError"
    assert stayed == "away"
    assert 1 <= time.monotonic() - began < 30
