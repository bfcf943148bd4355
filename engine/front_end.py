"""From the files of a prompt to the visual embeddings of this rank's rows: each rank encodes its
own units.

T = this rank's rows, n = prompt tokens. Units are counted over all media, in the order of the
prompt; so are visual tokens, since units of one medium have the same number of them.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate

import torch
from torch import Tensor

from spava_app.engine.comm import Comm
from spava_app.engine.deadline import frames_deadline
from spava_app.engine.exchange import exchange_rows
from spava_app.engine.layout import Layout, shard
from spava_app.engine.media import Media
from spava_app.engine.models.internvl3 import InternVisionTower
from spava_app.engine.models.positions import multimodal_positions
from spava_app.engine.models.qwen2_5_vl import VisionTower
from spava_app.engine.processors import Processor
from spava_app.engine.request import Request
from spava_app.engine.timing import StageTimer
from spava_app.engine.video.stream import stream_units

UNITS_PER_BATCH = 16
# Patches that become one token, in all supported towers.
PATCHES_PER_TOKEN = 4


@dataclass(frozen=True)
class FrontEnd:
    """A vision tower on one rank, and how its frames are prepared."""

    vision: VisionTower | InternVisionTower
    processor: Processor
    comm: Comm

    @cached_property
    def _weight(self) -> Tensor:
        return next(self.vision.parameters())

    def positions(self, request: Request) -> Tensor:
        """Positions of the whole prompt: int64 `[3, n]` where the tower's decoder turns by time,
        row and column, else `[n]`.
        """
        config = self.vision.config
        if not isinstance(self.vision, VisionTower):
            return torch.arange(len(request.token_ids))
        spans = request.spans(self.processor.frames_per_unit, config.merge_size)
        return multimodal_positions(spans, self.vision.config.tokens_per_second)

    def deadline(self, request: Request) -> float:
        """Seconds within which every rank has encoded its units."""
        parameters = sum(weight.numel() for weight in self.vision.parameters())
        frames = tokens = 0
        for units in self._owned(request):
            own = [(len(part), medium) for medium, part in _parts(request.media, units)]
            frames = max(frames, sum(count for count, _ in own) * self.processor.frames_per_unit)
            tokens = max(tokens, sum(count * medium.unit_tokens for count, medium in own))
        flops = 2.0 * parameters * tokens * PATCHES_PER_TOKEN
        return frames_deadline(frames, flops, self._weight.device.type)

    def encode(self, request: Request, timer: StageTimer) -> Tensor:
        """Embeddings of this rank's units, `[tokens, hidden]`.

        Raises:
            VideoError: a frame of this rank cannot be read.
        """
        units = self._owned(request)[self.comm.rank]
        encoded = [self._weight.new_empty(0, self.vision.config.out_hidden_size)]
        if len(units):
            timer.begin("decode")
        for medium, part in _parts(request.media, units):
            stream = stream_units(
                medium,
                part,
                self.processor,
                batch_units=UNITS_PER_BATCH,
                device=self._weight.device,
                timings=timer.seconds,
            )
            for batch, pixels in stream:
                with timer.stage("vision"):
                    pixels = pixels.to(self._weight.dtype)
                    encoded.append(self.processor.encode(self.vision, pixels, medium, len(batch)))
        return torch.cat(encoded)

    def deliver(self, request: Request, layout: Layout, encoded: Tensor) -> tuple[Tensor, Tensor]:
        """Which of this rank's rows are visual (`[T]`, on the CPU), and their embeddings."""
        world_size = self.comm.world_size
        owned, start = [], 0
        for units in self._owned(request):
            parts = _parts(request.media, units)
            stop = start + sum(len(part) * medium.unit_tokens for medium, part in parts)
            owned.append(range(start, stop))
            start = stop
        # Which visual token stands at each place of the prompt.
        number = torch.full((len(request.token_ids),), -1)
        number[torch.cat([medium.tokens() for medium in request.media])] = torch.arange(start)
        rows = [number[layout.rows(rank)] for rank in range(world_size)]
        needed = [numbers[numbers >= 0] for numbers in rows]
        return rows[self.comm.rank] >= 0, exchange_rows(self.comm, encoded, owned, needed)

    def _owned(self, request: Request) -> list[range]:
        """The units that each rank encodes."""
        world_size = self.comm.world_size
        total = sum(medium.num_units for medium in request.media)
        return [shard(total, rank, world_size) for rank in range(world_size)]


def _parts(media: tuple[Media, ...], units: range) -> Iterator[tuple[Media, range]]:
    """Which units of which medium the numbers `units` are."""
    starts = accumulate((medium.num_units for medium in media), initial=0)
    for medium, start in zip(media, starts, strict=False):
        first, last = max(units.start, start), min(units.stop, start + medium.num_units)
        if first < last:
            yield medium, range(first - start, last - start)
