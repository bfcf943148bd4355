"""What the front end does for a request, counted from first principles, and how long it takes:
decoding, resizing, the vision tower, the exchange of embeddings.

A stage takes what the rank takes that has most of it to do.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from spava_app.engine.layout import Layout
from spava_app.engine.media import Media
from spava_app.engine.models.flops import internvit_flops, qwen_flops
from spava_app.engine.models.internvl3 import InternVisionTower
from spava_app.engine.models.qwen2_5_vl import VisionTower
from spava_app.engine.models.vision_batch import PATCHES_PER_TOKEN, units_per_call
from spava_app.engine.multimodal.pixel_stream import units_per_process
from spava_app.engine.multimodal.pixels.tiles import tiles_of_grid
from spava_app.engine.multimodal.unit_sharding import deal, needs, parts_of
from spava_app.engine.planning.decoder_time import LAYER_LAUNCHES, padded_head_dim
from spava_app.engine.planning.hardware import Machine
from spava_app.engine.planning.video_time import Decoding

# Products of a block of either tower.
_PRODUCTS = 4
# Kernels and small steps of an exchange; how often its rows are read and written: when they are
# gathered, and when they are put in their places.
_EXCHANGE_LAUNCHES, _PASSES = 60, 4


@dataclass(frozen=True)
class EncoderTime:
    """Seconds of the front end on a machine.

    Attributes:
        vision: the tower, with its sizes only.
        dtype: of its weights and activations.
    """

    vision: VisionTower | InternVisionTower
    machine: Machine
    dtype: torch.dtype

    def seconds(self, media: Sequence[Media], layout: Layout) -> dict[str, float]:
        """Of "decode" (waiting for frames), "preprocess", "vision" and "exchange", as if nothing of
        the media were kept from earlier questions.
        """
        ranks, dealt = layout.world_size, deal(media, layout)
        slowest: dict[str, float] = dict.fromkeys(("decode", "preprocess", "vision"), 0.0)
        for units in dealt:
            spent = dict.fromkeys(slowest, 0.0)
            for medium, _, part in parts_of(media, units):
                prepare = self._prepare(medium, len(part), ranks)
                vision = self._encode(medium, len(part), ranks)
                spent["decode"] += self._wait(medium, part, ranks, prepare, vision)
                spent["preprocess"] += prepare
                spent["vision"] += vision
            slowest = {stage: max(slowest[stage], seconds) for stage, seconds in spent.items()}
        return slowest | {"exchange": self._exchange(media, layout, dealt)}

    def vision_seconds(self, medium: Media, num_units: int) -> float:
        """Seconds of the tower for so many units on a rank alone."""
        return self._encode(medium, num_units, 1)

    def _encode(self, medium: Media, num_units: int, ranks: int) -> float:
        patches = medium.unit_tokens * PATCHES_PER_TOKEN
        per_call = min(num_units, units_per_call(patches, self.machine.device))
        if isinstance(self.vision, VisionTower):
            call = self._qwen(medium.grid, per_call, ranks)
        else:
            call = self._internvit(per_call * tiles_of_grid(medium.grid[1:]), ranks)
        return num_units / per_call * call

    def _qwen(self, grid: tuple[int, int, int], units: int, ranks: int) -> float:
        assert isinstance(self.vision, VisionTower)
        config, size = self.vision.config, self.dtype.itemsize
        _, height, width = grid
        flops = qwen_flops(config, (1, height, width))
        hidden, rows, depth = config.hidden_size, units * height * width, config.depth
        full = len(config.full_attention_layers)
        whole = 4.0 * hidden * (height * width) ** 2
        windowed = (flops.attention - full * whole) / max(1, depth - full)
        # Norms, residuals, rotation and the gate; windows are too small for their rows to be free.
        values = depth * (4 + 6 + 4) * hidden + depth * 3 * config.intermediate_size
        values += (depth - full) * 4 * hidden
        heads = hidden // config.num_heads
        return (
            self._linear(flops.linear * units, depth, ranks)
            + self.machine.moved(values * rows * size, ranks)
            + full * self._attention(whole * units, heads, ranks)
            + (depth - full) * self._attention(windowed * units, heads, ranks)
        )

    def _internvit(self, tiles: int, ranks: int) -> float:
        assert isinstance(self.vision, InternVisionTower)
        config, size = self.vision.config, self.dtype.itemsize
        flops, layers = internvit_flops(config, 1), config.num_layers
        rows = tiles * (1 + config.num_patches)
        values = layers * ((4 + 6 + 4) * config.hidden_size + 2 * config.intermediate_size)
        heads = config.hidden_size // config.num_heads
        return (
            self._linear(flops.linear * tiles, layers, ranks)
            + self.machine.moved(values * rows * size, ranks)
            + layers * self._attention(flops.attention * tiles / layers, heads, ranks)
        )

    def _linear(self, flops: float, layers: int, ranks: int) -> float:
        machine, products = self.machine, _PRODUCTS * layers
        computed = products * machine.computed(machine.matmul, flops / products, ranks)
        # A block launches about as much as a layer of the decoder.
        host = layers * machine.launched(LAYER_LAUNCHES, ranks)
        return max(computed, host) if machine.runs_ahead else computed + host

    def _attention(self, flops: float, head_dim: int, ranks: int) -> float:
        padded = padded_head_dim(head_dim, self.machine) / head_dim
        return self.machine.computed(self.machine.attention, flops * padded, ranks)

    def _wait(
        self, medium: Media, units: Sequence[int], ranks: int, prepare: float, vision: float
    ) -> float:
        """For the pictures of `units`, which are then prepared and encoded in so many seconds."""
        machine = self.machine
        decoding = Decoding.of(medium, units, max(2, machine.cores // ranks))
        processes = len(decoding.parts)
        # The decoders of all ranks share the cores.
        rate = machine.decode * min(1.0, machine.cores / (ranks * processes))
        patches = medium.unit_tokens * PATCHES_PER_TOKEN
        each = units_per_process(units_per_call(patches, machine.device), processes)
        # On a CPU what is done meanwhile takes the cores that decoding needs.
        hidden = 1 / len(units) if machine.runs_ahead else 0.0
        waited = decoding.waited(rate, each, hidden * prepare, hidden * vision)
        return machine.decode_start + waited

    def _prepare(self, medium: Media, num_units: int, ranks: int) -> float:
        frames = num_units / medium.num_units * len(medium.source)
        (height, width), (rows, cols) = medium.source.shape, medium.size
        tiled = isinstance(self.vision, InternVisionTower)
        resized = rows * cols * (tiles_of_grid(medium.grid[1:]) if tiled else 1)
        return self.machine.prepared(frames * (height * width + resized), num_units, ranks)

    def _exchange(
        self, media: Sequence[Media], layout: Layout, dealt: Sequence[Sequence[int]]
    ) -> float:
        """The rows that come from other ranks to the one that gets most, and all that are put in
        their places, which the host finds.
        """
        row = self.vision.config.out_hidden_size * self.dtype.itemsize
        needed = needs(media, layout)
        seconds = 0.0
        for rank, units in enumerate(dealt):
            rows = int(needed[rank].sum())
            foreign = rows - int(needed[rank, units].sum())
            placed = self.machine.moved(_PASSES * rows * row, layout.world_size)
            seconds = max(seconds, self.machine.link.seconds(foreign * row) + placed)
        tokens = sum(medium.num_tokens for medium in media)
        host = self.machine.launched(_EXCHANGE_LAUNCHES, layout.world_size)
        return seconds + host + tokens * self.machine.place_seconds
