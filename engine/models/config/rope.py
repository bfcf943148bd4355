"""The rotary frequencies a checkpoint was trained with, read from its config.json."""

import math
from dataclasses import dataclass
from math import pi

import torch
from torch import Tensor

from spava_app.engine.models.config.settings import MOST_POSITIONS, Settings
from spava_app.kernels.rope import rotary_frequencies

_MOST_THETA = 1e12  # the largest published one is 3.6e9
_KINDS = ("default", "mrope", "dynamic", "llama3", "yarn")


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
    attention_factor: float = 1.0

    def __call__(self, frequencies: Tensor, theta: float) -> Tensor:
        waves = self.original_len * frequencies / (2 * pi)
        keep = ((waves - self.low) / (self.high - self.low)).clamp(0, 1)
        return frequencies * (keep + (1 - keep) / self.factor)


@dataclass(frozen=True)
class YarnScaling:
    """YaRN (arXiv 2309.00071, section 3): frequencies that make fewer than `slow` turns in the
    original context are divided by `factor`, those with more than `fast` are kept, and between them
    the two are blended; queries and keys are scaled by `attention_factor` (section 3.4).

    Attributes:
        original_len: context length before stretching.
        truncate: round the borders of the blend to whole frequencies, outwards.
    """

    factor: float
    original_len: int
    fast: float
    slow: float
    attention_factor: float
    truncate: bool

    def __call__(self, frequencies: Tensor, theta: float) -> Tensor:
        half = len(frequencies)

        def border(turns: float) -> float:
            """The (fractional) index of the frequency that makes this many turns."""
            return half * math.log(self.original_len / (turns * 2 * pi)) / math.log(theta)

        first, last = border(self.fast), border(self.slow)
        if self.truncate:
            first, last = math.floor(first), math.ceil(last)
        first, last = max(first, 0), min(last, 2 * half - 1)
        last += 0.001 if first == last else 0  # as transformers, against a division by zero
        index = torch.arange(half, dtype=frequencies.dtype)
        stretched = ((index - first) / (last - first)).clamp(0, 1)
        return frequencies * (1 - stretched + stretched / self.factor)

    @classmethod
    def read(cls, rope: Settings, longest: int, original: int) -> "YarnScaling":
        """From the `rope_scaling` object of a decoder with `max_position_embeddings=longest`."""
        rope = rope.with_defaults({"truncate": True})
        factor = rope.number("factor") if "factor" in rope else longest / original
        if factor < 1:
            rope.refuse("factor", "must be at least 1")
        attention = _mscale(factor, 1.0)
        if "attention_factor" in rope:
            attention = rope.number("attention_factor")
        elif rope.raw("mscale") and rope.raw("mscale_all_dim"):  # 0 is none, as in transformers
            above, below = rope.number("mscale"), rope.number("mscale_all_dim")
            attention = _mscale(factor, above) / _mscale(factor, below)
        fast = rope.number("beta_fast") if rope.raw("beta_fast") else 32.0
        slow = rope.number("beta_slow") if rope.raw("beta_slow") else 1.0
        if fast < slow:
            rope.refuse("beta_fast", f"must not be below beta_slow={slow:g}")
        return cls(factor, original, fast, slow, attention, rope.flag("truncate"))


def _original_len(text: Settings, rope: Settings, longest: int) -> int:
    """As in transformers, what stands beside `rope_scaling` counts more than what stands in it."""
    key = "original_max_position_embeddings"
    settings = text if key in text else rope.with_defaults({key: longest})
    return settings.count(key, most=MOST_POSITIONS)


def _mscale(factor: float, scale: float) -> float:
    return 0.1 * scale * math.log(factor) + 1.0


@dataclass(frozen=True)
class RopeConfig:
    """Base and scaling of the rotary frequencies."""

    theta: float
    scaling: Llama3Scaling | YarnScaling | None = None

    @staticmethod
    def settings(text: Settings) -> Settings:
        """The object they stand in: `rope_scaling`, else `rope_parameters` of transformers 5, which
        may hold one for each kind of layer.
        """
        rope = text.part("rope_scaling")
        if not rope.items():  # as `rope_scaling or rope_parameters` there
            rope = text.part("rope_parameters")
        return rope.part("full_attention") if "full_attention" in rope else rope

    @classmethod
    def read(cls, text: Settings) -> "RopeConfig":
        """From the settings of a decoder.

        Raises:
            CheckpointError: a setting is missing or wrong, or a kind of scaling is not supported.
        """
        rope = cls.settings(text)
        theta = (rope if "rope_theta" in rope else text).number(
            "rope_theta", above=1, most=_MOST_THETA
        )
        for settings in (rope, text):
            settings.only("partial_rotary_factor", 1)
        kind = rope.raw("rope_type", rope.raw("type", "default"))
        if kind not in _KINDS:
            key = "rope_type" if "rope_type" in rope else "type"
            rope.refuse(key, f"supported: {', '.join(_KINDS)}")
        longest = text.count("max_position_embeddings", most=MOST_POSITIONS)
        if kind == "yarn":
            return cls(theta, YarnScaling.read(rope, longest, _original_len(text, rope, longest)))
        if kind == "llama3":
            low, high = rope.number("low_freq_factor"), rope.number("high_freq_factor")
            if low >= high:
                rope.refuse("low_freq_factor", f"must be below high_freq_factor={high:g}")
            length = _original_len(text, rope, longest)
            return cls(theta, Llama3Scaling(rope.number("factor"), low, high, length))
        # Dynamic NTK raises the base for prompts longer than max_position_embeddings, which are
        # refused before they come here, and is the default for all others.
        if kind == "dynamic":
            rope.number("factor")
        return cls(theta)

    @property
    def attention_factor(self) -> float:
        """What cosines and sines are multiplied by."""
        return 1.0 if self.scaling is None else self.scaling.attention_factor

    @property
    def stretched_len(self) -> int:
        """The context that YaRN stretches the original one to, in tokens; 0 without it."""
        if not isinstance(self.scaling, YarnScaling):
            return 0
        return int(self.scaling.original_len * self.scaling.factor)

    def frequencies(self, head_dim: int) -> Tensor:
        """Angular frequencies, float64 `[head_dim / 2]`."""
        frequencies = rotary_frequencies(head_dim, self.theta)
        return frequencies if self.scaling is None else self.scaling(frequencies, self.theta)
