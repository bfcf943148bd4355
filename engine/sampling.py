"""How the tokens of an answer are chosen, as it is asked for. Imports no torch: the command line
shows it.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

from spava_app.errors import InvalidInput, check_count, finite_number, needed_count


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
