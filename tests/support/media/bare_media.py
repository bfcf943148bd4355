"""Media without a file behind them, for what only counts units and tokens."""

from collections.abc import Iterable
from typing import Any

from spava_app.engine.media import FrameSource, Media


def bare_media(
    grid: tuple[int, int, int], unit_tokens: int, starts: Iterable[int], **changes: Any
) -> Media:
    """A video of `grid` units whose tokens begin at `starts`."""
    source = FrameSource("video", ("",), ((),), (0, 0), ())
    fields: dict[str, Any] = {"path": "", "picture": False, "frames": (), "times": ()}
    fields |= {"size": (0, 0), "source": source} | changes
    return Media(grid=grid, unit_tokens=unit_tokens, starts=tuple(starts), **fields)
