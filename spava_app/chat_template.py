"""The chat template of a model folder: where it stands, and rendering it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from spava_app.engine.checkpoints.files import read_object, read_text
from spava_app.errors import CheckpointError
from spava_app.template_renderer import RENDERER, TemplateFailed

# What a template may add to the texts it is given, in characters.
MOST_ADDED = 2**20


def find_template(folder: Path, of_tokenizer: object) -> str | None:
    """The template of a checkpoint, None where it has none.

    Looks where the processors of transformers 5 look, in their order: `processor_config.json`, the
    older `chat_template.json`, `chat_template.jinja`, and last the tokenizer's own. The published
    Qwen2.5-VL folders have a text-only template in the tokenizer and the one that shows pictures in
    chat_template.json.

    Args:
        of_tokenizer: what the tokenizer has: a text, texts by name, or None.

    Raises:
        CheckpointError: a file that is broken, or templates without one named "default".
    """
    for name in ("processor_config.json", "chat_template.json"):
        file = folder / name
        if (found := (read_object(file) or {}).get("chat_template")) is not None:
            return _default(found, file)
    if (text := read_text(folder / "chat_template.jinja")) is not None:
        return text
    return None if of_tokenizer is None else _default(of_tokenizer, folder)


def _default(found: object, file: Path) -> str:
    if isinstance(found, Mapping):
        found = found.get("default")
    if not isinstance(found, str):
        fix = "chat_template must be a text, or have one named default"
        raise CheckpointError("model", str(file), fix)
    return found


class ChatTemplate:
    """A chat template.

    Args:
        text: the template.
        folder: of the model, for errors.
        variables: what it may use beside messages: the tokenizer's special tokens by role.
    """

    def __init__(self, text: str, folder: Path, variables: Mapping[str, Any]) -> None:
        self._text, self._folder, self._variables = text, folder, dict(variables)

    def render(self, messages: Sequence[Mapping[str, Any]], *, answers: bool = True) -> str:
        """The prompt of `messages`.

        Args:
            answers: whether the header of the answer follows.

        Raises:
            CheckpointError: the template fails, or takes too long or too much memory.
        """
        request = {
            "template": self._text,
            "messages": messages,
            "variables": self._variables,
            "answers": answers,
        }
        given = sum(len(str(message["content"])) for message in messages)
        try:
            return RENDERER.render(request, most=given + MOST_ADDED)
        except TemplateFailed as error:
            fix = f"its chat template fails ({error})"
            raise CheckpointError("model", str(self._folder), fix) from error
