"""Frames that could not be decoded: noted on each rank, told once for the whole request."""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from spava_app.engine.media import Media
from spava_app.errors import VideoWarning

# Path of a video and the seconds of its damaged frames.
Damage = tuple[str, list[float]]


@contextmanager
def damage_noted() -> Iterator[list[Damage]]:
    """Collect what `VideoWarning`s say in the `with` block, in any thread; other warnings are shown
    as before.
    """
    noted: list[Damage] = []
    with warnings.catch_warnings():
        warnings.simplefilter("always", VideoWarning)
        show = warnings.showwarning

        def note(message: Warning | str, *where: object, **more: object) -> None:
            if isinstance(message, VideoWarning):
                noted.append((message.path, list(message.times)))
            else:
                show(message, *where, **more)  # type: ignore[arg-type]

        warnings.showwarning = note
        yield noted


def describe_damage(media: Sequence[Media], noted: Sequence[Damage]) -> tuple[str, ...]:
    """A sentence for each damaged file, from what all ranks noted."""
    told = []
    for path in dict.fromkeys(medium.path for medium in media):
        times = sorted(time for name, some in noted if name == path for time in some)
        if times:
            frames = sum(len(medium.frames) for medium in media if medium.path == path)
            where = f"at {times[0]:.1f} s"
            if len(times) > 1:
                where = f"between {times[0]:.1f} s and {times[-1]:.1f} s"
            count = f"{len(times)} of {frames} frames damaged"
            told.append(f"{Path(path).name}: {count} {where}: neighbours used")
    return tuple(told)
