"""What the driver sends to the workers: one small JSON message per request, never a tensor."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Self

from spava_app.engine.layout import PromptShape
from spava_app.engine.media import Media
from spava_app.engine.sampling import Sampling


@dataclass(frozen=True)
class Request:
    """A question, fully decided: every rank does the same with it.

    Attributes:
        media: videos and pictures, in the order of the prompt.
        token_ids: the whole prompt, with one id per visual token.
        query_len, system_len, question_len: as in `PromptShape`.
        method, options: the prefill method.
        max_new_tokens, stop_ids: when generation ends.
        sampling: how a token is chosen.
    """

    token_ids: tuple[int, ...]
    query_len: int
    system_len: int
    question_len: int
    method: str
    options: dict[str, Any]
    max_new_tokens: int
    stop_ids: tuple[int, ...]
    media: tuple[Media, ...] = ()
    sampling: Sampling = field(default_factory=Sampling)

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str, files: Sequence[int] = ()) -> Self:
        """From JSON, in a process that has got the files of its arrays, in their order."""
        fields: dict[str, Any] = json.loads(text)
        come = iter(files)
        fields["media"] = [
            medium.with_file(next(come)) if files and medium.source.kind == "array" else medium
            for medium in map(Media.from_dict, fields["media"])
        ]
        for name, value in fields.items():
            if isinstance(value, list):
                fields[name] = tuple(value)
        fields["sampling"] = Sampling(**fields["sampling"])
        return cls(**fields)

    def portable(self) -> Self:
        """For ranks on several machines, whose files are copies or seen through a network."""
        media = [replace(medium, source=medium.source.portable()) for medium in self.media]
        return replace(self, media=tuple(media))

    @property
    def shape(self) -> PromptShape:
        """What the method needs to know of the prompt."""
        return PromptShape(
            num_tokens=len(self.token_ids),
            query_len=self.query_len,
            system_len=self.system_len,
            question_len=self.question_len,
            has_video=any(not medium.picture for medium in self.media),
        )
