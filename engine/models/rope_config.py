"""The rotary frequencies a checkpoint was trained with, read from its config.json."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import pi
from typing import Any

from torch import Tensor

from spava_app.errors import CheckpointError
from spava_app.kernels.rope import rotary_frequencies


@dataclass(frozen=True)
class Llama3Scaling:
    """Llama 3.1's stretching of low frequencies (Llama 3, arXiv 2407.21783, section 3.4.3).

    Attributes:
        factor: by which waves longer than `original_len / low` are stretched.
        low, high: waves per original context below which a wave is stretched, above which it is
            kept; between them the two are blended.
        original_len: context length before stretching.
    """

    factor: float
    low: float
    high: float
    original_len: int

    def __call__(self, frequencies: Tensor) -> Tensor:
        waves = self.original_len * frequencies / (2 * pi)
        keep = ((waves - self.low) / (self.high - self.low)).clamp(0, 1)
        return frequencies * (keep + (1 - keep) / self.factor)


@dataclass(frozen=True)
class RopeConfig:
    """Base and scaling of the rotary frequencies."""

    theta: float
    scaling: Llama3Scaling | None = None

    @classmethod
    def from_hf(cls, text: Mapping[str, Any]) -> "RopeConfig":
        """Read `rope_parameters` of transformers 5 or the older `rope_theta` and `rope_scaling`.

        Raises:
            KeyError: a required setting is missing.
            CheckpointError: a kind of scaling that is not supported.
        """
        rope = text.get("rope_parameters") or text.get("rope_scaling") or {}
        theta = float(rope.get("rope_theta") or text["rope_theta"])
        kind = rope.get("rope_type", rope.get("type", "default"))
        # Dynamic NTK raises the base for prompts longer than max_position_embeddings, which are
        # refused before they come here, and is the default for all others.
        if kind in {"default", "mrope", "dynamic"}:
            return cls(theta)
        if kind != "llama3":
            fix = "default, mrope, dynamic and llama3 are supported"
            raise CheckpointError("rope_type", kind, fix)
        return cls(
            theta,
            Llama3Scaling(
                rope["factor"],
                rope["low_freq_factor"],
                rope["high_freq_factor"],
                rope["original_max_position_embeddings"],
            ),
        )

    def frequencies(self, head_dim: int) -> Tensor:
        """Angular frequencies, float64 `[head_dim / 2]`."""
        frequencies = rotary_frequencies(head_dim, self.theta)
        return frequencies if self.scaling is None else self.scaling(frequencies)
