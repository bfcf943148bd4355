"""Ranks of any number share what was kept: the same bits, without decoding."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from dist import RankPool
from generation import encode_with_cache
from torch import Tensor

from spava_app.engine.multimodal.fingerprint import file_content
from spava_app.engine.multimodal.pixels.config import PixelConfig
from spava_app.engine.multimodal.processors import QwenProcessor
from spava_app.engine.request import Request

PIXELS = PixelConfig(min_pixels=28 * 28, max_pixels=84 * 84)
PROCESSOR = QwenProcessor(PIXELS, PIXELS, frozenset())
Ranks = Callable[[int], RankPool]


@pytest.fixture(scope="module")
def hashed(request_: Request) -> Request:
    """A request whose medium has a content."""
    [medium] = request_.media
    content, _ = file_content(medium.path)
    return replace(request_, media=(replace(medium, content=content),))


Made = tuple[Tensor, list[int], list[str]]


def in_order(made: list[Made]) -> Tensor:
    """The embeddings of all ranks, unit by unit."""
    units = [unit for _, own, _ in made for unit in own]
    rows = torch.cat([rows for rows, _, _ in made]).unflatten(0, (len(units), -1))
    return rows[torch.tensor(units).argsort()].flatten(0, 1)


@pytest.mark.parametrize("first", [1, 4])
def test_what_some_ranks_kept_serves_any_number(
    first: int, ranks: Ranks, checkpoint: Path, hashed: Request, tmp_path: Path
) -> None:
    given = (checkpoint, PROCESSOR, hashed, tmp_path / "kept")
    made = ranks(first).run(encode_with_cache, *given)
    assert all(stages == ["decode", "vision"] for _, _, stages in made)
    rows = in_order(made)
    assert rows.shape == (14 * 9, 64)
    for world_size in (1, 2, 4):
        found = ranks(world_size).run(encode_with_cache, *given)
        assert [stages for _, _, stages in found] == [[]] * world_size
        assert torch.equal(in_order(found), rows)


def test_units_that_are_lost_are_made_again(
    ranks: Ranks, checkpoint: Path, hashed: Request, tmp_path: Path
) -> None:
    given = (checkpoint, PROCESSOR, hashed, tmp_path)
    made = ranks(1).run(encode_with_cache, *given)
    [path] = tmp_path.glob("*.units")
    data = bytearray(path.read_bytes())
    data[len(data) * 5 // 14 + 30] ^= 4  # in unit 5
    path.write_bytes(data)
    found = ranks(2).run(encode_with_cache, *given)
    for _, units, stages in found:
        assert stages == (["decode", "vision"] if 5 in units else [])
    # Made in a batch of another size: equal up to rounding.
    torch.testing.assert_close(in_order(found), in_order(made), atol=1e-5, rtol=0)
    found = ranks(4).run(encode_with_cache, *given)
    assert [stages for _, _, stages in found] == [[]] * 4


def test_all_ranks_write_one_cold_cache_at_once(
    ranks: Ranks, checkpoint: Path, hashed: Request, tmp_path: Path
) -> None:
    """Each rank its own units; the file is whole afterwards, and of one size."""
    ranks(4).run(encode_with_cache, checkpoint, PROCESSOR, hashed, tmp_path)
    [path] = tmp_path.glob("*.units")
    assert path.stat().st_size == 14 * (9 * 64 * 4 + 16)
