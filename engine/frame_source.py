"""Where the chosen pictures of a medium lie: all that reading them takes, as plain JSON."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, Self

from spava_app.engine.stamp import Stamp, stamp_of

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
