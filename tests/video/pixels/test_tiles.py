"""Tiles against transformers' InternVL image processor, in its form without torchvision."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers.image_utils import SizeDict
from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import (
    GotOcr2ImageProcessorPil,
    get_optimal_tiled_canvas,
)

from spava_app.engine.multimodal.pixels.tiles import (
    TileConfig,
    tile_frames,
    tile_grid,
    tiles_of_grid,
)
from spava_app.errors import CheckpointError, InvalidInput

CONFIG = TileConfig()
SETTINGS = {
    "size": {"height": 448, "width": 448},
    "image_mean": list(CONFIG.mean),
    "image_std": list(CONFIG.std),
}


class WidthFirst(GotOcr2ImageProcessorPil):
    """Resizes width first, like torch, torchvision and older Pillow; Pillow 13 starts with the
    height where that is less work, which on noise changes values by up to 14 levels.
    """

    def resize(
        self,
        image: np.ndarray,
        size: SizeDict,
        resample: Any = None,
        reducing_gap: int | None = None,
        **kwargs: Any,
    ) -> np.ndarray:
        across = SizeDict(height=image.shape[-2], width=size.width)
        image = super().resize(image, across, resample, reducing_gap, **kwargs)
        return super().resize(image, size, resample, reducing_gap, **kwargs)


def noise(*shape: int) -> torch.Tensor:
    return torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(0)).byte()


def levels(tiles: torch.Tensor) -> torch.Tensor:
    """Values from 0 to 255 of normalised tiles."""
    mean, std = torch.tensor(CONFIG.mean), torch.tensor(CONFIG.std)
    return (tiles * std[:, None, None] + mean[:, None, None]) * 255


@pytest.mark.parametrize(
    ("height", "width", "max_tiles"),
    [(448, 448, 1), (300, 500, 1), (1000, 700, 1), (360, 640, 12), (900, 450, 6), (448, 448, 4)],
)
def test_tiles_are_those_of_transformers(height: int, width: int, max_tiles: int) -> None:
    """Pillow resizes there, with weights of more bits than torch's: on noise, the worst case, a
    value may round the other way, by one level in each of two passes.
    """
    frame = noise(height, width, 3)
    processor = WidthFirst(**SETTINGS, crop_to_patches=max_tiles > 1, max_patches=max_tiles)
    theirs = processor(frame.numpy(), return_tensors="pt")["pixel_values"]
    grid = tile_grid(height, width, max_tiles)
    ours = tile_frames(frame[None], CONFIG, grid=grid)
    assert ours.dtype == torch.float32
    assert len(ours) == tiles_of_grid(grid)
    assert ours.shape == theirs.shape
    off = (levels(ours) - levels(theirs)).abs()
    assert off.max() < 2.01
    assert (off > 0.01).float().mean() < 0.02


def test_normalisation_is_exact_where_nothing_is_resized() -> None:
    frame = noise(448, 448, 3)
    processor = GotOcr2ImageProcessorPil(**SETTINGS)
    theirs = processor(frame.numpy(), return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(tile_frames(frame[None], CONFIG), theirs, atol=1e-6, rtol=0)


def test_frames_do_not_mix_and_keep_their_order() -> None:
    frames = noise(3, 50, 90, 3)
    config = TileConfig(size=32)
    for grid in ((1, 1), (1, 2)):
        together = tile_frames(frames, config, grid=grid)
        single = torch.cat([tile_frames(frame[None], config, grid=grid) for frame in frames])
        assert torch.equal(together, single)
    assert tile_frames(frames[:0], config).shape == (0, 3, 32, 32)


def test_tiles_row_by_row_and_the_thumbnail_last() -> None:
    config = TileConfig(size=8, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    frame = noise(16, 24, 3)
    tiles = tile_frames(frame[None], config, grid=(2, 3))
    assert len(tiles) == tiles_of_grid((2, 3)) == 7
    for index in range(6):
        row, column = divmod(index, 3)
        part = frame[8 * row : 8 * row + 8, 8 * column : 8 * column + 8].permute(2, 0, 1) / 255
        torch.testing.assert_close(tiles[index], part)
    assert torch.equal(tiles[6], tile_frames(frame[None], config)[0])


@given(
    height=st.integers(1, 3000),
    width=st.integers(1, 3000),
    least=st.integers(1, 4),
    more=st.integers(0, 10),
)
def test_grid_is_that_of_transformers(height: int, width: int, least: int, more: int) -> None:
    grid = tile_grid(height, width, least + more, min_tiles=least)
    columns, rows = get_optimal_tiled_canvas((height, width), (448, 448), least, least + more)
    assert grid == (rows, columns)


@pytest.mark.parametrize(
    ("height", "width", "grid"),
    [(448, 448, (1, 1)), (2000, 2000, (3, 3)), (448, 896, (1, 2)), (896, 448, (2, 1))],
)
def test_grids_by_hand(height: int, width: int, grid: tuple[int, int]) -> None:
    assert tile_grid(height, width, 12) == grid
    assert tile_grid(height, width, 1) == (1, 1)


@pytest.mark.parametrize("limits", [(0, 1), (3, 2)])
def test_wrong_limits(limits: tuple[int, int]) -> None:
    with pytest.raises(InvalidInput, match="min_tiles"):
        tile_grid(10, 10, limits[1], min_tiles=limits[0])
    with pytest.raises(InvalidInput, match="positive"):
        tile_grid(0, 10, 1)


@pytest.mark.parametrize(
    ("shape", "dtype"),
    [
        ((2, 28, 28, 3), torch.float32),
        ((28, 28, 3), torch.uint8),
        ((2, 3, 28, 28), torch.uint8),
        ((2, 0, 28, 3), torch.uint8),
    ],
)
def test_wrong_frames(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    with pytest.raises(InvalidInput, match="give uint8"):
        tile_frames(torch.zeros(shape, dtype=dtype), CONFIG)
    with pytest.raises(InvalidInput, match="grid"):
        tile_frames(noise(1, 4, 4, 3), CONFIG, grid=(0, 1))


def test_settings_of_a_checkpoint() -> None:
    assert TileConfig.from_dict({**SETTINGS, "do_resize": True, "resample": 3}) == CONFIG
    processor = GotOcr2ImageProcessorPil(**SETTINGS).to_dict()
    assert TileConfig.from_dict(processor) == CONFIG
    np.testing.assert_allclose(processor["rescale_factor"], 1 / 255)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"resample": 2}, "resample"),
        ({"do_center_crop": True}, "do_center_crop"),
        ({"size": {"height": 448, "width": 224}}, "size"),
        ({"size": {"shortest_edge": 448}}, "size"),
        ({"image_mean": None}, "image_mean"),
        ({"image_std": [0.1, 0.2]}, "image_std"),
        ({"image_std": [0.1, 0.2, 0]}, "image_std"),
    ],
)
def test_settings_that_are_refused(change: dict[str, object], field: str) -> None:
    with pytest.raises(CheckpointError, match=field):
        TileConfig.from_dict({**SETTINGS, **change})
