"""How many frames, and how large, fit into a number of visual tokens.

First all frames that are wished for at the checkpoint's own resolution. When that is too much,
frames shrink, to no less than `FLOOR_TOKENS` each unit (or what the checkpoint's smallest size
takes); when that is too much still, there are fewer of them, at that smallest size. Where frames
have one size only, there are just fewer. More tokens never give fewer frames, nor smaller ones at
the same number of frames, nor fewer pixels in all.

Of several videos and pictures each gets what it wishes or an equal share, whichever is less.
"""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

from spava_app.engine.multimodal.pixels.patches import FLOOR_TOKENS
from spava_app.engine.multimodal.processors import Fit, Processor

__all__ = ["FLOOR_TOKENS", "Allocation", "Wish", "least_tokens", "share"]


@dataclass(frozen=True)
class Wish:
    """What is wished for of a video or picture.

    Attributes:
        num_frames: at the rate that is wished for.
        height, width: of its frames, in pixels.
        picture: a picture.
        all_frames: fewer frames are no answer.
        max_pixels: of a frame; None for the checkpoint's own limit.
    """

    num_frames: int
    height: int
    width: int
    picture: bool = False
    all_frames: bool = False
    max_pixels: int | None = None

    def fit(self, processor: Processor, max_unit_tokens: int | None) -> Fit:
        """All its frames with at most so many tokens in a unit, as far as they can be shrunk."""
        return processor.fit(
            self.num_frames,
            self.height,
            self.width,
            picture=self.picture,
            max_pixels=self.max_pixels,
            max_unit_tokens=max_unit_tokens,
        )


@dataclass(frozen=True)
class Allocation:
    """What there is room for.

    Attributes:
        num_frames: at most as many as were wished for.
        max_unit_tokens: for `Processor.fit`; None for the checkpoint's own resolution.
    """

    num_frames: int
    max_unit_tokens: int | None


def share(processor: Processor, wishes: Sequence[Wish], budget: int) -> list[Allocation] | None:
    """What there is room for in `budget` visual tokens; None when it is below `least_tokens`."""
    if budget < 0:
        return None
    most = [_tokens(wish.fit(processor, None)) for wish in wishes]
    least = [_least(processor, wish) for wish in wishes]

    def taken(level: int) -> int:
        pairs = zip(most, least, strict=True)
        return sum(min(high, max(low, level)) for high, low in pairs)

    if taken(0) > budget:
        return None
    level = bisect_right(range(budget + 1), budget, key=taken) - 1
    shares = (max(low, level) for low in least)
    return [_room(processor, wish, part) for wish, part in zip(wishes, shares, strict=True)]


def least_tokens(processor: Processor, wishes: Sequence[Wish]) -> int:
    """The smallest number of visual tokens that all of these fit into."""
    return sum(_least(processor, wish) for wish in wishes)


def _room(processor: Processor, wish: Wish, budget: int) -> Allocation:
    full = wish.fit(processor, None)
    if _tokens(full) <= budget:
        return Allocation(wish.num_frames, None)
    part = budget // full.grid[0]
    if _tokens(wish.fit(processor, part)) <= budget:
        return Allocation(wish.num_frames, part)
    units = budget // wish.fit(processor, 0).unit_tokens
    return Allocation(min(wish.num_frames, units * _frames_per_unit(processor, wish)), 0)


def _least(processor: Processor, wish: Wish) -> int:
    """Of all its frames, or of one unit where fewer will do."""
    smallest = wish.fit(processor, 0)
    least = _tokens(smallest) if wish.all_frames else smallest.unit_tokens
    return min(least, _tokens(wish.fit(processor, None)))


def _frames_per_unit(processor: Processor, wish: Wish) -> int:
    return 1 if wish.picture else processor.frames_per_unit


def _tokens(fit: Fit) -> int:
    return fit.grid[0] * fit.unit_tokens
