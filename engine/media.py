"""The videos and pictures of a prompt, fully decided: every rank does the same with them.

A unit is what the vision tower encodes by itself: a temporal patch of frames, or the tiles of one
frame. The tokens of a unit follow each other in the prompt; units may have text between them.
Where the chosen frames lie is plain JSON (`FrameSource`), and a stamp says whether a file is still
the same.
"""

import os
import stat
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, Protocol, Self

# Bytes, time of last modification and of last change in nanoseconds, device and number of a file.
# The time of change can be set by nobody, unlike that of modification.
Stamp = tuple[int, ...]
# Where a process sees its own open files.
DESCRIPTORS = "/dev/fd/"


def stamp(found: os.stat_result) -> Stamp:
    """Of what the system says of a file."""
    return (found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_dev, found.st_ino)


def stamp_of(path: str | Path) -> Stamp:
    """Of what is at `path` now; empty for what is no regular file, or not there."""
    try:
        found = os.stat(path)
    except (OSError, ValueError):
        return ()
    return stamp(found) if stat.S_ISREG(found.st_mode) else ()


_PORTABLE = 2  # how much of a stamp is the same for a copy

# A key frame: its stamp, its time and byte in the container, and the shift of the clock there.
Seek = tuple[int, int, int, int]


@dataclass(frozen=True)
class FrameSource:
    """The chosen frames of a video file, of an animation, of picture files or of an array.

    Attributes:
        kind: what `paths` are.
        paths: the video, animation or array file; of pictures, one file per frame.
        stamps: of each path; a file that was changed since is refused.
        shape: (height, width) of all frames as displayed.
        rows: of each frame, its time stamp in the video or animation (or its number, if `counted`)
            or its row in the array; the pictures' numbers.
        seeks: of each frame of a video or animation, key frames from which it can be decoded, the
            nearest first; none where that is the start of the file.
        by_bytes: seeks go to a byte of the file, not to a time.
        counted: pictures are told apart by counting them, not by their time stamps.
        stream: which stream of the container, as it numbers them.
        orientation: how stored pictures are turned and mirrored; see `orientation`.
    """

    kind: Literal["video", "animation", "pictures", "array"]
    paths: tuple[str, ...]
    stamps: tuple[Stamp, ...]
    shape: tuple[int, int]
    rows: tuple[int, ...]
    seeks: tuple[tuple[Seek, ...], ...] = ()
    by_bytes: bool = False
    counted: bool = False
    stream: int = 0
    orientation: int = 0

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def name(self) -> str:
        """The path that errors tell."""
        return self.paths[0]

    def pick(self, places: Sequence[int]) -> Self:
        """The frames at `places`."""

        def picked(values: tuple[Any, ...]) -> tuple[Any, ...]:
            return tuple(values[place] for place in places) if values else ()

        one_file = self.kind != "pictures"
        return replace(
            self,
            rows=picked(self.rows),
            seeks=picked(self.seeks),
            paths=self.paths if one_file else picked(self.paths),
            stamps=self.stamps if one_file else picked(self.stamps),
        )

    def with_file(self, file: int) -> Self:
        """The same array in a process that has got its file."""
        return replace(self, paths=(f"{DESCRIPTORS}{file}",))

    def portable(self) -> Self:
        """The same with stamps that copies on other machines have too: bytes and time of last
        modification.
        """
        return replace(self, stamps=tuple(stamp[:_PORTABLE] for stamp in self.stamps))

    def on_this_machine(self) -> Self:
        """The same with full stamps of the files here, where these are what `portable` says."""

        def full(path: str, stamp: Stamp) -> Stamp:
            found = stamp_of(path) if len(stamp) == _PORTABLE else stamp
            return found if found[:_PORTABLE] == stamp[:_PORTABLE] else stamp

        return replace(self, stamps=tuple(map(full, self.paths, self.stamps)))

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> Self:
        """From parsed JSON, whose lists were tuples."""
        return cls(**{name: _tuples(value) for name, value in fields.items()})


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


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
        source = self.source.with_file(file)
        return replace(self, path=source.name, source=source)

    @property
    def num_units(self) -> int:
        return self.grid[0]

    @property
    def num_tokens(self) -> int:
        """Visual tokens of all units."""
        return self.num_units * self.unit_tokens
