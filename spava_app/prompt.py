"""From a question to token ids: the model's own chat template, with spans found from ids and never
from constants.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spava_app.errors import CheckpointError, InvalidInput


@dataclass(frozen=True)
class Prompt:
    """A prompt whose one video stands as `num_visual` equal ids.

    Attributes:
        token_ids: the whole prompt.
        video_start: index of the first visual token.
        query_len: tokens after the video: the question and the header of the answer.
        system_len: tokens before the user's content.
        question_len: tokens of the tail before its first end of turn: the question alone.
    """

    token_ids: tuple[int, ...]
    video_start: int
    query_len: int
    system_len: int
    question_len: int


class PromptBuilder:
    """The tokenizer and chat template of a model folder.

    Raises:
        CheckpointError: no tokenizer or no chat template in the folder.
    """

    def __init__(self, folder: Path, config: dict[str, Any]) -> None:
        from transformers import AutoTokenizer

        try:
            self._tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        except (OSError, ValueError) as error:
            raise CheckpointError("model", str(folder), "has no tokenizer that loads") from error
        if not self._tokenizer.chat_template:
            raise CheckpointError("model", str(folder), "its tokenizer has no chat template")
        if "video_token_id" not in config:
            raise CheckpointError("model", str(folder), "config.json lacks video_token_id")
        self._video_id = config["video_token_id"]
        self._folder = folder
        self.stop_ids = _stop_ids(folder, self._tokenizer.eos_token_id)

    def build(self, question: str, num_visual: int) -> Prompt:
        """The prompt that asks `question` about a video of `num_visual` tokens.

        Raises:
            InvalidInput: an empty question, or one with the model's special tokens in it.
        """
        if not isinstance(question, str) or not question.strip():
            raise InvalidInput("question", question, "must be text, and not empty")
        try:
            question.encode()
        except UnicodeEncodeError as error:
            raise InvalidInput("question", question, "must be valid Unicode text") from error
        for special in self._tokenizer.all_special_tokens:
            if special in question:
                raise InvalidInput("question", question, f"must not contain {special}")
        content = [{"type": "video"}, {"type": "text", "text": question}]
        text = self._tokenizer.apply_chat_template(
            [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
        )
        ids = self._tokenizer.encode(text, add_special_tokens=False)
        if ids.count(self._video_id) != 1:
            fix = "its chat template does not put one video token where the video is"
            raise CheckpointError("model", str(self._folder), fix)
        place = ids.index(self._video_id)
        # The token after the video is the template's end mark; it belongs to the context.
        tail = ids[place + 2 :]
        ends = (i for i, token in enumerate(tail) if token in self.stop_ids)
        return Prompt(
            token_ids=(*ids[:place], *[self._video_id] * num_visual, *ids[place + 1 :]),
            video_start=place,
            query_len=len(tail),
            system_len=place - 1,  # the token before the video is the template's start mark
            question_len=next(ends, len(tail)),
        )

    def decode(self, token_ids: Sequence[int]) -> str:
        """The text of an answer, or of any run of its tokens."""
        return self._tokenizer.decode(
            token_ids,
            skip_special_tokens=True,
            clean_up_tokenization_spaces=False,  # it would rewrite text that was shown already
        )


def _stop_ids(folder: Path, end_of_sequence: int | None) -> tuple[int, ...]:
    """The ids that end an answer: those of generation_config.json, else the tokenizer's."""
    path = folder / "generation_config.json"
    ids = json.loads(path.read_text("utf-8")).get("eos_token_id") if path.is_file() else None
    ids = end_of_sequence if ids is None else ids
    if ids is None:
        raise CheckpointError("model", str(folder), "names no end-of-sequence token")
    return tuple(ids) if isinstance(ids, list) else (ids,)
