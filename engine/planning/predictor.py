"""What a request will take, in seconds and bytes, from the sizes of a model alone: no worker runs
and no weight is loaded.
"""

from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch

from spava_app.engine.devices import available_memory
from spava_app.engine.layout import Layout, PromptShape
from spava_app.engine.media import Media, Units
from spava_app.engine.models.registry import Model, empty_model
from spava_app.engine.multimodal.processors import Fit
from spava_app.engine.parallel.base import Method
from spava_app.engine.planning.decoder_time import DecoderTime
from spava_app.engine.planning.encoder_time import EncoderTime
from spava_app.engine.planning.hardware import Machine
from spava_app.engine.planning.hardware_profiles import this_machine
from spava_app.engine.planning.memory import Memory, margin, predict
from spava_app.engine.planning.method_choice import MethodChoice, Variant, choose
from spava_app.errors import InvalidInput


@dataclass(frozen=True)
class Predictor:
    """Predicts for one model on one group of ranks.

    Attributes:
        name: of the model, for errors.
        model: with its sizes only.
        machine: the rates.
        world_size: ranks.
        dtype: of weights and activations.
        available: bytes that each rank may take, its weights included.
    """

    name: str
    model: Model
    machine: Machine
    world_size: int
    dtype: torch.dtype
    available: int

    @classmethod
    def of(
        cls,
        config: Mapping[str, Any],
        name: str,
        *,
        device: str,
        world_size: int,
        dtype: torch.dtype,
    ) -> "Predictor":
        """For the parsed config.json of the model `name` on this machine. To be made before the
        ranks start: memory that they hold themselves would not count as available.
        """
        return cls(
            name,
            empty_model(config, name),
            this_machine(device),
            world_size,
            dtype,
            available_memory(device, world_size),
        )

    @cached_property
    def _decoder(self) -> DecoderTime:
        return DecoderTime(self.model.decoder.config, self.machine, self.dtype)

    @property
    def weights(self) -> int:
        """Bytes of all parameters, which every rank holds."""
        return self._parameters * self.dtype.itemsize

    @cached_property
    def _parameters(self) -> int:
        return sum(weight.numel() for weight in self.model.parameters())

    def seconds(
        self, method: Method, layout: Layout, media: Sequence[Media], max_new_tokens: int
    ) -> dict[str, float]:
        """Per stage, named as in an answer's timings; "generate" for the longest answer."""
        stages = {}
        if self.model.vision is not None and media:
            costs = EncoderTime(self.model.vision, self.machine, self.dtype)
            stages = costs.seconds(media, layout)
        stages["prefill"] = self._decoder.prefill(method, layout)
        stages["generate"] = (max_new_tokens - 1) * self._decoder.token(layout)
        return stages

    def memory(
        self, method: Method, layout: Layout, media: Sequence[Units], max_new_tokens: int
    ) -> list[Memory]:
        """Of each rank, without `margin`."""
        return predict(
            self.model,
            method,
            layout,
            dtype=self.dtype,
            max_new_tokens=max_new_tokens,
            media=media,
            device=self.machine.device,
            num_parameters=self._parameters,
        )

    def margin(self, total: int) -> int:
        """Bytes that come on top of a rank's `total`."""
        return margin(total, self.machine.device, self.world_size)

    def choose(
        self,
        variants: Sequence[Variant],
        shape: PromptShape,
        media: Sequence[Units],
        max_new_tokens: int,
    ) -> MethodChoice | None:
        """The best variant; None where none fits into memory.

        Raises:
            InvalidInput: none of them can lay out the prompt.
        """
        config = self.model.decoder.config

        def fits(method: Method, layout: Layout) -> bool:
            memories = self.memory(method, layout, media, max_new_tokens)
            most = max(memory.total for memory in memories)
            return most + self.margin(most) <= self.available

        return choose(
            variants,
            shape,
            self.world_size,
            heads=(config.num_heads, config.num_kv_heads),
            seconds=self._decoder.prefill,
            fits=fits,
        )

    def most_tokens(
        self,
        variants: Sequence[Variant],
        shape_of: Callable[[int], PromptShape],
        fits: Sequence[Fit],
        max_new_tokens: int,
        limit: int,
    ) -> int:
        """The longest prompt that some variant has memory for, at most `limit` tokens; 0 if none.

        Args:
            shape_of: the prompt's shape by its number of tokens.
            fits: how the prompt's media would become tokens if all of them fitted.
        """
        wished = sum(fit.grid[0] * fit.unit_tokens for fit in fits)

        def too_long(length: int) -> bool:
            share = min(1.0, length / max(1, wished))
            media = [_part(fit, share) for fit in fits]
            try:
                return self.choose(variants, shape_of(length), media, max_new_tokens) is None
            except InvalidInput:
                return False  # too short for the ranks or options: no matter of memory

        if not too_long(limit):
            return limit
        return bisect_right(range(1, limit), False, key=too_long)


def _part(fit: Fit, share: float) -> Fit:
    """At least one unit of it."""
    units = max(1, round(share * fit.grid[0]))
    return replace(fit, grid=(units, *fit.grid[1:]))
