"""How a checkpoint wants its answers made: generation_config.json, followed as by `generate` of
transformers and by vLLM. What is asked for explicitly wins.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from spava_app.engine.checkpoints.files import read_object
from spava_app.engine.models.config.settings import Settings, in_file
from spava_app.engine.sampling import GREEDY, Sampling
from spava_app.errors import CheckpointError, InvalidInput
from spava_app.requests.options import DEFAULT_MAX_NEW_TOKENS

FILE = "generation_config.json"
# GenerationConfig's own defaults, of `do_sample: true`.
_SAMPLED = {"temperature": 1.0, "top_p": 1.0, "top_k": 50}
# Settings that would change an answer and are not followed, with the value that changes nothing.
_NOT_FOLLOWED = {
    "num_beams": 1,
    "penalty_alpha": None,
    "num_return_sequences": 1,
    "max_time": None,
    "no_repeat_ngram_size": 0,
    "encoder_repetition_penalty": 1.0,
    "min_length": 0,
    "min_new_tokens": None,
    "exponential_decay_length_penalty": None,
    "bad_words_ids": None,
    "sequence_bias": None,
    "suppress_tokens": None,
    "begin_suppress_tokens": None,
    "forced_bos_token_id": None,
    "forced_eos_token_id": None,
    "guidance_scale": None,
    "watermarking_config": None,
    "stop_strings": None,
}
# The same, of settings that count with `do_sample: true` alone.
_NOT_FOLLOWED_SAMPLING = {
    "min_p": None,
    "top_h": None,
    "typical_p": 1.0,
    "epsilon_cutoff": 0.0,
    "eta_cutoff": 0.0,
}


@dataclass(frozen=True)
class GenerationDefaults:
    """What holds where a question does not say otherwise.

    Attributes:
        sampling: how tokens are chosen.
        max_new_tokens: of an answer.
        ignored: settings of the file that change answers and are not followed, as `name=value`.
    """

    sampling: Sampling
    max_new_tokens: int
    ignored: tuple[str, ...] = ()

    @classmethod
    def read(cls, folder: Path) -> "GenerationDefaults":
        """Those of a checkpoint folder.

        Raises:
            CheckpointError: the file is broken, or a value is out of range.
        """
        file = folder / FILE
        with in_file(file):
            settings = Settings(
                read_object(file) or {},
                {"do_sample": False, "max_new_tokens": DEFAULT_MAX_NEW_TOKENS},
            )
            sampled = settings.flag("do_sample")
            given = {
                name: settings.raw(name, usual if sampled else None)
                for name, usual in _SAMPLED.items()
            }
            if not sampled:
                given = {}  # transformers does not look at them either
            given["repetition_penalty"] = settings.raw("repetition_penalty", 1.0)
            try:
                sampling = Sampling(**given).over(GREEDY)
            except InvalidInput as error:
                raise CheckpointError(error.field, error.value, error.fix) from error
            return cls(sampling, settings.count("max_new_tokens"), _ignored(settings, sampled))

    def within(self, longest: int) -> "GenerationDefaults":
        """For a model of `longest` tokens: a length that nobody asked for leaves most of them to
        the prompt.
        """
        most = max(1, longest // 4)
        return replace(self, max_new_tokens=min(self.max_new_tokens, most))

    @property
    def warnings(self) -> tuple[str, ...]:
        """About what is ignored."""
        if not self.ignored:
            return ()
        return (f"{FILE} of the model sets {', '.join(self.ignored)}: not supported, and ignored",)


def _ignored(settings: Settings, sampled: bool) -> tuple[str, ...]:
    known = {**_NOT_FOLLOWED, **(_NOT_FOLLOWED_SAMPLING if sampled else {})}

    def changes(value: Any, neutral: Any) -> bool:
        return value != neutral and value not in (None, [], {})

    return tuple(
        f"{name}={value!r}"
        for name, neutral in known.items()
        if changes(value := settings.raw(name), neutral)
    )
