"""Which token comes next: greedy, or drawn after repetition penalty, temperature, top-k and top-p.

V = vocabulary. The order and the rules are those of `generate` of transformers (its
`RepetitionPenaltyLogitsProcessor`, `TemperatureLogitsWarper`, `TopKLogitsWarper` and
`TopPLogitsWarper`), in float64.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from spava_app.engine.sampling import Sampling
from spava_app.errors import EngineError


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
