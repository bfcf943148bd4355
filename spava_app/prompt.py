"""From questions and media to token ids: the model's own chat template, with every span found from
the rendered text and never from constants.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from spava_app.engine.processors import Fit, Processor
from spava_app.errors import CheckpointError, InvalidInput

# Stands for a text whose place is looked for; no template or model knows it.
_MARK = "\ue000"
Message = dict[str, Any]


@dataclass(frozen=True)
class Prompt:
    """A prompt with one id per visual token.

    Attributes:
        token_ids: the whole prompt.
        starts: per medium, the index of the first token of each of its units.
        query_len: tokens of the last question and the header of the answer.
        system_len: tokens before the first user's content.
        question_len: tokens of the tail before its first end of turn: the question alone.
    """

    token_ids: tuple[int, ...]
    starts: tuple[tuple[int, ...], ...]
    query_len: int
    system_len: int
    question_len: int


class PromptBuilder:
    """The tokenizer and chat template of a model folder.

    Args:
        processor: of the same folder; None for a text model.

    Raises:
        CheckpointError: no tokenizer or no chat template in the folder.
    """

    def __init__(self, folder: Path, processor: Processor | None) -> None:
        from transformers import AutoTokenizer

        try:
            self._tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        except Exception as error:
            raise CheckpointError("model", str(folder), "has no tokenizer that loads") from error
        if not self._tokenizer.is_fast:
            raise CheckpointError("model", str(folder), "has no tokenizer.json: convert it")
        if not self._tokenizer.chat_template:
            raise CheckpointError("model", str(folder), "its tokenizer has no chat template")
        self._placeholders: frozenset[int] = frozenset()
        if processor is not None:
            self._placeholders = processor.placeholders(self._tokenizer.get_added_vocab())
        self._folder = folder
        self._place([{"role": "user", "content": _MARK}])
        self.stop_ids = _stop_ids(folder, self._tokenizer.eos_token_id)

    def check(self, question: str, history: Sequence[tuple[str, str]] = (), text: str = "") -> None:
        """Raise `InvalidInput` for an empty text, or one with the model's special tokens in it."""
        pairs = isinstance(history, Sequence) and not isinstance(history, str)
        if not pairs or any(not isinstance(it, tuple | list) or len(it) != 2 for it in history):
            raise InvalidInput("history", history, "give (question, answer) pairs, oldest first")
        self._check("question", question)
        self._check("text", text, may_be_empty=True)
        for asked, said in history:
            self._check("history", asked)
            self._check("history", said, may_be_empty=True)  # a model may have said nothing

    def _check(self, name: str, text: str, *, may_be_empty: bool = False) -> None:
        if not isinstance(text, str) or not (may_be_empty or text.strip()):
            raise InvalidInput(name, text, "must be text, and not empty")
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise InvalidInput(name, text, "must be valid Unicode text") from error
        for special in self._tokenizer.all_special_tokens:
            if special in text:
                raise InvalidInput(name, text, f"must not contain {special}")

    def build(
        self,
        question: str,
        media: Sequence[Fit] = (),
        history: Sequence[tuple[str, str]] = (),
        text: str = "",
    ) -> Prompt:
        """The prompt that asks `question`.

        Args:
            media: what stands before the first question.
            history: earlier questions and their answers.
            text: what stands before the first question, after media.

        Raises:
            InvalidInput: as `check`.
        """
        self.check(question, history, text)
        contents: list[Message] = [
            {"role": role, "content": text} for role, text in _turns(question, history)
        ]
        about = [{"type": "text", "text": f"{text}\n\n"}] if text else []
        parts = [*(fit.content for fit in media), *about]
        parts.append({"type": "text", "text": contents[0]["content"]})
        contents[0]["content"] = _joined(parts)
        rendered = self._render(contents)
        # Not verbose: what is too long is told in words of ours.
        encoding = self._tokenizer(
            rendered, add_special_tokens=False, return_offsets_mapping=True, verbose=False
        )
        begins = [begin for begin, _ in encoding["offset_mapping"]]
        mark = {"type": "text", "text": _MARK}
        listed = isinstance(contents[0]["content"], list)
        first = self._place([{"role": "user", "content": [mark] if listed else _MARK}])
        marked = _joined([*parts[:-1], mark]) if len(contents) == 1 else _MARK
        asked = self._place([*contents[:-1], {"role": "user", "content": marked}])
        tail = encoding["input_ids"][sum(begin < asked for begin in begins) :]
        ids, starts = self._expand(encoding["input_ids"], media)
        ends = (i for i, token in enumerate(tail) if token in self.stop_ids)
        return Prompt(
            token_ids=ids,
            starts=starts,
            query_len=len(tail),
            system_len=sum(begin < first for begin in begins),
            question_len=next(ends, len(tail)),
        )

    def decode(self, token_ids: Sequence[int]) -> str:
        """The text of an answer, or of any run of its tokens."""
        return self._tokenizer.decode(
            token_ids,
            skip_special_tokens=True,
            clean_up_tokenization_spaces=False,  # it would rewrite text that was shown already
        )

    def _render(self, messages: Sequence[Message]) -> str:
        try:
            return self._tokenizer.apply_chat_template(
                list(messages), tokenize=False, add_generation_prompt=True
            )
        except Exception as error:
            why = str(error).partition("\n")[0] or type(error).__name__
            fix = f"its chat template fails ({why})"
            raise CheckpointError("model", str(self._folder), fix) from error

    def _place(self, messages: Sequence[Message]) -> int:
        """Where in the rendered text the mark stands."""
        place = self._render(messages).rfind(_MARK)
        if place < 0:
            fix = "its chat template leaves out what the user says"
            raise CheckpointError("model", str(self._folder), fix)
        return place

    def _expand(
        self, ids: Sequence[int], media: Sequence[Fit]
    ) -> tuple[tuple[int, ...], tuple[tuple[int, ...], ...]]:
        """Put as many ids as a placeholder stands for in its place; and where units start."""
        found = sum(token in self._placeholders for token in ids)
        if found != sum(len(fit.runs) for fit in media):
            fix = "its chat template does not put one placeholder where a picture or video is"
            raise CheckpointError("model", str(self._folder), fix)
        runs = [(index, run) for index, fit in enumerate(media) for run in fit.runs]
        following = iter(runs)
        expanded: list[int] = []
        starts: list[list[int]] = [[] for _ in media]
        for token in ids:
            if token not in self._placeholders:
                expanded.append(token)
                continue
            index, run = next(following)
            begin, step = len(expanded), media[index].unit_tokens
            starts[index].extend(range(begin, begin + run, step))
            expanded.extend([token] * run)
        return tuple(expanded), tuple(map(tuple, starts))


def _turns(question: str, history: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    earlier = chain(*((("user", asked), ("assistant", said)) for asked, said in history))
    return [*earlier, ("user", question)]


def _joined(parts: Sequence[dict[str, str]]) -> str | list[dict[str, str]]:
    """One text where all parts are text: templates of text models take nothing else."""
    if all(part["type"] == "text" for part in parts):
        return "".join(part["text"] for part in parts)
    return list(parts)


def _stop_ids(folder: Path, end_of_sequence: int | None) -> tuple[int, ...]:
    """The ids that end an answer: those of generation_config.json, else the tokenizer's."""
    path = folder / "generation_config.json"
    try:
        ids = json.loads(path.read_text("utf-8")).get("eos_token_id") if path.is_file() else None
    except (OSError, ValueError, AttributeError) as error:
        raise CheckpointError("model", str(path), "is not a JSON object") from error
    ids = end_of_sequence if ids is None else ids
    if ids is None:
        raise CheckpointError("model", str(folder), "names no end-of-sequence token")
    return tuple(ids) if isinstance(ids, list) else (ids,)
