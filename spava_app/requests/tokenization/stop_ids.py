"""Which tokens end an answer."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from spava_app.engine.checkpoints.files import read_object
from spava_app.engine.models.config.settings import Settings, in_file
from spava_app.errors import CheckpointError
from spava_app.requests.tokenization.chat_template import ChatTemplate
from spava_app.requests.tokenization.prompt_encoding import MARK
from spava_app.requests.tokenization.tokenizer import Tokenizer


def stop_ids(
    folder: Path, config: Mapping[str, Any], tokenizer: Tokenizer, template: ChatTemplate | None
) -> tuple[int, ...]:
    """All ids that any file of a checkpoint says end an answer: generation_config.json, config.json
    and its decoder's part, the tokenizer, and the token that the chat template puts behind an
    assistant's turn.

    Published folders have it in one or another: Llama 3's config names `<|end_of_text|>` alone, and
    its turns end with `<|eot_id|>`.

    Raises:
        CheckpointError: a file that is broken, or nothing ends an answer.
    """
    found: list[int] = []
    generation = folder / "generation_config.json"
    with in_file(generation):
        found += _ids(Settings(read_object(generation) or {}))
    with in_file(folder / "config.json"):
        whole = Settings(config)
        for part in (whole, whole.part("text_config"), whole.part("llm_config")):
            found += _ids(part)
    if tokenizer.end_id is not None:
        found.append(tokenizer.end_id)
    if template is not None:
        found += _end_of_turn(tokenizer, template)
    if not found:
        raise CheckpointError("model", str(folder), "names no end-of-sequence token")
    return tuple(dict.fromkeys(found))


def _ids(settings: Settings) -> list[int]:
    value = settings.raw("eos_token_id", [])
    ids = value if isinstance(value, list) else [value]
    if any(isinstance(it, bool) or not isinstance(it, int) or it < 0 for it in ids):
        settings.refuse("eos_token_id", "must be a token id, or a list of them")
    return ids


def _end_of_turn(tokenizer: Tokenizer, template: ChatTemplate) -> list[int]:
    turns = [{"role": "user", "content": "."}, {"role": "assistant", "content": MARK}]
    try:
        rendered = template.render(turns, answers=False)
    except CheckpointError:
        return []  # it takes no earlier answers
    if MARK not in rendered:
        return []  # it leaves them out
    behind = rendered.rpartition(MARK)[2].lstrip()
    ids = tokenizer.encode(behind).ids[:1]
    return [token for token in ids if token in tokenizer.added_ids | tokenizer.special_ids]
