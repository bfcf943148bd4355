"""How a family of models turns pictures into tokens: sizes, placeholders, pixels, embeddings.

The driver asks how a medium fits into a prompt before any pixel is read; the ranks then prepare and
encode their own units in the same way. N = frames.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor, nn

from spava_app.engine.checkpoints.files import read_object
from spava_app.engine.media import Media
from spava_app.engine.models.config.internvl import InternVisionConfig
from spava_app.engine.models.config.settings import Settings, in_file
from spava_app.engine.models.qwen2_5_vl import VisionConfig
from spava_app.engine.multimodal.pixels.config import PixelConfig
from spava_app.engine.multimodal.pixels.patches import grid_for, patchify_frames
from spava_app.engine.multimodal.pixels.tiles import (
    TileConfig,
    tile_frames,
    tile_grid,
    tiles_of_grid,
)
from spava_app.errors import CheckpointError

# Of Qwen2_5_VLConfig in transformers 5.
_QWEN_TOKENS = {"image_token_id": 151_655, "video_token_id": 151_656}
_MOST_TILES = 256


@dataclass(frozen=True)
class Fit:
    """How a medium becomes tokens; as in `Media`.

    Attributes:
        content: the part of a chat message that stands for it.
        runs: tokens that each of its placeholders stands for, in order.
    """

    size: tuple[int, int]
    grid: tuple[int, int, int]
    unit_tokens: int
    content: dict[str, str]
    runs: tuple[int, ...]


class Processor(Protocol):
    """Media of one family of models."""

    @property
    def frames_per_unit(self) -> int:
        """Frames that are encoded together."""
        ...

    def fit(
        self,
        num_frames: int,
        height: int,
        width: int,
        *,
        picture: bool,
        max_pixels: int | None = None,
        max_unit_tokens: int | None = None,
    ) -> Fit:
        """How `num_frames` frames of `height` x `width` pixels become tokens.

        Args:
            max_pixels: of a frame, instead of the checkpoint's own limit.
            max_unit_tokens: shrink frames so that a unit has no more, as far as that goes.

        Raises:
            VideoError: their shape is beyond what the model takes.
        """
        ...

    def prepare(self, frames: Tensor, media: Media) -> Tensor:
        """Pixels of whole units for `encode`, from uint8 RGB `[N, height, width, 3]`."""
        ...

    def encode(self, vision: nn.Module, pixels: Tensor, media: Media, num_units: int) -> Tensor:
        """Embeddings of `num_units` prepared units, `[num_units * unit_tokens, hidden]`."""
        ...

    def placeholders(self, token_ids: Mapping[str, int]) -> frozenset[int]:
        """Ids that stand for visual tokens in a prompt, given the tokenizer's special tokens.

        Raises:
            CheckpointError: config.json names other ids, or there is no such token.
        """
        ...


@dataclass(frozen=True)
class QwenProcessor:
    """Qwen2.5-VL: patches of frames at their own aspect ratio; a unit is two frames.

    Attributes:
        video, picture: pixel settings of each.
        placeholder_ids: the ids of the video and the image token.
    """

    video: PixelConfig
    picture: PixelConfig
    placeholder_ids: frozenset[int]

    TOKENS = ("<|image_pad|>", "<|video_pad|>")

    @classmethod
    def from_folder(cls, folder: Path, config: Mapping[str, Any]) -> "QwenProcessor":
        """Read a checkpoint folder.

        Raises:
            CheckpointError: no preprocessor file, or a setting that is wrong or not supported.
        """
        settings, vision = Settings(config, _QWEN_TOKENS), VisionConfig.from_hf(config)
        placeholders = frozenset(settings.count(name) for name in _QWEN_TOKENS)
        video = PixelConfig.from_folder(folder)
        made = cls(video, PixelConfig.from_folder(folder, picture=True), placeholders)
        for pixels in (made.video, made.picture):
            for name in ("patch_size", "temporal_patch_size", "merge_size"):
                if (value := getattr(pixels, name)) != (own := getattr(vision, name)):
                    fix = f"the preprocessor's {name}={value} is not the vision tower's, {own}"
                    raise CheckpointError("model", str(folder), fix)
        return made

    @property
    def frames_per_unit(self) -> int:
        return self.video.temporal_patch_size

    def fit(
        self,
        num_frames: int,
        height: int,
        width: int,
        *,
        picture: bool,
        max_pixels: int | None = None,
        max_unit_tokens: int | None = None,
    ) -> Fit:
        pixels = self.picture if picture else self.video
        if max_pixels is not None:
            pixels = pixels.limited(max_pixels)
        grid = grid_for(num_frames, height, width, pixels, max_tokens=max_unit_tokens)
        unit_tokens = grid[1] * grid[2] // pixels.merge_size**2
        return Fit(
            (grid[1] * pixels.patch_size, grid[2] * pixels.patch_size),
            grid,
            unit_tokens,
            {"type": "image" if picture else "video"},
            (grid[0] * unit_tokens,),
        )

    def prepare(self, frames: Tensor, media: Media) -> Tensor:
        pixels = self.picture if media.picture else self.video
        return patchify_frames(frames, pixels, size=media.size)[0]

    def encode(self, vision: nn.Module, pixels: Tensor, media: Media, num_units: int) -> Tensor:
        return vision(pixels, (num_units, *media.grid[1:]))

    def placeholders(self, token_ids: Mapping[str, int]) -> frozenset[int]:
        own = {token_ids[token] for token in self.TOKENS if token in token_ids}
        if not own <= self.placeholder_ids:
            fix = f"must be {sorted(own)}, the ids of {' and '.join(self.TOKENS)} in the tokenizer"
            raise CheckpointError(", ".join(_QWEN_TOKENS), sorted(self.placeholder_ids), fix)
        return self.placeholder_ids


@dataclass(frozen=True)
class InternVLProcessor:
    """InternVL3: square tiles; a unit is one frame of one tile, or a picture of several.

    Frames are named "Frame1: ", "Frame2: " in the prompt, as the model was trained.

    Attributes:
        tiles: pixel settings.
        tile_tokens: embeddings of a tile.
        token_id: of `TOKEN` by config.json; None where that does not say.
    """

    tiles: TileConfig
    tile_tokens: int
    token_id: int | None = None

    START, TOKEN, END = "<img>", "<IMG_CONTEXT>", "</img>"

    @classmethod
    def from_folder(cls, folder: Path, config: Mapping[str, Any]) -> "InternVLProcessor":
        """Read a checkpoint folder of either layout.

        Raises:
            CheckpointError: a setting that is missing, or that is not supported.
        """
        vision = InternVisionConfig.from_hf(config)
        most = None
        # Only the original layout has these; those of transformers are in other files.
        if vision.original:
            model = Settings(config, {"max_dynamic_patch": 6})
            model.only("min_dynamic_patch", 1)
            most = model.count("max_dynamic_patch", most=_MOST_TILES)
        tiles = TileConfig.from_folder(folder, vision.image_size, most)
        file = folder / "processor_config.json"
        with in_file(file):
            Settings(read_object(file) or {}).only("image_seq_length", vision.tokens_per_tile)
        return cls(tiles, vision.tokens_per_tile, vision.image_token_id)

    @property
    def frames_per_unit(self) -> int:
        return 1

    def fit(
        self,
        num_frames: int,
        height: int,
        width: int,
        *,
        picture: bool,
        max_pixels: int | None = None,
        max_unit_tokens: int | None = None,
    ) -> Fit:
        side, most = self.tiles.size, self.tiles.max_tiles if picture else 1
        # Of several tiles one more than these is the thumbnail.
        if max_pixels is not None:
            most = max(1, min(most, max_pixels // side**2 - 1))
        if max_unit_tokens is not None:
            most = max(1, min(most, max_unit_tokens // self.tile_tokens - 1))
        rows, cols = tile_grid(height, width, most, size=side)
        unit_tokens = tiles_of_grid((rows, cols)) * self.tile_tokens
        unit = f"{self.START}{self.TOKEN}{self.END}\n"
        text = unit if picture else "".join(f"Frame{i + 1}: {unit}" for i in range(num_frames))
        runs = (unit_tokens,) * num_frames
        grid = (num_frames, rows, cols)
        return Fit((side, side), grid, unit_tokens, {"type": "text", "text": text}, runs)

    def prepare(self, frames: Tensor, media: Media) -> Tensor:
        return tile_frames(frames, self.tiles, grid=media.grid[1:])

    def encode(self, vision: nn.Module, pixels: Tensor, media: Media, num_units: int) -> Tensor:
        return vision(pixels)

    def placeholders(self, token_ids: Mapping[str, int]) -> frozenset[int]:
        if self.TOKEN not in token_ids:
            raise CheckpointError("tokenizer", "special tokens", f"must have {self.TOKEN}")
        if self.token_id not in (None, own := token_ids[self.TOKEN]):
            fix = f"must be {own}, the id of {self.TOKEN} in the tokenizer"
            raise CheckpointError("image_token_id", self.token_id, fix)
        return frozenset((token_ids[self.TOKEN],))


_PROCESSORS: Mapping[str, type[QwenProcessor] | type[InternVLProcessor]] = {
    "Qwen2_5_VLForConditionalGeneration": QwenProcessor,
    "InternVLForConditionalGeneration": InternVLProcessor,
    "InternVLChatModel": InternVLProcessor,
}


def make_processor(folder: Path, config: Mapping[str, Any]) -> Processor | None:
    """The processor of a checkpoint folder with this config.json; None for a text model.

    Raises:
        CheckpointError: the folder lacks what the processor needs.
    """
    names: Sequence[str] = config.get("architectures") or []
    for name in names:
        if isinstance(name, str) and name in _PROCESSORS:
            with in_file(folder / "config.json"):
                return _PROCESSORS[name].from_folder(folder, config)
    return None
