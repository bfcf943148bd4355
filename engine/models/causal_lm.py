"""A text model: a decoder alone (Llama, Yi, Qwen2)."""

from collections.abc import Mapping
from typing import Any

from torch import nn

from spava_app.engine.models.config.decoder import DecoderConfig
from spava_app.engine.models.decoder import Decoder
from spava_app.engine.models.published import Rows, Table


class CausalLM(nn.Module):
    """A decoder with the published names of a text checkpoint."""

    vision = None

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()
        self.decoder = Decoder(DecoderConfig.from_hf(config))

    def published(self) -> dict[str, Rows]:
        """Which rows of which parameter each published tensor fills."""
        table = Table(self)
        self.decoder.publish(table, name="decoder")
        return table.rows
