"""What comes back for a question."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

from spava_app.engine.planning.plan import Plan
from spava_app.engine.serialization import from_plain


@dataclass(frozen=True)
class Usage:
    """What a question took.

    Attributes:
        prompt_tokens, answer_tokens: how many.
        finish_reason: "stop" where the model or a stop string ended the answer, "length" where
            `max_new_tokens` did, "cancelled" where the caller did.
        frames_encoded: frames that were decoded and went through the vision tower.
        frames_reused: frames whose embeddings were kept from an earlier question. The prefill is
            always run anew: what blocks pass on depends on the question.
    """

    prompt_tokens: int
    answer_tokens: int
    finish_reason: str
    frames_encoded: int = 0
    frames_reused: int = 0


@dataclass(frozen=True)
class Answer:
    """The answer to a question.

    Attributes:
        text: what the model said.
        timings: seconds per stage of the slowest rank, and "total" from the call to the answer.
        plan: what was done.
        usage: tokens in and out, frames seen and reused.
        warnings: why the answer may not be what was wanted, as the plan says, and what was wrong
            with the videos and did not keep them from being looked at.
        memory: bytes at the peak of each rank, beside the plan's prediction: of its tensors on a
            GPU; on a CPU of its process since it started.
    """

    text: str
    timings: dict[str, float]
    plan: Plan
    usage: Usage
    warnings: tuple[str, ...] = ()
    memory: tuple[int, ...] = ()

    def __str__(self) -> str:
        return self.text

    @property
    def model(self) -> str:
        """Who answered, as the user named it: "embedded", a folder, or a name on the hub."""
        return self.plan.model

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Self:
        """What `to_dict` gave, back from JSON."""
        return from_plain(cls, fields)

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "text": self.text,
            "model": self.model,
            "timings": self.timings,
            "plan": self.plan.to_dict(),
            "usage": asdict(self.usage),
            "warnings": list(self.warnings),
            "memory": list(self.memory),
        }
