"""What fits into a number of visual tokens: never more than it, never less for more of it."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spava_app.engine.multimodal.pixels.config import PixelConfig
from spava_app.engine.multimodal.pixels.tiles import TileConfig
from spava_app.engine.multimodal.processors import Fit, InternVLProcessor, Processor, QwenProcessor
from spava_app.engine.multimodal.token_budget import FLOOR_TOKENS, Wish, least_tokens, share

# As published: Qwen2.5-VL shrinks only what is above 12.8 million pixels.
PUBLISHED = PixelConfig(min_pixels=4 * 784, max_pixels=16384 * 784)
QWEN = QwenProcessor(PUBLISHED, PUBLISHED, frozenset((1, 2)))
INTERNVL = InternVLProcessor(TileConfig(size=448, max_tiles=12), tile_tokens=256)


def qwen(low: int, times: int, cap: int | None) -> QwenProcessor:
    pixels = PixelConfig(
        min_pixels=low * 784,
        max_pixels=low * times * 784,
        cap_pixels_per_frame=cap is not None,
        max_video_tokens=cap or 1,
    )
    return QwenProcessor(pixels, pixels, frozenset((1, 2)))


processors = st.just(INTERNVL) | st.builds(
    qwen, st.integers(1, 300), st.integers(1, 200), st.none() | st.integers(1, 128_000)
)
wishes = st.builds(
    Wish,
    num_frames=st.integers(1, 2000),
    height=st.integers(28, 1500),
    width=st.integers(28, 2600),
    all_frames=st.booleans(),
) | st.builds(
    Wish,
    num_frames=st.just(1),
    height=st.integers(28, 3000),
    width=st.integers(28, 3000),
    picture=st.just(True),
)
budgets = st.integers(0, 300_000) | st.integers(0, 3000)


def fits(processor: Processor, given: list[Wish], budget: int) -> list[tuple[int, Fit]] | None:
    """Per wish the number of frames and how they fit."""
    rooms = share(processor, given, budget)
    if rooms is None:
        return None
    return [
        (
            room.num_frames,
            processor.fit(
                room.num_frames,
                wish.height,
                wish.width,
                picture=wish.picture,
                max_unit_tokens=room.max_unit_tokens,
            ),
        )
        for wish, room in zip(given, rooms, strict=True)
    ]


def tokens(fit: Fit) -> int:
    return fit.grid[0] * fit.unit_tokens


@given(processor=processors, given_=st.lists(wishes, min_size=1, max_size=4), budget=budgets)
def test_never_over_the_budget(processor: Processor, given_: list[Wish], budget: int) -> None:
    found = fits(processor, given_, budget)
    if found is None:
        assert budget < least_tokens(processor, given_)
        return
    assert budget >= least_tokens(processor, given_)
    assert sum(tokens(fit) for _, fit in found) <= budget
    for wish, (num_frames, fit) in zip(given_, found, strict=True):
        assert 1 <= num_frames <= wish.num_frames
        assert num_frames == wish.num_frames or not (wish.all_frames or wish.picture)
        if num_frames < wish.num_frames:  # only when frames cannot be smaller
            smallest = wish.fit(processor, 0)
            assert fit.size == smallest.size
            assert fit.unit_tokens == smallest.unit_tokens


@given(processor=processors, wish=wishes, budget=budgets, more=st.integers(0, 5000))
def test_more_tokens_never_give_less(
    processor: Processor, wish: Wish, budget: int, more: int
) -> None:
    before, after = fits(processor, [wish], budget), fits(processor, [wish], budget + more)
    if before is None:
        return
    assert after is not None
    [(few, small)], [(many, large)] = before, after
    area = small.size[0] * small.size[1], large.size[0] * large.size[1]
    assert many >= few
    assert many * area[1] >= few * area[0]
    assert many > few or large.unit_tokens >= small.unit_tokens


@given(processor=processors, given_=st.lists(wishes, min_size=2, max_size=4), budget=budgets)
def test_nobody_gets_less_than_an_equal_share_for_another(
    processor: Processor, given_: list[Wish], budget: int
) -> None:
    """Who has less than wished for alone in an equal share has it because others need the rest."""
    found = fits(processor, given_, budget)
    if found is None:
        return
    part = budget // len(given_)
    if any(least_tokens(processor, [wish]) > part for wish in given_):
        return
    for wish, (num_frames, fit) in zip(given_, found, strict=True):
        alone = fits(processor, [wish], part)
        assert alone is not None
        assert (num_frames, tokens(fit)) >= (alone[0][0], tokens(alone[0][1]))


def test_an_hour_of_1080p_by_hand() -> None:
    hour = Wish(num_frames=768, height=1080, width=1920)
    # 2691 tokens a unit (69 x 39) at its own size.
    [(frames, fit)] = fits(QWEN, [hour], 384 * 2691) or []
    assert (frames, fit.size, fit.unit_tokens) == (768, (39 * 28, 69 * 28), 2691)
    # 384 units of 300 tokens: 1080 x 1920 shrunk by 2.97 is 363.7 x 646.6, 12 x 23 squares.
    [(frames, fit)] = fits(QWEN, [hour], 384 * 300) or []
    assert (frames, fit.size, fit.unit_tokens) == (768, (12 * 28, 23 * 28), 276)
    # At the floor of 128 tokens: 237.6 x 422.4, that is 8 x 15 squares; 30000 / 120 units of them.
    [(frames, fit)] = fits(QWEN, [hour], 30_000) or []
    assert (frames, fit.size, fit.unit_tokens) == (500, (8 * 28, 15 * 28), 120)
    assert fits(QWEN, [hour], 119) is None
    assert least_tokens(QWEN, [hour]) == 120 <= FLOOR_TOKENS
    # A frame of InternVL is a tile.
    [(frames, fit)] = fits(INTERNVL, [hour], 30_000) or []
    assert (frames, fit.size, fit.unit_tokens) == (117, (448, 448), 256)


def test_sharing_by_hand() -> None:
    hour, clip = Wish(768, 360, 640), Wish(4, 360, 640)
    assert [tokens(fit) for _, fit in fits(QWEN, [hour, clip], 20_000) or []] == [19_320, 598]
    picture = Wish(1, 1000, 1000, picture=True)  # 3 x 3 tiles and a thumbnail
    [(_, large)] = fits(INTERNVL, [picture], 2560) or []
    [(_, small)] = fits(INTERNVL, [picture], 2559) or []
    assert (large.grid, small.grid) == ((1, 3, 3), (1, 2, 2))
    kept = Wish(16, 360, 640, all_frames=True)
    assert least_tokens(QWEN, [kept]) == 8 * 120  # 8 x 15 squares of 28 pixels
    assert share(QWEN, [kept], 8 * 120 - 1) is None


@pytest.mark.parametrize("processor", [QWEN, INTERNVL], ids=["qwen", "internvl"])
def test_every_budget_of_a_range_in_turn(processor: Processor) -> None:
    """All steps, so that none between those that are drawn goes down."""
    wish = Wish(num_frames=37, height=360, width=640)
    seen = [fits(processor, [wish], budget) for budget in range(300, 12_000, 7)]
    sizes = [found[0] for found in seen if found]
    assert len({(frames, fit.size) for frames, fit in sizes}) > 20
    for (few, small), (many, large) in pairwise(sizes):
        assert few * small.size[0] * small.size[1] <= many * large.size[0] * large.size[1]
