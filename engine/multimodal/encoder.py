"""From the files of a prompt to the visual embeddings of this rank's rows: each rank encodes its
own units.

T = this rank's rows, n = prompt tokens. Units are counted over all media, in the order of the
prompt; so are visual tokens, since units of one medium have the same number of them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from spava_app.engine.comm import Comm
from spava_app.engine.layout import Layout
from spava_app.engine.media import Media
from spava_app.engine.models.internvl3 import InternVisionTower
from spava_app.engine.models.positions import multimodal_positions, spans_of
from spava_app.engine.models.qwen2_5_vl import VisionTower
from spava_app.engine.models.vision_batch import PATCHES_PER_TOKEN, units_per_call
from spava_app.engine.multimodal.embedding_cache import EmbeddingCache
from spava_app.engine.multimodal.pixel_stream import stream_units
from spava_app.engine.multimodal.processors import Processor
from spava_app.engine.multimodal.unit_sharding import (
    exchange_rows,
    indices,
    parts_of,
    token_indices,
)
from spava_app.engine.request import Request
from spava_app.engine.timing import StageTimer, frames_deadline
from spava_app.errors import Cancelled

# Units that are sent to the cache at a time.
UNITS_KEPT = 64


@dataclass(frozen=True)
class MediaEncoder:
    """A vision tower on one rank, how its frames are prepared, and what is kept of them.

    Attributes:
        threads: for decoding.
    """

    vision: VisionTower | InternVisionTower
    processor: Processor
    comm: Comm
    cache: EmbeddingCache = field(default_factory=EmbeddingCache)
    threads: int = 2

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
        spans = spans_of(request, self.processor.frames_per_unit, config.merge_size)
        return multimodal_positions(spans, self.vision.config.tokens_per_second)

    def deadline(self, request: Request, dealt: Sequence[Sequence[int]]) -> float:
        """Seconds within which every rank has encoded its units."""
        parameters = sum(weight.numel() for weight in self.vision.parameters())
        frames = tokens = 0
        for units in dealt:
            own = [(len(part), medium) for medium, _, part in parts_of(request.media, units)]
            frames = max(frames, sum(count for count, _ in own) * self.processor.frames_per_unit)
            tokens = max(tokens, sum(count * medium.unit_tokens for count, medium in own))
        flops = 2.0 * parameters * tokens * PATCHES_PER_TOKEN
        return frames_deadline(frames, flops, self._weight.device.type)

    def encode(
        self,
        request: Request,
        units: Sequence[int],
        timer: StageTimer,
        cancelled: Callable[[], bool] = lambda: False,
    ) -> Tensor:
        """Embeddings of `units`, ascending, `[tokens, hidden]`.

        Args:
            cancelled: asked after each step.

        Raises:
            Cancelled: it said so.
            VideoError: a frame of them cannot be read.
        """
        hidden = self.vision.config.out_hidden_size
        parts = list(parts_of(request.media, units))
        tokens = sum(medium.unit_tokens * len(part) for medium, _, part in parts)
        encoded = self._weight.new_empty(tokens, hidden)
        start = 0
        for medium, _, part in parts:
            stop = start + medium.unit_tokens * len(part)
            self._fill(
                encoded[start:stop].view(len(part), -1, hidden), medium, part, timer, cancelled
            )
            start = stop
        return encoded

    def _fill(
        self,
        out: Tensor,
        medium: Media,
        units: list[int],
        timer: StageTimer,
        cancelled: Callable[[], bool],
    ) -> None:
        """Put the embeddings of `units` into `out`, `[units, tokens of a unit, hidden]`: those that
        are kept, and the others made.
        """
        with self.cache.entry(medium) as entry:
            start = 0
            for run, kept in entry.read(units):
                rows = out[start : start + len(run)]
                start += len(run)
                if kept is not None:
                    rows.copy_(kept.view(rows.shape))
                    timer.counts["frames_reused"] += self._num_frames(medium, run)
                    continue
                timer.counts["frames_encoded"] += self._num_frames(medium, run)
                damaged = self._make(rows, medium, run, timer, cancelled)
                # What is damaged is not kept: the next question has to hear of it too.
                whole = [index for index, unit in enumerate(run) if unit not in damaged]
                for first in range(0, len(whole), UNITS_KEPT):
                    step = whole[first : first + UNITS_KEPT]
                    entry.write([run[index] for index in step], rows[step])

    def _num_frames(self, medium: Media, units: Sequence[int]) -> int:
        span, last = self.processor.frames_per_unit, len(medium.frames)
        return sum(min((unit + 1) * span, last) - unit * span for unit in units)

    def _make(
        self,
        out: Tensor,
        medium: Media,
        units: Sequence[int],
        timer: StageTimer,
        cancelled: Callable[[], bool],
    ) -> set[int]:
        """Decode and encode `units` into `out`; which of them have damaged frames."""
        timer.begin("decode")
        damaged: set[int] = set()
        place = {unit: index for index, unit in enumerate(units)}
        device = self._weight.device
        stream = stream_units(
            medium,
            units,
            self.processor,
            batch_units=units_per_call(medium.unit_tokens * PATCHES_PER_TOKEN, device.type),
            device=device,
            threads=self.threads,
            timings=timer.seconds,
            damaged=damaged,
        )
        for batch, pixels in stream:
            if cancelled():
                raise Cancelled("cancelled while it looked at frames")
            with timer.stage("vision"):
                pixels = pixels.to(self._weight.dtype)
                rows = self.processor.encode(self.vision, pixels, medium, len(batch))
                places = torch.tensor([place[unit] for unit in batch], device=out.device)
                out[places] = rows.view(len(batch), *out.shape[1:])
        return damaged

    def deliver(
        self, request: Request, layout: Layout, dealt: Sequence[Sequence[int]], encoded: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Which of this rank's rows are visual (int64, on the CPU), and their embeddings; in the
        order in which they came.
        """
        owned = [_visual_tokens(request.media, units) for units in dealt]
        # Which visual token stands at each place of the prompt.
        number = torch.full((len(request.token_ids),), -1)
        places = torch.cat([token_indices(medium) for medium in request.media])
        number[places] = torch.arange(len(places))
        ranks = range(self.comm.world_size)
        rows = [number[indices(layout.rows(rank))] for rank in ranks]
        needed = [numbers[numbers >= 0] for numbers in rows]
        received, order = exchange_rows(self.comm, encoded, owned, needed)
        visual = (rows[self.comm.rank] >= 0).nonzero().flatten()
        return visual[order], received


def _visual_tokens(media: Sequence[Media], units: Sequence[int]) -> Tensor:
    """Numbers of the visual tokens of `units`, in order."""
    numbers = [torch.empty(0, dtype=torch.int64)]
    for medium, first, part in parts_of(media, units):
        starts = first + torch.tensor(part) * medium.unit_tokens
        numbers.append((starts[:, None] + torch.arange(medium.unit_tokens)).flatten())
    return torch.cat(numbers)
