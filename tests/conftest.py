"""Fixtures shared by all tests."""

import os
import tempfile
from collections.abc import Callable, Iterator

import pytest
import torch
from dist import RankPool

torch.set_num_threads(1)
# Nothing is read from or written to the user's own cache, by commands that tests run either.
_CACHE = tempfile.TemporaryDirectory(prefix="spava-cache-")
os.environ["SPAVA_CACHE"] = _CACHE.name


@pytest.fixture(scope="session")
def ranks() -> Iterator[Callable[[int], RankPool]]:
    """`ranks(W)` is a pool of W gloo processes, started on first use and kept for the session."""
    pools: dict[int, RankPool] = {}

    def pool(world_size: int) -> RankPool:
        if world_size not in pools:
            pools[world_size] = RankPool(world_size)
        return pools[world_size]

    yield pool
    for started in pools.values():
        started.close()
