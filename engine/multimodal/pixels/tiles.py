"""From RGB frames to the square tiles an InternVL vision tower reads.

Legend: N = frames, H, W = height and width, S = side of a tile. A video gives one tile per frame,
whatever its shape; a picture may give a grid of tiles and a thumbnail.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from spava_app.engine.models.config.settings import Settings, in_file
from spava_app.engine.multimodal.pixels.config import channels, read_settings, refuse_other_steps
from spava_app.engine.multimodal.pixels.patches import resize
from spava_app.errors import CheckpointError, InvalidInput

_IMAGENET_MEAN = (0.485, 0.456, 0.406)
_IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class TileConfig:
    """Pixel settings of an InternVL checkpoint; the defaults are those of InternVL3.

    Attributes:
        size: pixels along the side of a tile.
        mean, std: per channel RGB, of values from 0 to 1.
        max_tiles: of a picture, its thumbnail not counted.
    """

    size: int = 448
    mean: tuple[float, float, float] = _IMAGENET_MEAN
    std: tuple[float, float, float] = _IMAGENET_STD
    max_tiles: int = 12

    def __post_init__(self) -> None:
        for name in ("size", "max_tiles"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise CheckpointError(name, value, "must be a positive whole number")
        if len(self.mean) != 3 or len(self.std) != 3 or 0 in self.std:
            fix = "must be three numbers each, no std of 0"
            raise CheckpointError("image_mean, image_std", (self.mean, self.std), fix)

    @classmethod
    def from_dict(cls, settings: Mapping[str, Any]) -> "TileConfig":
        """Read the dictionary of a preprocessor file of an "-hf" checkpoint.

        Raises:
            CheckpointError: a setting is missing, malformed, or asks for a step not done here.
        """
        refuse_other_steps(settings)
        read = Settings(settings, {"max_patches": 12})
        read.only("min_patches", 1)
        for name in ("size", "image_mean", "image_std"):
            if name not in read:
                read.refuse(name, "must be in the preprocessor file")
        size = read.part("size")
        if (side := size.count("height")) != size.count("width"):
            read.refuse("size", "height and width must be the same")
        mean = channels(read, "image_mean", _IMAGENET_MEAN)
        std = channels(read, "image_std", _IMAGENET_STD)
        return cls(side, mean, std, read.count("max_patches"))

    @classmethod
    def from_folder(cls, folder: str | Path, size: int, max_tiles: int | None) -> "TileConfig":
        """Read the settings of a checkpoint whose tower takes tiles of `size` pixels. The original
        layout's file is for training on whole pictures: there `max_tiles`, which is None for the
        other layout, and the defaults hold.

        Raises:
            CheckpointError: a broken file, or tiles of another size.
        """
        file, settings = read_settings(folder, picture=True) or (Path(folder), {})
        if max_tiles is not None and not isinstance(settings.get("size"), dict):
            return cls(size, max_tiles=max_tiles)
        if not settings:
            return cls(size)
        with in_file(file):
            found = cls.from_dict(settings)
            if found.size != size:
                fix = f"must be the tower's image_size={size}: positions are not resized"
                raise CheckpointError("size", found.size, fix)
        return found


def tile_grid(
    height: int, width: int, max_tiles: int, *, min_tiles: int = 1, size: int = 448
) -> tuple[int, int]:
    """The (rows, columns) of tiles for a picture: the aspect ratio nearest to its own.

    Of equally near grids the one with more tiles, as long as they cover less than twice the
    picture's area. The rule of InternVL 1.5 (arXiv 2404.16821, section 3.3) and, to the order of
    equals, of transformers.

    Raises:
        InvalidInput: a picture without pixels, or no possible number of tiles.
    """
    if min(height, width) < 1:
        raise InvalidInput("height, width", (height, width), "must be positive")
    if not 1 <= min_tiles <= max_tiles:
        fix = "give 1 <= min_tiles <= max_tiles"
        raise InvalidInput("min_tiles, max_tiles", (min_tiles, max_tiles), fix)
    grids = [
        (rows, columns)
        for columns in range(1, max_tiles + 1)
        for rows in range(1, max_tiles // columns + 1)
        if rows * columns >= min_tiles
    ]
    best, nearest = (1, 1), float("inf")
    for rows, columns in sorted(grids, key=lambda grid: grid[0] * grid[1]):
        off = abs(width / height - columns / rows)
        covers = height * width > 0.5 * size * size * rows * columns
        if off < nearest or (off == nearest and covers):
            best, nearest = (rows, columns), off
    return best


def tiles_of_grid(grid: tuple[int, int]) -> int:
    """Tiles of one picture: those of its grid, and a thumbnail where they are several."""
    rows, columns = grid
    return rows * columns + (rows * columns > 1)


def tile_frames(
    frames: torch.Tensor, config: TileConfig, *, grid: tuple[int, int] = (1, 1)
) -> torch.Tensor:
    """Resize, cut and normalise frames, on the device they are on.

    Args:
        frames: [N, H, W, 3] uint8 RGB; N may be 0.
        config: the checkpoint's settings.
        grid: (rows, columns) of tiles of each frame, from `tile_grid`; one tile for a video.

    Returns:
        [N * tiles_of_grid(grid), 3, S, S] float32: frame by frame, the tiles of each row by row,
        its thumbnail last.

    Raises:
        InvalidInput: frames of another shape or type, or a grid without tiles.
    """
    right = frames.dtype == torch.uint8 and frames.ndim == 4 and frames.shape[-1] == 3
    if not right or 0 in frames.shape[1:]:
        value = (tuple(frames.shape), frames.dtype)
        raise InvalidInput("frames", value, "give uint8 RGB, [frames, height, width, 3]")
    if min(grid) < 1:
        raise InvalidInput("grid", grid, "give (rows, columns) from tile_grid")
    (rows, columns), side = grid, config.size
    if not len(frames):
        return torch.empty(0, 3, side, side, device=frames.device)
    pictures = frames.permute(0, 3, 1, 2)
    large = resize(pictures, (rows * side, columns * side))
    cut = large.unflatten(3, (columns, side)).unflatten(2, (rows, side))
    tiles = cut.permute(0, 2, 4, 1, 3, 5).flatten(1, 2)
    if rows * columns > 1:
        tiles = torch.cat((tiles, resize(pictures, (side, side))[:, None]), dim=1)
    mean = torch.tensor(config.mean, device=frames.device)[:, None, None] * 255.0
    std = torch.tensor(config.std, device=frames.device)[:, None, None] * 255.0
    return tiles.flatten(0, 1).to(torch.float32).sub_(mean).div_(std)
