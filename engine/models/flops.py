"""Published geometries of vision towers, inputs for them, and the FLOPs these take.

Everything can be divided, for machines on which the real sizes would take too long.
"""

from dataclasses import dataclass

from spava_app.engine.models.config.internvl import InternVisionConfig
from spava_app.engine.models.qwen2_5_vl import Grid, VisionConfig, window_order

# Qwen2.5-VL: units, patch rows and patch columns. No frame is scaled down, only rounded to whole
# merged tokens of 28 pixels.
GRIDS: dict[str, Grid] = {
    "64 frames of 2560x1440": (32, 102, 182),
    "256 frames of 640x360": (128, 26, 46),
}
TILES = 64  # InternVL3: one tile per frame
HEADS = 16


@dataclass(frozen=True)
class Flops:
    """Of the linear layers, and of the query-key pairs that see each other."""

    linear: float
    attention: float

    @property
    def total(self) -> float:
        """Both; elementwise work has none to speak of."""
        return self.linear + self.attention


def qwen_config(out_hidden: int, divide: int = 1) -> VisionConfig:
    """The tower of Qwen2.5-VL; the published sizes differ in `out_hidden` alone."""
    quarter = max(1, 8 // divide)  # layers of which the last sees whole units
    vision = {
        "depth": 4 * quarter,
        "hidden_size": _share(1280, divide, 4 * HEADS),
        "intermediate_size": max(10, 3420 // divide),
        "num_heads": HEADS,
        "out_hidden_size": out_hidden // divide,
        "window_size": 112,
        "fullatt_block_indexes": [quarter * (i + 1) - 1 for i in range(4)],
    }
    return VisionConfig.from_hf({"vision_config": vision})


def qwen_grids(divide: int = 1) -> dict[str, Grid]:
    """`GRIDS`, each side divided."""
    return {
        name: (max(1, units // divide), _share(height, divide, 2), _share(width, divide, 2))
        for name, (units, height, width) in GRIDS.items()
    }


def qwen_flops(config: VisionConfig, grid: Grid) -> Flops:
    """Of encoding a grid of (units, patch rows, patch columns)."""
    units, height, width = grid
    merge, hidden, depth = config.merge_size, config.hidden_size, config.depth
    block = 4 * hidden**2 + 3 * hidden * config.intermediate_size
    merged = hidden * merge**2
    weights = config.patch_dim * hidden + depth * block  # used once for each patch
    merger = merged**2 + merged * config.out_hidden_size  # and for each merged token
    patches = units * height * width
    linear = 2.0 * (patches * weights + patches // merge**2 * merger)
    side = config.window_size // config.patch_size // merge
    classes = window_order(height // merge, width // merge, side).classes
    windowed = sum(count * (size * merge**2) ** 2 for count, size in classes)
    full = len(config.full_attention_layers)
    pairs = units * (full * (height * width) ** 2 + (depth - full) * windowed)
    return Flops(linear, 4.0 * hidden * pairs)


def internvit_config(divide: int = 1) -> InternVisionConfig:
    """InternViT-300M before the decoder of InternVL3-2B."""
    vision = {
        "hidden_size": _share(1024, divide, HEADS),
        "intermediate_size": max(8, 4096 // divide),
        "num_hidden_layers": max(2, 24 // divide),
        "num_attention_heads": HEADS,
        "image_size": 14 * _share(32, divide, 2),
        "attention_bias": True,
    }
    text = {"hidden_size": max(8, 1536 // divide)}
    return InternVisionConfig.from_hf({"text_config": text, "vision_config": vision})


def internvit_flops(config: InternVisionConfig, tiles: int) -> Flops:
    """Of encoding that many tiles."""
    hidden, patches, out = config.hidden_size, config.num_patches, config.out_hidden_size
    rows = 1 + patches  # with the class token
    block = 4 * hidden**2 + 2 * hidden * config.intermediate_size
    projector = hidden * config.merge_size**2 * out + out**2
    per_tile = patches * 3 * config.patch_size**2 * hidden + config.num_layers * rows * block
    linear = 2.0 * tiles * (per_tile + config.tokens_per_tile * projector)
    return Flops(linear, 4.0 * tiles * config.num_layers * rows**2 * hidden)


def _share(size: int, divide: int, multiple: int) -> int:
    """`size` / `divide`, a multiple of `multiple` and at least one."""
    return max(1, size // divide // multiple) * multiple
