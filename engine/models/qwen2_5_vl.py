"""The vision tower of Qwen2.5-VL and the model that joins it to its decoder.

A unit is one temporal patch (two frames); N = patches, t units of h x w patches. Units never mix,
so any split of a video over calls or ranks gives the same embeddings. How fast this is, and why it
is written so: docs/performance.md.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spava_app.engine.models.config.decoder import DecoderConfig
from spava_app.engine.models.config.settings import MOST_LAYERS, Settings
from spava_app.engine.models.decoder import Decoder
from spava_app.engine.models.published import Rows, Table
from spava_app.kernels.gated import swiglu
from spava_app.kernels.rope import Rotary, apply_rotary, rotary_frequencies, rotary_table
from spava_app.kernels.windows import Windows, window_attention

Grid = tuple[int, int, int]
NORM_EPS = 1e-6
ROPE_THETA = 10_000.0
# Those of Qwen2_5_VLVisionConfig in transformers 5; published folders leave some of them out.
VISION_DEFAULTS: Mapping[str, Any] = {
    "depth": 32,
    "hidden_size": 3584,
    "hidden_act": "silu",
    "intermediate_size": 3420,
    "num_heads": 16,
    "in_channels": 3,
    "patch_size": 14,
    "spatial_merge_size": 2,
    "temporal_patch_size": 2,
    "tokens_per_second": 4,
    "window_size": 112,
    "out_hidden_size": 3584,
    "fullatt_block_indexes": (7, 15, 23, 31),
}


@dataclass(frozen=True)
class VisionConfig:
    """Geometry of the vision tower, read from a Hugging Face config.json."""

    depth: int
    hidden_size: int
    intermediate_size: int
    num_heads: int
    out_hidden_size: int
    patch_size: int
    temporal_patch_size: int
    in_channels: int
    merge_size: int
    window_size: int
    full_attention_layers: frozenset[int]
    tokens_per_second: float

    @classmethod
    def from_hf(cls, config: Mapping[str, Any]) -> "VisionConfig":
        """Read `vision_config`; what a file leaves out has the default of transformers 5.

        Raises:
            CheckpointError: a setting is missing or wrong, or asks for something this tower does
                not compute.
        """
        vision = Settings(config).part("vision_config", VISION_DEFAULTS)
        vision.only("hidden_act", "silu")
        hidden, heads = vision.count("hidden_size"), vision.count("num_heads")
        if hidden % heads or hidden // heads % 4:
            fix = f"must be four times a multiple of num_heads={heads}: rows and columns rotate"
            vision.refuse("hidden_size", fix)
        patch, merge = vision.side("patch_size"), vision.count("spatial_merge_size")
        window = vision.count("window_size")
        if window < patch * merge:
            vision.refuse("window_size", f"must be at least {patch * merge}, the side of a token")
        return cls(
            depth=vision.count("depth", most=MOST_LAYERS),
            hidden_size=hidden,
            intermediate_size=vision.count("intermediate_size"),
            num_heads=heads,
            out_hidden_size=vision.count("out_hidden_size"),
            patch_size=patch,
            temporal_patch_size=vision.side("temporal_patch_size"),
            in_channels=vision.count("in_channels"),
            merge_size=merge,
            window_size=window,
            full_attention_layers=frozenset(vision.counts("fullatt_block_indexes", least=0)),
            tokens_per_second=vision.number("tokens_per_second", most=1000),
        )

    @property
    def patch_dim(self) -> int:
        """Values per patch."""
        return self.in_channels * self.temporal_patch_size * self.patch_size**2


@dataclass(frozen=True)
class WindowOrder:
    """An order of one unit's merged tokens in which the windows of one size lie next to each other.

    `order` lists merged tokens (row-major) window by window; `classes` gives, per window size, how
    many windows of how many merged tokens follow each other.
    """

    order: tuple[int, ...]
    classes: tuple[tuple[int, int], ...]


@lru_cache(maxsize=64)
def window_order(rows: int, cols: int, window: int) -> WindowOrder:
    """Split a grid of merged tokens into windows of at most `window` x `window`."""
    windows = [
        [
            r * cols + c
            for r in range(top, min(top + window, rows))
            for c in range(left, min(left + window, cols))
        ]
        for top in range(0, rows, window)
        for left in range(0, cols, window)
    ]
    windows.sort(key=len)
    return WindowOrder(
        order=tuple(token for tokens in windows for token in tokens),
        classes=tuple((len(list(same)), size) for size, same in groupby(map(len, windows))),
    )


class VisionBlock(nn.Module):
    """Attention inside windows (or inside whole units) and a gated MLP, with pre-norms."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        hidden, inner = config.hidden_size, config.intermediate_size
        self.num_heads = config.num_heads
        self.norm1 = nn.RMSNorm(hidden, NORM_EPS)
        self.qkv = nn.Linear(hidden, 3 * hidden)
        self.proj = nn.Linear(hidden, hidden)
        self.norm2 = nn.RMSNorm(hidden, NORM_EPS)
        self.gate_up = nn.Linear(hidden, 2 * inner)
        self.down = nn.Linear(inner, hidden)

    def forward(self, x: Tensor, rotary: Rotary, windows: Windows) -> Tensor:
        """`[N, hidden]` to the same."""
        x = x + self._attend(self.norm1(x), rotary, windows)
        return x + self._mlp(self.norm2(x))

    def _attend(self, x: Tensor, rotary: Rotary, windows: Windows) -> Tensor:
        qkv = self.qkv(x).unflatten(-1, (3, self.num_heads, -1))
        # Queries and keys are turned together, as twice as many heads.
        turned = apply_rotary(qkv[:, :2].flatten(1, 2), rotary).unflatten(1, (2, -1))
        attended = window_attention(turned[:, 0], turned[:, 1], qkv[:, 2], windows)
        return self.proj(attended.flatten(1))

    def _mlp(self, x: Tensor) -> Tensor:
        """Without the padding the product over the published inner width, 3420 and no multiple of
        8, takes three times as long on a GPU; padding the weight for it takes no time to speak of.
        """
        inner = swiglu(self.gate_up(x), multiple=8)
        if not (padding := inner.shape[1] - self.down.in_features):
            return self.down(inner)
        return F.linear(inner, F.pad(self.down.weight, (0, padding)), self.down.bias)


