"""The videos and pictures of a prompt, fully decided: every rank does the same with them.

A unit is what the vision tower encodes by itself: a temporal patch of frames, or the tiles of one
frame. The tokens of a unit follow each other in the prompt; units may have text between them.
"""

from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from spava_app.engine.frame_source import FrameSource
from spava_app.engine.models.positions import VideoSpan
from spava_app.engine.multimodal.fingerprint import file_content, joined_content
from spava_app.engine.video.array_files import received


class Units(Protocol):
    """What is known of a medium before its frames are chosen; attributes as in `Media`."""

    @property
    def grid(self) -> tuple[int, int, int]: ...
    @property
    def unit_tokens(self) -> int: ...


@dataclass(frozen=True)
class Media:
    """One video or picture.

    Attributes:
        path: the file.
        picture: a picture, not a video; its one frame is number 0, at 0 seconds.
        frames: which frames of the file's index are looked at, ascending.
        times: seconds of each.
        size: (height, width) in pixels that frames are resized to.
        grid: (units, rows, columns): of patches, or of tiles, in each unit.
        unit_tokens: tokens of a unit.
        starts: index in the prompt of the first token of each unit, ascending.
        source: what it takes to read the frames, without looking at the file again.
        content: a hash of what the files of the source hold; empty if embeddings are not kept.
    """

    path: str
    picture: bool
    frames: tuple[int, ...]
    times: tuple[float, ...]
    size: tuple[int, int]
    grid: tuple[int, int, int]
    unit_tokens: int
    starts: tuple[int, ...]
    source: FrameSource
    content: str = ""

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> "Media":
        """From parsed JSON, whose lists were tuples; `fields` is changed."""
        for name, value in fields.items():
            if isinstance(value, list):
                fields[name] = tuple(value)
        fields["source"] = FrameSource.from_dict(fields["source"])
        return cls(**fields)

    def with_file(self, file: int) -> "Media":
        """The same medium, an array, in a process that has got its file."""
        source = received(self.source, file)
        return replace(self, path=source.name, source=source)

    def hashed(self) -> "Media":
        """The same with what its embeddings are kept under; nothing where one of its files was
        changed since it was looked at.
        """
        files = [file_content(path) for path in self.source.paths]
        if tuple(stamp for _, stamp in files) != self.source.stamps:
            return replace(self, content="")
        contents = [content for content, _ in files]
        content = contents[0] if len(files) == 1 else joined_content(contents)
        return replace(self, content=content)

    def on_this_machine(self) -> "Media":
        """The same about the files as they are here: of copies that may hold something else, with
        what those hold.
        """
        here = replace(self, source=self.source.on_this_machine())
        return here.hashed() if self.content and here.source != self.source else here

    @property
    def num_units(self) -> int:
        return self.grid[0]

    @property
    def num_tokens(self) -> int:
        """Visual tokens of all units."""
        return self.num_units * self.unit_tokens

    def tokens(self) -> Tensor:
        """Index in the prompt of each visual token, unit by unit, int64 `[num_tokens]`."""
        starts = torch.tensor(self.starts, dtype=torch.int64)
        return (starts[:, None] + torch.arange(self.unit_tokens)).flatten()

    def span(self, frames_per_unit: int, merge_size: int) -> VideoSpan:
        """For multimodal positions. A unit's time is its first frame's, since that of the first."""
        _, rows, cols = self.grid
        times = self.times[::frames_per_unit]
        return VideoSpan(
            tuple(time - times[0] for time in times), rows // merge_size, cols // merge_size
        )
