"""What a method tells of a layer is what it computes and receives, counted while it runs."""

from collections.abc import Callable
from typing import Any

import pytest
from dist import RankPool
from step_tasks import told_and_counted

from spava_app.engine.parallel.base import methods

CASES: list[tuple[str, dict[str, Any]]] = [
    *((name, {}) for name in methods()),
    ("spava", {"virtual_hosts": 6, "passing_fraction": 0.3, "anchor_len": 17}),
    ("spava", {"share_anchor": False, "overlap": False}),
    ("apb", {"virtual_hosts": 5, "passing_len": 7, "share_anchor": True}),
    ("star", {"anchor_len": 0}),
]


@pytest.mark.parametrize("world_size", [1, 2, 4])
@pytest.mark.parametrize(("name", "options"), CASES, ids=str)
def test_told_as_counted(
    ranks: Callable[[int], RankPool], world_size: int, name: str, options: dict[str, Any]
) -> None:
    for rank, counts in enumerate(ranks(world_size).run(told_and_counted, name, options, 403)):
        told, counted = counts["pairs"]
        # Shares of the heads are rounded.
        assert told == pytest.approx(counted, rel=1e-4), f"pairs of rank {rank}"
        told, counted = counts["received"]
        assert told == pytest.approx(counted, rel=0.01), f"bytes of rank {rank}"
