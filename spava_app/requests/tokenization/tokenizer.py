"""The tokenizer of a model folder, loaded without running code of the folder."""

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import tokenizers

from spava_app.engine.checkpoints.files import check_readable, read_object
from spava_app.engine.models.config.settings import Settings, in_file
from spava_app.errors import CheckpointError

# Characters that are encoded at a time where a text is only counted.
_CHUNK = 2**14
# What no vocabulary has: of no use yet, which some tokenizers drop, and a hieroglyph.
_UNKNOWN = "\U0010fffd \U00013000"


@dataclass(frozen=True)
class Encoded:
    """Token ids, and of each the range of characters that it stands for."""

    ids: tuple[int, ...]
    begins: tuple[int, ...]
    ends: tuple[int, ...]


class Tokenizer:
    """A fast tokenizer of the `tokenizers` library with what transformers knows of it.

    Args:
        folder: of the checkpoint.

    Attributes:
        added_ids: of the tokens that were added to its vocabulary.
        special_ids: of those that are marked as special or have a named role.

    Raises:
        CheckpointError: no tokenizer that loads without code of the folder.
    """

    def __init__(self, folder: Path) -> None:
        self._inner = _load(folder)
        self._lock = threading.Lock()  # a call may switch a setting of the shared backend
        added = self._inner.added_tokens_decoder
        special = {token for token, how in added.items() if how.special}
        special |= set(self._inner.all_special_ids)
        # What characters become that the vocabulary lacks controls nothing.
        unknown = {self._inner.unk_token_id} & set(self.encode(_UNKNOWN).ids)
        self.added_ids = frozenset(added.keys() - unknown)
        self.special_ids = frozenset(special - unknown)

    @property
    def template(self) -> object:
        """Its own chat template: a text, texts by name, or None."""
        return self._inner.chat_template

    @property
    def variables(self) -> dict[str, Any]:
        """Its special tokens by role, which chat templates may use."""
        return dict(self._inner.special_tokens_map)

    @property
    def end_id(self) -> int | None:
        """The id of its end-of-sequence token."""
        return self._inner.eos_token_id

    @cached_property
    def added_vocab(self) -> dict[str, int]:
        """Its added tokens by text, special or not."""
        return self._inner.get_added_vocab()

    @cached_property
    def longest_token(self) -> int:
        """Characters, or bytes, of its longest token."""
        return max(map(len, self._inner.get_vocab()), default=1)

    @cached_property
    def prefix(self) -> tuple[int, ...]:
        """The ids that it puts before every text by its own settings: a begin-of-sequence token, or
        none.
        """
        with self._lock:
            whole = self._inner("x")["input_ids"]
            plain = self._inner("x", add_special_tokens=False)["input_ids"]
        begin = next((i for i in range(len(whole)) if whole[i : i + len(plain)] == plain), 0)
        return tuple(whole[:begin])

    def encode(self, text: str, *, plain: bool = False) -> Encoded:
        """Token ids of `text`, without any that the tokenizer would add.

        Args:
            plain: special tokens in it are ordinary text.
        """
        with self._lock:
            # Not verbose: what is too long is reported in words of ours.
            encoding = self._inner(
                text,
                add_special_tokens=False,
                return_offsets_mapping=True,
                split_special_tokens=plain,
                verbose=False,
            )
        places = encoding["offset_mapping"]
        begins, ends = (tuple(place[side] for place in places) for side in (0, 1))
        return Encoded(tuple(encoding["input_ids"]), begins, ends)

    def decode(self, token_ids: Sequence[int]) -> str:
        """The text of an answer, or of any run of its tokens."""
        return self._inner.decode(
            token_ids,
            skip_special_tokens=True,
            clean_up_tokenization_spaces=False,  # it would rewrite text that was shown already
        )

    def holds_more(
        self, texts: Sequence[str], most: int, check: Callable[[], None] = lambda: None
    ) -> bool:
        """Whether `texts` have more than `most` tokens, found without encoding what comes after.

        Args:
            check: called now and then; what it raises ends the count.
        """
        left = most
        # A line break between two: any template puts at least one token there.
        whole = "\n".join(texts)
        for start in range(0, len(whole), _CHUNK):
            check()
            # As they will be encoded: a control token that is text has several tokens.
            count = len(self.encode(whole[start : start + _CHUNK], plain=True).ids)
            # At a cut, pieces of one token are counted as several.
            left -= max(1, count - 8)
            if left < 0:
                return True
        return False


def _load(folder: Path) -> Any:
    from transformers import AutoTokenizer, PreTrainedTokenizerFast
    from transformers.utils import logging

    check_readable(folder)
    level = logging.get_verbosity()
    logging.set_verbosity_error()  # it remarks on the model's type, which it need not know
    failure: Exception | None = None
    try:
        # A folder can name code of its own for classes that transformers does not know: it is never
        # run, and whether to run it is never asked.
        for kind in (AutoTokenizer, PreTrainedTokenizerFast):
            if kind is PreTrainedTokenizerFast and not (folder / "tokenizer.json").is_file():
                break
            try:
                found = kind.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
            except Exception as error:  # noqa: BLE001 (whatever a broken file makes it raise)
                failure = failure or error
                continue
            if getattr(found, "is_fast", False):
                return found
            raise CheckpointError("model", str(folder), "has no tokenizer.json: convert it")
    finally:
        logging.set_verbosity(level)
    raise _why(folder, failure) from failure


def _why(folder: Path, failure: Exception | None) -> CheckpointError:
    """Which file is at fault, and where it can be told which key of it."""
    whole = folder / "tokenizer.json"
    if not whole.is_file():
        fix = "has no tokenizer.json"
        if (folder / "tokenizer.model").is_file():
            fix = (
                "has tokenizer.model and no tokenizer.json: pip install sentencepiece tiktoken "
                "protobuf, or convert it"
            )
        return CheckpointError("model", str(folder), fix)
    for name in ("special_tokens_map.json", "added_tokens.json", "tokenizer_config.json"):
        with in_file(folder / name):
            _check_types(Settings(read_object(folder / name) or {}))
    try:
        tokenizers.Tokenizer.from_file(str(whole))
        file = folder / "tokenizer_config.json"
    except Exception as error:  # noqa: BLE001 (as above)
        file, failure = whole, error
    why = str(failure).strip().partition("\n")[0][:200]
    return CheckpointError("model", str(file), f"cannot be loaded ({why})")


def _check_types(settings: Settings) -> None:
    for key, value in settings.items():
        content = value.get("content") if isinstance(value, Mapping) else value
        if key.endswith("_token") and not isinstance(content, str | None):
            settings.refuse(key, "must be a text, or an object with its content")
    if not isinstance(settings.raw("added_tokens_decoder", {}), Mapping) or settings.null(
        "added_tokens_decoder"
    ):
        settings.refuse("added_tokens_decoder", "must be an object")
    extra = settings.raw("extra_special_tokens", [])
    if not isinstance(extra, Mapping | list) or not all(isinstance(it, str) for it in extra):
        settings.refuse("extra_special_tokens", "must be an object, or a list of texts")
    template = settings.raw("chat_template", "")
    items = template if isinstance(template, list) else []
    if not isinstance(template, str | Mapping | list) or any(
        not isinstance(it, Mapping) or not {"name", "template"} <= set(it) for it in items
    ):
        settings.refuse("chat_template", "must be a text, or a list of names and templates")
