"""`TextQA`: ask questions about long texts from Python."""

import os
import threading
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path

from typing_extensions import Unpack

from spava_app.api.answer import Answer
from spava_app.api.session import OnEvent, OnText, Session
from spava_app.api.streaming import Event, streamed
from spava_app.engine.planning.plan import Plan
from spava_app.errors import InvalidInput
from spava_app.requests.bounded_text import read_text_file
from spava_app.requests.media_input import Question
from spava_app.requests.options import AnswerOptions, check_options

_LONGEST_PATH = 4096  # characters; Linux opens none of more bytes


class TextQA(Session):
    """Answers questions about long texts with a language model whose prefill is spread over several
    ranks.

    Args:
        model: the folder of a Llama, Qwen2 or Yi checkpoint (or of a vision-language model) in
            Hugging Face form, or its name on the hub.
        gpus, cpu_ranks, method, method_options, allow_pickle: as in `VideoQA`.

    Raises:
        InvalidInput: a value out of range; the message names the field and the fix.
        CheckpointError: the model folder cannot be used.
    """

    def __init__(
        self,
        model: str | Path,
        *,
        gpus: int | str = "auto",
        cpu_ranks: int | None = None,
        method: str = "auto",
        method_options: Mapping[str, object] | None = None,
        allow_pickle: bool = False,
    ) -> None:
        super().__init__(
            model,
            sees=False,
            gpus=gpus,
            cpu_ranks=cpu_ranks,
            method=method,
            method_options=method_options,
            allow_pickle=allow_pickle,
            cache=False,
        )

    def ask(
        self,
        text: str | Path,
        question: str,
        *,
        on_event: OnEvent | None = None,
        on_text: OnText | None = None,
        cancel: threading.Event | None = None,
        **options: Unpack[AnswerOptions],
    ) -> Answer:
        """Answer `question` about `text`.

        Args:
            text: the text itself, or the `Path` of a UTF-8 file. A `str` that names a file is taken
                as text too, and `Answer.warnings` says so.
            question: any text.
            on_event, on_text, cancel: as in `VideoQA.ask`.
            options: see `spava_app.AnswerOptions`.

        Raises:
            InvalidInput: an empty text or question, a file that cannot be read, more text than the
                model takes.
            EngineDown: a worker died; the next question starts new ones.
        """
        asked = _asked(text, question, options, self._most_text)
        return self._ask(asked, on_event=on_event, on_text=on_text, cancel=cancel)

    def stream(
        self, text: str | Path, question: str, **options: Unpack[AnswerOptions]
    ) -> Iterator[Event]:
        """As `ask`, yielding what `VideoQA.stream` does."""
        return streamed(partial(self._ask, _asked(text, question, options, self._most_text)))

    def plan(self, text: str | Path, question: str, **options: Unpack[AnswerOptions]) -> Plan:
        """What `ask` would do, in numbers; no worker is started."""
        return self._plan(_asked(text, question, options, self._most_text))


def _asked(text: str | Path, question: str, options: AnswerOptions, most: int) -> Question:
    check_options(options, AnswerOptions, "a question about a text")
    warnings: tuple[str, ...] = ()
    if isinstance(text, Path):
        text = read_text_file("text", text, most)
    elif isinstance(text, str):
        warnings = _warnings(text)
    if not isinstance(text, str) or not text.strip():
        raise InvalidInput("text", text, "give a text that is not empty, or the Path of a file")
    return Question((), question, text, warnings=warnings, **options)


def _warnings(text: str) -> tuple[str, ...]:
    """What to say of a text that may have been meant as a path."""
    if len(text) > _LONGEST_PATH or "\n" in text:
        return ()
    path = os.path.expanduser(text)
    try:
        if not os.path.isfile(path):
            return ()
    except ValueError:  # what no path can hold
        return ()
    return (f"{text!r} was taken as the text itself; Path({path!r}) reads the file of that name",)