class PatchMerger(nn.Module):
    """Four neighbouring patches to one token of the decoder."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.width = config.hidden_size * config.merge_size**2
        self.norm = nn.RMSNorm(config.hidden_size, NORM_EPS)
        self.up = nn.Linear(self.width, self.width)
        self.down = nn.Linear(self.width, config.out_hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(F.gelu(self.up(self.norm(x).reshape(-1, self.width))))


class VisionTower(nn.Module):
    """Patches of whole units in, embeddings for the decoder out."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.config = config
        self.patch_embed = nn.Linear(config.patch_dim, config.hidden_size, bias=False)
        self.blocks = nn.ModuleList(VisionBlock(config) for _ in range(config.depth))
        self.merger = PatchMerger(config)

    def forward(self, patches: Tensor, grid: Grid) -> Tensor:
        """Encode.

        Args:
            patches: `[t * h * w, patch_dim]` in the order of the published processor: unit, then
                merged token (row-major), then the patches inside a merged token.
            grid: (t, h, w) in units and patches; h and w are multiples of the merge size.

        Returns:
            `[t * h * w / merge_size^2, out_hidden_size]`, row-major inside each unit.
        """
        units, height, width = grid
        if patches.shape[0] != units * height * width:
            raise ValueError(f"grid={grid!r}: does not match {patches.shape[0]} patches")
        config = self.config
        merge = config.merge_size
        windows = window_order(
            height // merge, width // merge, config.window_size // config.patch_size // merge
        )
        order = torch.tensor(windows.order, device=patches.device)
        # Reordered once for all layers, so that a window is a contiguous run of rows.
        x = self.patch_embed(patches.unflatten(0, (units, -1, merge**2))[:, order].flatten(0, 2))
        rotary = self._rotary(grid, order)
        classes = [(count, size * merge**2) for count, size in windows.classes]
        per_window = Windows.of(units, classes, patches.device)
        whole_unit = Windows.of(units, [(1, height * width)], patches.device)
        for index, block in enumerate(self.blocks):
            full = index in config.full_attention_layers
            x = block(x, rotary, whole_unit if full else per_window)
        merged = self.merger(x).unflatten(0, (units, -1))
        return merged[:, order.argsort()].flatten(0, 1)

    def publish(self, table: Table, *, name: str, root: str = "visual") -> None:
        """Add this tower's tensors to `table`; `name` and `root` as in `Decoder.publish`."""
        inner = self.config.intermediate_size
        table.whole(f"{root}.patch_embed.proj.weight", f"{name}.patch_embed.weight")
        for i in range(self.config.depth):
            theirs, ours = f"{root}.blocks.{i}", f"{name}.blocks.{i}"
            for norm in ("norm1", "norm2"):
                table.whole(f"{theirs}.{norm}.weight", f"{ours}.{norm}.weight")
            for kind in ("weight", "bias"):
                table.whole(f"{theirs}.attn.qkv.{kind}", f"{ours}.qkv.{kind}")
                table.whole(f"{theirs}.attn.proj.{kind}", f"{ours}.proj.{kind}")
                gate, up = f"{theirs}.mlp.gate_proj.{kind}", f"{theirs}.mlp.up_proj.{kind}"
                table.stacked({gate: inner, up: inner}, f"{ours}.gate_up.{kind}")
                table.whole(f"{theirs}.mlp.down_proj.{kind}", f"{ours}.down.{kind}")
        table.whole(f"{root}.merger.ln_q.weight", f"{name}.merger.norm.weight")
        for kind in ("weight", "bias"):
            table.whole(f"{root}.merger.mlp.0.{kind}", f"{name}.merger.up.{kind}")
            table.whole(f"{root}.merger.mlp.2.{kind}", f"{name}.merger.down.{kind}")

    def _rotary(self, grid: Grid, order: Tensor) -> Rotary:
        """Row and column of each patch rotate half of the frequencies each; the table repeats for
        every unit.
        """
        units, height, width = grid
        merge, head_dim = self.config.merge_size, self.config.hidden_size // self.config.num_heads
        place = torch.cartesian_prod(
            torch.arange(height, device=order.device), torch.arange(width, device=order.device)
        )
        merged = place.reshape(height // merge, merge, width // merge, merge, 2).transpose(1, 2)
        place = merged.reshape(-1, merge**2, 2)[order].reshape(-1, 2).T
        frequencies = rotary_frequencies(head_dim // 2, ROPE_THETA, order.device)
        sections = [frequencies.numel()] * 2
        cos, sin = rotary_table(place, frequencies.repeat(2), sections)
        return cos.repeat(units, 1), sin.repeat(units, 1)


class Qwen25VL(nn.Module):
    """A vision tower and a decoder with the settings that join them."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()
        self.vision = VisionTower(VisionConfig.from_hf(config))
        self.decoder = Decoder(DecoderConfig.from_hf(config))

    def published(self) -> dict[str, Rows]:
        """Which rows of which parameter each published tensor fills."""
        table = Table(self)
        self.decoder.publish(table, name="decoder")
        self.vision.publish(table, name="vision")
        return table.rows
