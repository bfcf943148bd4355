"""One request on one rank: front end, prefill, and the token loop. Every rank runs this together.

T = this rank's rows, n = prompt tokens.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from spava_app.engine.comm import Comm
from spava_app.engine.flops import logits_flops, prefill_flops, token_flops
from spava_app.engine.kv_cache import KVCache
from spava_app.engine.layout import Layout
from spava_app.engine.models.decoder import Attend, Decoder
from spava_app.engine.multimodal.encoder import MediaEncoder
from spava_app.engine.multimodal.unit_sharding import deal, indices
from spava_app.engine.parallel.base import Decode, make_method
from spava_app.engine.request import Request
from spava_app.engine.sampler import Sampler
from spava_app.engine.timing import StageTimer, deadline_for
from spava_app.errors import EngineError, InvalidInput, SpavaError

Choose = Callable[[Tensor], int]
# Broadcast in place of a token.
CANCELLED, FAILED = -1, -2


class PeerError(EngineError):
    """Another rank failed this stage and reports why; this one only stops."""


@dataclass(frozen=True)
class Runner:
    """A loaded model on one rank.

    Attributes:
        decoder: on its device.
        encoder: for models that see; None for text models.
        comm: this rank's group.
    """

    decoder: Decoder
    encoder: MediaEncoder | None
    comm: Comm

    @property
    def device(self) -> torch.device:
        return self.decoder.embed_tokens.weight.device

    @torch.inference_mode()
    def run(
        self, request: Request, timer: StageTimer, cancelled: Callable[[], bool] = lambda: False
    ) -> Iterator[int]:
        """Yield the answer's token ids, the same on every rank, the stop token not included.

        Args:
            cancelled: asked on every rank while frames are looked at, and on the query owner before
                each token; once true, the request ends.

        Raises:
            Cancelled: before the prefill.
            SpavaError: on the rank that met a problem with the input; `PeerError` on the others.
        """
        comm, config = self.comm, self.decoder.config
        method = make_method(request.method, request.options)
        layout = method.layout(request.shape, comm.world_size)
        method.check_heads(config.num_heads, config.num_kv_heads, comm.world_size)
        parameters = sum(weight.numel() for weight in self.decoder.layers.parameters())
        flops = prefill_flops(config, parameters, method, layout) + logits_flops(config)

        deadline = deadline_for(flops, self.device.type)
        hidden = self._embed(request, layout, timer, deadline, cancelled)
        positions = self._positions(request)
        cache = self._cache(layout, request.max_new_tokens, hidden.dtype)
        prefill = method.prefill(layout, comm, cache)
        local = positions[..., indices(layout.positions(comm.rank))]
        choose = self._chooser(request, layout, cancelled)
        ends = {*request.stop_ids, CANCELLED}
        row = layout.last_row(comm.rank)
        with timer.stage("prefill"):
            token = self._step(hidden, local, prefill.attend, row, choose)

        flops = token_flops(config, parameters, layout) + logits_flops(config)
        comm.deadline = deadline_for(flops, self.device.type)
        decode = Decode(layout, comm, cache)
        position = positions.amax().expand(*positions.shape[:-1], 1) + 1
        with timer.stage("generate"):
            for _ in range(request.max_new_tokens - 1):
                if token in ends:
                    return
                yield token
                hidden = self.decoder.embed(torch.tensor([token], device=self.device))
                token = self._step(hidden, position, decode.attend, 0, choose)
                decode.next_token()
                position = position + 1
        if token not in ends:
            yield token

    def _embed(
        self,
        request: Request,
        layout: Layout,
        timer: StageTimer,
        deadline: float,
        cancelled: Callable[[], bool],
    ) -> Tensor:
        """Hidden states of this rank's rows, `[T, hidden]`: text, and what the front end sees.

        `deadline` is that of the collectives after the frames are encoded.
        """
        ids = torch.tensor(request.token_ids)[indices(layout.rows(self.comm.rank))]
        hidden = self.decoder.embed(ids.to(self.device))
        if not request.media:
            self.comm.deadline = deadline
            return hidden
        encoder = self.encoder
        if encoder is None:
            raise InvalidInput("model", "text model", "cannot see: give a vision-language model")
        dealt = deal(request.media, layout)
        self.comm.deadline = encoder.deadline(request, dealt)
        units = dealt[self.comm.rank]
        encoded = self._together(lambda: encoder.encode(request, units, timer, cancelled))
        self.comm.deadline = deadline
        with timer.stage("exchange"):
            visual, rows = encoder.deliver(request, layout, dealt, encoded)
            hidden[visual.to(self.device)] = rows
        return hidden

    def _positions(self, request: Request) -> Tensor:
        """Positions of the whole prompt, `[3, n]` for multimodal rotary, else `[n]`."""
        if self.encoder is None:
            return torch.arange(len(request.token_ids))
        return self.encoder.positions(request)

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

    def _cache(self, layout: Layout, max_new_tokens: int, dtype: torch.dtype) -> KVCache:
        config = self.decoder.config
        new = -(-max_new_tokens // self.comm.world_size)
        return KVCache(
            config.num_layers,
            layout.num_cached(self.comm.rank) + new,
            config.num_kv_heads,
            config.head_dim,
            dtype=dtype,
            device=self.device,
        )

    def _step(
        self, hidden: Tensor, positions: Tensor, attend: Attend, row: int, choose: Choose
    ) -> int:
        """One pass of the decoder over this rank's rows, and the token after row `row` for all."""
        hidden = self.decoder(hidden, positions.to(self.device), attend)
        return choose(hidden[row : row + 1])

    def _chooser(self, request: Request, layout: Layout, cancelled: Callable[[], bool]) -> Choose:
        """From the last row's hidden state to the next token, the same on every rank.

        The query owner samples and the others are told. It is CANCELLED once the owner's
        `cancelled` says so. A failure to sample is told too, so that no rank waits for a token that
        never comes.
        """
        comm, sampler = self.comm, Sampler(request.sampling, request.token_ids)

        def choose(last: Tensor) -> int:
            chosen, failure = CANCELLED, None
            if comm.rank == layout.query_owner and not cancelled():
                try:
                    chosen = sampler(self.decoder.logits(last)[0])
                    sampler.accept(chosen)
                except SpavaError as error:
                    chosen, failure = FAILED, error
            told = torch.tensor([chosen], device=self.device)
            token = int(comm.broadcast(told, layout.query_owner))
            if token == FAILED:
                raise failure or PeerError("another rank failed")
            return token

        return choose
