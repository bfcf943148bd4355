"""What went wrong and kept nobody from answering: noted on each rank, told once for the request."""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from spava_app.engine.media import Media
from spava_app.errors import SpavaWarning, VideoWarning


@dataclass
class Noted:
    """The warnings of one rank.

    Attributes:
        damage: path of a video and the seconds of its damaged frames.
        texts: of other warnings.
    """

    damage: list[tuple[str, list[float]]] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)


@contextmanager
def warnings_noted() -> Iterator[Noted]:
    """Collect the package's own warnings in the `with` block, in any thread; others are shown as
    before.
    """
    noted = Noted()
    with warnings.catch_warnings():
        warnings.simplefilter("always", SpavaWarning)
        show = warnings.showwarning

        def note(message: Warning | str, *where: object, **more: object) -> None:
            if isinstance(message, VideoWarning):
                noted.damage.append((message.path, list(message.times)))
            elif isinstance(message, SpavaWarning):
                noted.texts.append(str(message))
            else:
                show(message, *where, **more)  # type: ignore[arg-type]

        warnings.showwarning = note
        yield noted


def described(media: Sequence[Media], ranks: Sequence[Noted]) -> tuple[str, ...]:
    """A sentence for each damaged file, and every other warning once."""
    told = []
    for path in dict.fromkeys(medium.path for medium in media):
        noted = [note for rank in ranks for note in rank.damage]
        times = sorted(time for name, some in noted if name == path for time in some)
        if times:
            frames = sum(len(medium.frames) for medium in media if medium.path == path)
            where = f"at {times[0]:.1f} s"
            if len(times) > 1:
                where = f"between {times[0]:.1f} s and {times[-1]:.1f} s"
            count = f"{len(times)} of {frames} frames damaged"
            told.append(f"{Path(path).name}: {count} {where}: neighbours used")
    return (*told, *dict.fromkeys(text for rank in ranks for text in rank.texts))
