"""From a video file to the visual embeddings of this rank's rows: each rank encodes its own units.

T = this rank's rows. A unit is one temporal patch; its tokens follow each other in the prompt.
"""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from spava_app.engine.comm import Comm
from spava_app.engine.deadline import frames_deadline
from spava_app.engine.exchange import exchange_rows
from spava_app.engine.layout import Layout, shard
from spava_app.engine.models.positions import multimodal_positions
from spava_app.engine.models.qwen2_5_vl import VisionTower
from spava_app.engine.request import Request
from spava_app.engine.timing import StageTimer
from spava_app.engine.video.pixel_config import PixelConfig
from spava_app.engine.video.probe import probe
from spava_app.engine.video.sample import FrameSample
from spava_app.engine.video.stream import stream_patches

UNITS_PER_BATCH = 16


@dataclass(frozen=True)
class FrontEnd:
    """A vision tower on one rank, and how its frames are prepared."""

    vision: VisionTower
    pixels: PixelConfig
    comm: Comm

    @cached_property
    def _weight(self) -> Tensor:
        return next(self.vision.parameters())

    def positions(self, request: Request) -> Tensor:
        """Multimodal positions of the whole prompt, int64 `[3, n]`."""
        config = self.vision.config
        spans = request.spans(config.temporal_patch_size, config.merge_size)
        return multimodal_positions(spans, config.tokens_per_second)

    def deadline(self, request: Request) -> float:
        """Seconds within which every rank has encoded its units."""
        units = max(map(len, self._owned(request)))
        _, rows, cols = request.grid
        parameters = sum(weight.numel() for weight in self.vision.parameters())
        frames = units * self.vision.config.temporal_patch_size
        flops = 2.0 * parameters * units * rows * cols
        return frames_deadline(frames, flops, self._weight.device.type)

    def encode(self, request: Request, timer: StageTimer) -> Tensor:
        """Embeddings of this rank's units, `[tokens, hidden]`.

        Raises:
            VideoError: a frame of this rank cannot be read.
        """
        units = self._owned(request)[self.comm.rank]
        parts = [self._weight.new_empty(0, self.vision.config.out_hidden_size)]
        if len(units):
            timer.begin("decode")
            stream = stream_patches(
                probe(request.video),
                FrameSample(request.frames, request.times, request.interval),
                units,
                self.pixels,
                request.size,
                batch_units=UNITS_PER_BATCH,
                device=self._weight.device,
                timings=timer.seconds,
            )
            for batch, patches in stream:
                with timer.stage("vision"):
                    grid = (len(batch), *request.grid[1:])
                    parts.append(self.vision(patches.to(self._weight.dtype), grid))
        return torch.cat(parts)

    def deliver(self, request: Request, layout: Layout, encoded: Tensor) -> tuple[Tensor, Tensor]:
        """Which of this rank's rows are visual (`[T]`, on the CPU), and their embeddings."""
        world_size = self.comm.world_size
        per_unit = request.num_visual // request.grid[0]
        start = request.video_start
        owned = [
            range(start + units.start * per_unit, start + units.stop * per_unit)
            for units in self._owned(request)
        ]
        rows = [torch.tensor(layout.rows(rank), dtype=torch.int64) for rank in range(world_size)]
        visual = [(index >= request.visual.start) & (index < request.visual.stop) for index in rows]
        needed = [index[mask] for index, mask in zip(rows, visual, strict=True)]
        return visual[self.comm.rank], exchange_rows(self.comm, encoded, owned, needed)

    def _owned(self, request: Request) -> list[range]:
        """The units that each rank encodes."""
        world_size = self.comm.world_size
        return [shard(request.grid[0], rank, world_size) for rank in range(world_size)]
