"""One request on one rank: frames, exchange, prefill, and the token loop. Every rank runs this
together.

T = this rank's rows, W = ranks.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from spava_app.engine.comm import Comm
from spava_app.engine.deadline import deadline_for, frames_deadline, prefill_flops
from spava_app.engine.exchange import exchange_rows
from spava_app.engine.kv_cache import KVCache
from spava_app.engine.layout import Layout, shard
from spava_app.engine.models.decoder import Attend
from spava_app.engine.models.positions import multimodal_positions
from spava_app.engine.models.qwen2_5_vl import Qwen25VL
from spava_app.engine.parallel.base import Decode, make_method
from spava_app.engine.request import Request
from spava_app.engine.timing import StageTimer
from spava_app.engine.video.preprocess import PixelConfig
from spava_app.engine.video.probe import probe
from spava_app.engine.video.sample import FrameSample
from spava_app.engine.video.stream import stream_patches
from spava_app.errors import EngineError, SpavaError

UNITS_PER_BATCH = 16


class PeerError(EngineError):
    """Another rank failed this stage and reports why; this one only stops."""


@dataclass(frozen=True)
class Runner:
    """A loaded model on one rank.

    Attributes:
        model: on its device.
        pixels: how the model's frames are prepared.
        comm: this rank's group.
    """

    model: Qwen25VL
    pixels: PixelConfig
    comm: Comm

    @property
    def device(self) -> torch.device:
        return self.model.decoder.embed_tokens.weight.device

    @torch.inference_mode()
    def run(self, request: Request, timer: StageTimer) -> Iterator[int]:
        """Yield the answer's token ids, the same on every rank, the stop token not included.

        Raises:
            SpavaError: on the rank that met a problem with the input; `PeerError` on the others.
        """
        comm = self.comm
        method = make_method(request.method, request.options)
        layout = method.layout(request.shape, comm.world_size)
        config = self.model.decoder.config
        method.check_heads(config.num_heads, config.num_kv_heads, comm.world_size)
        owned = self._owned_units(request)
        comm.deadline = self._frames_deadline(request, max(map(len, owned)))
        encoded = self._together(lambda: self._encode(request, owned[comm.rank], timer))
        parameters = sum(weight.numel() for weight in self.model.decoder.parameters())
        flops = prefill_flops(config, parameters, method, layout)
        comm.deadline = deadline_for(flops, self.device.type)
        with timer.stage("exchange"):
            hidden = self._embed(request, layout, owned, encoded)
        spans = request.spans(
            self.model.vision.config.temporal_patch_size, self.model.vision.config.merge_size
        )
        positions = multimodal_positions(spans, self.model.vision.config.tokens_per_second)
        cache = self._cache(layout, request.max_new_tokens, hidden.dtype)
        prefill = method.prefill(layout, comm, cache)
        rows = torch.tensor(layout.positions(comm.rank), dtype=torch.int64)
        with timer.stage("prefill"):
            token = self._step(layout, hidden, positions[:, rows], prefill.attend)
        comm.deadline = deadline_for(2.0 * parameters, self.device.type)
        decode = Decode(layout, comm, cache)
        position = positions.amax() + 1
        with timer.stage("generate"):
            for _ in range(request.max_new_tokens - 1):
                if token in request.stop_ids:
                    return
                yield token
                hidden = self.model.decoder.embed(torch.tensor([token], device=self.device))
                token = self._step(layout, hidden, position.expand(3, 1), decode.attend)
                decode.next_token()
                position = position + 1
        if token not in request.stop_ids:
            yield token

    def _owned_units(self, request: Request) -> list[range]:
        return [
            shard(request.grid[0], rank, self.comm.world_size)
            for rank in range(self.comm.world_size)
        ]

    def _frames_deadline(self, request: Request, units: int) -> float:
        """Seconds until every rank has encoded its units, `units` at most."""
        parameters = sum(weight.numel() for weight in self.model.vision.parameters())
        _, rows, cols = request.grid
        frames = units * self.model.vision.config.temporal_patch_size
        return frames_deadline(frames, 2.0 * parameters * units * rows * cols, self.device.type)

    def _together(self, stage: Callable[[], Tensor]) -> Tensor:
        """Run a stage that may fail on one rank alone; if it does, all ranks raise before the next
        collective.
        """
        failure: SpavaError | None = None
        result = torch.empty(0)
        try:
            result = stage()
        except SpavaError as error:
            failure = error
        if self.comm.any(failure is not None, self.device):
            raise failure or PeerError("another rank failed")
        return result

    def _encode(self, request: Request, units: range, timer: StageTimer) -> Tensor:
        """Embeddings of this rank's units, `[tokens, hidden]`."""
        config = self.model.vision.config
        dtype = self.model.decoder.embed_tokens.weight.dtype
        parts = [torch.empty(0, config.out_hidden_size, dtype=dtype, device=self.device)]
        if len(units):
            timer.begin("decode")
            stream = stream_patches(
                probe(request.video),
                FrameSample(request.frames, request.times, request.interval),
                units,
                self.pixels,
                request.size,
                batch_units=UNITS_PER_BATCH,
                device=self.device,
                timings=timer.seconds,
            )
            for batch, patches in stream:
                with timer.stage("vision"):
                    grid = (len(batch), *request.grid[1:])
                    parts.append(self.model.vision(patches.to(dtype), grid))
        return torch.cat(parts)

    def _embed(
        self, request: Request, layout: Layout, owned: list[range], encoded: Tensor
    ) -> Tensor:
        """Hidden states of this rank's rows, `[T, hidden]`: text embedded here, visual rows from
        their encoders.
        """
        per_unit = request.num_visual // request.grid[0]
        owned_rows = [
            range(
                request.video_start + units.start * per_unit,
                request.video_start + units.stop * per_unit,
            )
            for units in owned
        ]
        rows = [
            torch.tensor(layout.rows(rank), dtype=torch.int64)
            for rank in range(self.comm.world_size)
        ]
        visual = [(index >= request.visual.start) & (index < request.visual.stop) for index in rows]
        needed = [index[mask] for index, mask in zip(rows, visual, strict=True)]
        received = exchange_rows(self.comm, encoded, owned_rows, needed)
        ids = torch.tensor(request.token_ids)[rows[self.comm.rank]]
        hidden = self.model.decoder.embed(ids.to(self.device))
        hidden[visual[self.comm.rank].to(self.device)] = received
        return hidden

    def _cache(self, layout: Layout, max_new_tokens: int, dtype: torch.dtype) -> KVCache:
        config = self.model.decoder.config
        new = -(-max_new_tokens // self.comm.world_size)
        return KVCache(
            config.num_layers,
            len(layout.cached(self.comm.rank)) + new,
            config.num_kv_heads,
            config.head_dim,
            dtype=dtype,
            device=self.device,
        )

    def _step(self, layout: Layout, hidden: Tensor, positions: Tensor, attend: Attend) -> int:
        """One pass of the decoder over this rank's rows; the query owner takes the best next token
        for all.
        """
        hidden = self.model.decoder(hidden, positions.to(self.device), attend)
        token = torch.zeros(1, dtype=torch.int64, device=self.device)
        if self.comm.rank == layout.query_owner:
            token = self.model.decoder.logits(hidden[-1:]).argmax(dim=-1)
        return int(self.comm.broadcast(token, layout.query_owner))
