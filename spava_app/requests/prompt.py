"""From questions and media to token ids: the model's own chat template, with every span found from
the rendered text and never from constants.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import Any

from spava_app.engine.models.config.settings import Settings, in_file
from spava_app.engine.multimodal.processors import Fit, Processor
from spava_app.errors import CheckpointError, InvalidInput
from spava_app.requests.tokenization.chat_template import ChatTemplate, find_template
from spava_app.requests.tokenization.prompt_encoding import MARK, EncodedPrompt, PromptEncoder
from spava_app.requests.tokenization.stop_ids import stop_ids
from spava_app.requests.tokenization.tokenizer import Tokenizer

Message = dict[str, Any]

# `get_conv_template("internvl2_5")` in conversation.py of github.com/OpenGVLab/InternVL (MIT).
INTERNVL_TEMPLATE = "internvl2_5"
INTERNVL_SYSTEM = (
    "你是书生·万象，英文名是InternVL，"  # noqa: RUF001
    "是由上海人工智能实验室、清华大学及多家合作单位联合开发的多模态大语言模型。"
)


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
    """The tokenizer and chat template of a model folder. A text model without a template, a base
    model, is asked plainly: the text, a blank line, and the question.

    Args:
        processor: of the same folder; None for a text model.
        config: its parsed config.json.

    Attributes:
        stop_ids: ids that end an answer.
        has_template: whether the model has a chat template.

    Raises:
        CheckpointError: no tokenizer that loads, a broken template, or none for a model that sees.
    """

    def __init__(
        self, folder: Path, processor: Processor | None, config: Mapping[str, Any]
    ) -> None:
        self._folder, self._tokenizer = folder, Tokenizer(folder)
        self.decode = self._tokenizer.decode
        self._template = None
        # transformers asks the processor of a model that sees, and of others the tokenizer.
        found = find_template(folder, self._tokenizer.template, sees=processor is not None)
        if found is not None:
            self._template = ChatTemplate(*found, self._tokenizer.variables)
            self._template.probe()
        elif processor is not None:
            raise CheckpointError("model", str(folder), "has no chat template")
        self.has_template = self._template is not None
        self._system = system_message(config, folder)
        self.stop_ids = stop_ids(folder, config, self._tokenizer, self._template)
        placeholders: frozenset[int] = frozenset()
        if processor is not None:
            with in_file(folder / "config.json"):
                placeholders = processor.placeholders(self._tokenizer.added_vocab)
        self._placeholders = placeholders
        self._encode = PromptEncoder(self._tokenizer, placeholders, frozenset(self.stop_ids))
        self._encoded = lru_cache(maxsize=8)(self._encode_question)
        alone = self._render([{"role": "user", "content": MARK}])
        self._first = self._with_mark(alone).find(MARK)

    @property
    def longest_token(self) -> int:
        """Bytes of UTF-8 that one token stands for, at most."""
        return 4 * self._tokenizer.longest_token

    def check(
        self,
        question: str,
        history: Sequence[tuple[str, str]] = (),
        text: str = "",
        *,
        most: int | None = None,
        on_step: Callable[[], None] = lambda: None,
    ) -> None:
        """Look at what a user wrote, before anything is done with it.

        Args:
            most: tokens that all of it may have.
            on_step: called now and then; what it raises ends the check.

        Raises:
            InvalidInput: an empty text, what is not text, or too much of it.
        """
        pairs = isinstance(history, Sequence) and not isinstance(history, str)
        if not pairs or any(not isinstance(it, tuple | list) or len(it) != 2 for it in history):
            raise InvalidInput("history", history, "give (question, answer) pairs, oldest first")
        _check("question", question)
        _check("text", text, may_be_empty=True)
        for asked, said in history:
            _check("history", asked)
            _check("history", said, may_be_empty=True)  # a model may have said nothing
        if most is None:
            return
        for name, texts in (
            ("text", [text]),
            ("question", [question]),
            ("history", list(chain(*history))),
        ):
            if self._tokenizer.holds_more(texts, most, on_step):
                value = history if name == "history" else texts[0]
                fix = f"has more than {most} tokens, which is all that the model takes: shorten it"
                raise InvalidInput(name, value, fix)

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
        contents = tuple(tuple(fit.content.items()) for fit in media)
        turns = tuple(chain(*((asked, said) for asked, said in history)))
        encoded = self._encoded((*turns, question), contents, text)
        tail = encoded.ids[encoded.last :]
        ids, starts = self._expand(encoded.ids, media)
        ends = (i for i, token in enumerate(tail) if token in self.stop_ids)
        prefix = () if self._template is not None else self._tokenizer.prefix
        return Prompt(
            token_ids=(*prefix, *ids),
            starts=starts,
            query_len=len(tail),
            system_len=len(prefix) + encoded.tokens_before(self._first),
            question_len=next(ends, len(tail)),
        )

    def _encode_question(
        self, turns: tuple[str, ...], contents: tuple[tuple[tuple[str, str], ...], ...], text: str
    ) -> EncodedPrompt:
        """The prompt before placeholders are multiplied. Kept for a few prompts, because fitting
        media into one asks for it again and again.
        """
        media = [dict(content) for content in contents]

        def render(texts: Sequence[str]) -> str:
            about, said = ([texts[0]], texts[1:]) if text else ([], texts)
            parts = [*media, *({"type": "text", "text": f"{it}\n\n"} for it in about)]
            parts.append({"type": "text", "text": said[0]})
            messages: list[Message] = [
                {"role": "assistant" if i % 2 else "user", "content": it}
                for i, it in enumerate(said)
            ]
            messages[0]["content"] = _joined(parts)
            rendered = self._render(messages)
            return self._with_mark(rendered) if texts[-1] == MARK else rendered

        return self._encode(render, (text, *turns) if text else turns)

    def _render(self, messages: Sequence[Message]) -> str:
        if self._template is None:
            return "\n\n".join(message["content"] for message in messages)
        if self._system is not None:
            messages = [{"role": "system", "content": self._system}, *messages]
        return self._template.render(messages)

    @property
    def _template_file(self) -> str:
        return str(self._folder if self._template is None else self._template.file)

    def _with_mark(self, rendered: str) -> str:
        if MARK not in rendered:
            fix = "its chat template leaves out what the user says"
            raise CheckpointError("model", self._template_file, fix)
        return rendered

    def _expand(
        self, ids: Sequence[int], media: Sequence[Fit]
    ) -> tuple[tuple[int, ...], tuple[tuple[int, ...], ...]]:
        """Put as many ids as a placeholder stands for in its place; and where units start."""
        found = sum(token in self._placeholders for token in ids)
        if found != sum(len(fit.runs) for fit in media):
            fix = "its chat template does not put one placeholder where a picture or video is"
            raise CheckpointError("model", self._template_file, fix)
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


def system_message(config: Mapping[str, Any], folder: Path) -> str | None:
    """What stands before every prompt of the original InternVL layout, whose config.json names a
    conversation template of its code instead of having one in the tokenizer; None for other models.

    Raises:
        CheckpointError: another template than that of InternVL 2.5 and 3.
    """
    if "InternVLChatModel" not in (config.get("architectures") or ()):
        return None
    settings = Settings(config)
    with in_file(folder / "config.json"):
        settings.only("template", INTERNVL_TEMPLATE)
        own = settings.raw("system_message", INTERNVL_SYSTEM)
        if not isinstance(own, str):
            settings.refuse("system_message", "must be a text")
    return own if "template" in settings else None


def _check(name: str, text: str, *, may_be_empty: bool = False) -> None:
    if not isinstance(text, str) or not (may_be_empty or text.strip()):
        fix = "must be text" if may_be_empty else "must be text, and not empty"
        raise InvalidInput(name, text, fix)
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InvalidInput(name, text, "must be valid Unicode text") from error


def _joined(parts: Sequence[dict[str, str]]) -> str | list[dict[str, str]]:
    """One text where all parts are text: templates of text models take nothing else."""
    if all(part["type"] == "text" for part in parts):
        return "".join(part["text"] for part in parts)
    return list(parts)
