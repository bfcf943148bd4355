"""Which token comes next: greedy, or drawn after repetition penalty, temperature, top-k and top-p.

V = vocabulary. The order and the rules are those of `generate` of transformers (its
`RepetitionPenaltyLogitsProcessor`, `TemperatureLogitsWarper`, `TopKLogitsWarper` and
`TopPLogitsWarper`), in float64.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from spava_app.errors import EngineError, InvalidInput, check_count, finite_number, needed_count


@dataclass(frozen=True)
class Sampling:
    """How tokens are chosen. What is None is left to the checkpoint's generation_config.json.

    Attributes:
        temperature: 0 takes the best token (top_p, top_k and seed then change nothing); 1 draws
            from the model's own distribution.
        top_p: keep the fewest most probable tokens whose probabilities sum to this (Holtzman et
            al., arXiv:1904.09751); 1 keeps all.
        top_k: keep this many most probable tokens, and those equal to the last; 0 keeps all.
        repetition_penalty: weakens the tokens of the prompt and of the answer so far (Keskar et
            al., arXiv:1909.05858), also without a temperature; 1 changes nothing.
        seed: the same seed draws the same tokens.

    Raises:
        InvalidInput: a value out of range.
    """

    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    repetition_penalty: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        for name, value in list(vars(self).items()):
            number = finite_number(value)
            # What is no number stays, to be refused below as it was given.
            object.__setattr__(self, name, value if number is None else number)
        fix = "must be a number of at least 0; 0 always takes the best token"
        _check("temperature", self.temperature, lambda value: value >= 0, fix)
        fix = "must be a number above 0 and at most 1; 1 keeps every token"
        _check("top_p", self.top_p, lambda value: 0 < value <= 1, fix)
        check_count("top_k", self.top_k, least=0)
        fix = "must be a number above 0; 1 changes nothing"
        _check("repetition_penalty", self.repetition_penalty, lambda value: value > 0, fix)
        needed_count("seed", self.seed, least=0)

    def over(self, defaults: "Sampling") -> "Sampling":
        """The same with what is None taken from `defaults`."""
        given = {name: value for name, value in vars(self).items() if value is not None}
        return replace(defaults, **given)

    def __str__(self) -> str:
        """As a plan shows it."""
        parts = ["greedy"]
        if self.temperature:
            parts = [f"temperature {self.temperature:g}"]
            parts += [f"top-p {self.top_p:g}"] * (self.top_p not in (None, 1))
            parts += [f"top-k {self.top_k}"] * bool(self.top_k)
            parts.append(f"seed {self.seed}")
        if self.repetition_penalty not in (None, 1):
            parts.append(f"repetition penalty {self.repetition_penalty:g}")
        return ", ".join(parts)


def _check(name: str, value: object, allowed: Callable[[float], bool], fix: str) -> None:
    if value is None:
        return
    number = finite_number(value)
    if number is None or not allowed(number):
        raise InvalidInput(name, value, fix)


# The best token each time, whatever a checkpoint says.
GREEDY = Sampling(temperature=0.0, top_p=1.0, top_k=0, repetition_penalty=1.0)


class Sampler:
    """Chooses the tokens of one answer, on the one rank that has the logits.

    Random numbers come from a CPU generator and are looked up in the cumulative distribution on the
    CPU, in float64 and in the order of the ids. A device's own generator and its
    `torch.multinomial` give other tokens on another device. In the order of ids, logits that
    another device or number of ranks rounds differently move the borders of the tokens' shares by
    that rounding; in the order of probabilities two close tokens would change places.

    Args:
        sampling: how.
        prompt_ids: the whole prompt, for the repetition penalty.
    """

    def __init__(self, sampling: Sampling, prompt_ids: Sequence[int]) -> None:
        self._temperature, self._top_p = sampling.temperature or 0.0, sampling.top_p or 1.0
        self._top_k, self._penalty = sampling.top_k or 0, sampling.repetition_penalty or 1.0
        self._generator = torch.Generator("cpu").manual_seed(sampling.seed)
        self._seen = torch.tensor(sorted(set(prompt_ids)), dtype=torch.int64)

    def __call__(self, logits: Tensor) -> int:
        """The next token for `logits` `[V]`; of equally good best tokens the lowest id.

        Raises:
            EngineError: the model produced NaN or infinity.
        """
        best = float(logits.max())  # NaN if any is
        if not math.isfinite(best):
            kind = "NaN" if math.isnan(best) else "no finite logit" if best < 0 else "infinity"
            raise EngineError(f"the model produced {kind}")
        if self._temperature == 0:
            return int(self._penalised(logits).argmax())  # the first of several, on any device
        probabilities = self.probabilities(logits)
        (kept,) = probabilities.nonzero(as_tuple=True)
        cumulative = probabilities[kept].cumsum(0)
        drawn = torch.rand((), dtype=torch.float64, generator=self._generator) * cumulative[-1]
        return int(kept[torch.searchsorted(cumulative, drawn)])

    def accept(self, token: int) -> None:
        """Take note that `token` is part of the answer."""
        if self._penalty != 1:
            self._seen = torch.cat((self._seen, torch.tensor([token])))

    def probabilities(self, logits: Tensor) -> Tensor:
        """What a temperature above 0 draws from: `[V]` in float64 on the CPU, 0 for the tokens
        that top-k and top-p remove.
        """
        scores = self._penalised(logits).to("cpu", torch.float64)
        # From the best down: no quotient overflows, however small the temperature.
        scores = (scores - scores.max()) / self._temperature
        if 0 < self._top_k < len(scores):
            least = scores.topk(self._top_k).values[-1]
            scores = scores.masked_fill(scores < least, -math.inf)
        probabilities = scores.softmax(0)
        if self._top_p < 1:
            probabilities = _nucleus(probabilities, self._top_p)
        return probabilities

    def _penalised(self, logits: Tensor) -> Tensor:
        """Logits with each seen token's divided by the penalty, or multiplied where negative."""
        penalty = self._penalty
        if penalty == 1:
            return logits
        logits = logits.to("cpu", torch.float64)
        # Ids beyond the logits exist where the embedding is larger than the head.
        seen = self._seen[self._seen < len(logits)]
        scores = logits[seen]
        return logits.index_put(
            (seen,), torch.where(scores < 0, scores * penalty, scores / penalty)
        )


def _nucleus(probabilities: Tensor, top_p: float) -> Tensor:
    """Probabilities of the tokens before which less than `top_p` is gathered, made to sum to 1."""
    # All tokens below this share sum to less than 1 - top_p, so none of them is kept: few of a
    # vocabulary of 150 000 are left to sort (a millisecond instead of ten).
    share = (1 - top_p) / len(probabilities)
    (ids,) = (probabilities >= share).nonzero(as_tuple=True)
    ordered, order = probabilities[ids].sort(descending=True, stable=True)
    before = ordered.cumsum(0) - ordered
    kept = ids[order[before < top_p]]
    nucleus = torch.zeros_like(probabilities)
    nucleus[kept] = probabilities[kept] / probabilities[kept].sum()
    return nucleus
