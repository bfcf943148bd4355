"""The chat template of a model folder: where it stands, and rendering it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from spava_app.engine.checkpoints.files import read_object, read_text
from spava_app.errors import CheckpointError
from spava_app.requests.tokenization.prompt_encoding import MARK
from spava_app.requests.tokenization.template_renderer import RENDERER, TemplateFailed

# What a template may add to the texts it is given, in characters.
MOST_ADDED = 2**20


def find_template(
    folder: Path, of_tokenizer: object, *, sees: bool = True
) -> tuple[str, Path] | None:
    """The template of a checkpoint and the file it stands in, None where it has none.

    Looks where transformers 5 looks, in its order. For a model that sees that is its processor:
    `processor_config.json`, the older `chat_template.json`, `chat_template.jinja`, and here last
    the tokenizer's own, where vLLM looks too. The published Qwen2.5-VL folders have a text-only
    template in the tokenizer and the one that shows pictures in chat_template.json. A text model
    has the tokenizer's, which chat_template.jinja replaces.

    Args:
        of_tokenizer: what the tokenizer has: a text, texts by name, or None.
        sees: whether the model has a processor.

    Raises:
        CheckpointError: a file that is broken, or templates without one named "default".
    """
    for name in ("processor_config.json", "chat_template.json") if sees else ():
        file = folder / name
        content = read_object(file)
        if content is None:
            continue
        if (found := content.get("chat_template")) is not None:
            return _default(found, file)
        if name == "chat_template.json":
            raise CheckpointError("model", str(file), "lacks chat_template")
    if (text := read_text(folder / "chat_template.jinja")) is not None:
        return text, folder / "chat_template.jinja"
    if of_tokenizer is None:
        return None
    return _default(of_tokenizer, folder / "tokenizer_config.json")


def _default(found: object, file: Path) -> tuple[str, Path]:
    if isinstance(found, Mapping):
        found = found.get("default")
    if not isinstance(found, str):
        fix = "chat_template must be a text, or have one named default"
        raise CheckpointError("model", str(file), fix)
    return found, file


class ChatTemplate:
    """A chat template.

    Args:
        text: the template.
        file: it stands in, for errors.
        variables: what it may use beside messages: the tokenizer's special tokens by role.
    """

    def __init__(self, text: str, file: Path, variables: Mapping[str, Any]) -> None:
        self._text, self.file, self._variables = text, file, dict(variables)
        self._only_lists = False

    def probe(self) -> None:
        """Find out whether it shows a content that is a text, or only lists of parts, as those of
        some models that see.

        Raises:
            CheckpointError: it shows neither, fails, or takes too long or too much memory.
        """
        failure = TemplateFailed("it leaves out what the user says")
        for self._only_lists in (False, True):
            try:
                if MARK in self._render([{"role": "user", "content": MARK}], answers=True):
                    return
            except TemplateFailed as error:
                failure = error
                if error.limit:  # the other form would only cost as much again
                    break
        raise self._failed(failure) from failure

    def render(self, messages: Sequence[Mapping[str, Any]], *, answers: bool = True) -> str:
        """The prompt of `messages`.

        Args:
            answers: whether the header of the answer follows.

        Raises:
            CheckpointError: the template fails, or takes too long or too much memory.
        """
        try:
            return self._render(messages, answers=answers)
        except TemplateFailed as error:
            raise self._failed(error) from error

    def _render(self, messages: Sequence[Mapping[str, Any]], *, answers: bool) -> str:
        if self._only_lists:
            messages = [{**message, "content": _parts(message["content"])} for message in messages]
        request = {
            "template": self._text,
            "messages": messages,
            "variables": self._variables,
            "answers": answers,
        }
        given = sum(len(str(message["content"])) for message in messages)
        return RENDERER.render(request, most=given + MOST_ADDED)

    def _failed(self, error: TemplateFailed) -> CheckpointError:
        return CheckpointError("model", str(self.file), f"its chat template fails ({error})")


def _parts(content: Any) -> Any:
    return [{"type": "text", "text": content}] if isinstance(content, str) else content
