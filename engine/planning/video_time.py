"""How long a rank waits for pictures: the steps of `video.stream`, with decoders that take as long
as their pixels do.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from spava_app.engine.layout import shard
from spava_app.engine.media import Media
from spava_app.engine.multimodal.pixel_stream import num_processes
from spava_app.engine.video.shared_ring import num_slots


@dataclass(frozen=True)
class Decoding:
    """The decoders of one rank at work on some units of a medium.

    Attributes:
        parts: per process, the source pixels it decodes for each of its units.
        ahead: units that a process may have decoded before they are taken.
    """

    parts: Sequence[Sequence[float]]
    ahead: int

    @classmethod
    def of(cls, medium: Media, units: Sequence[int], threads: int) -> "Decoding":
        """As `stream_units` does it with so many threads; `units` ascend, and are at least one."""
        height, width = medium.source.shape
        count = len(medium.source)
        span = -(-count // medium.num_units)
        number = num_processes(threads, len(units))
        parts: list[list[float]] = []
        for own in (shard(len(units), part, number) for part in range(number)):
            spans = [
                range(unit * span, min((unit + 1) * span, count))
                for unit in units[own.start : own.stop]
            ]
            passed = iter(_passed(medium, [place for places in spans for place in places]))
            parts.append([height * width * sum(next(passed) for _ in places) for places in spans])
        return cls(parts, num_slots(max(1, span * height * width * 3), count))

    @property
    def pixels(self) -> float:
        """Of the process that has most to do."""
        return max(map(sum, self.parts))

    @property
    def first_pixels(self) -> float:
        """Until every process has decoded its first unit."""
        return max(part[0] for part in self.parts)

    def waited(self, rate: float, each: int, prepare: float, work: float) -> float:
        """Seconds that are waited for pictures.

        Args:
            rate: source pixels per second of each process.
            each: units of a process in a step.
            prepare: seconds to prepare a unit once it is there.
            work: seconds of the vision tower for a unit, once a step is prepared.
        """
        # When each unit is decoded, and when it is taken.
        done = [[part[0] / rate] for part in self.parts]
        taken: list[list[float]] = [[] for _ in self.parts]
        waited = now = self.first_pixels / rate
        for first in range(0, max(map(len, self.parts)), each):
            encoded = 0
            for part, ready, left in zip(self.parts, done, taken, strict=True):
                for unit in range(first, min(first + each, len(part))):
                    while len(ready) <= unit:
                        next_unit = len(ready)
                        full = left[next_unit - self.ahead] if next_unit >= self.ahead else 0.0
                        ready.append(max(ready[-1], full) + part[next_unit] / rate)
                    waited += max(0.0, ready[unit] - now)
                    now = max(now, ready[unit]) + prepare
                    left.append(now)
                    encoded += 1
            now += encoded * work
        return waited


def _passed(medium: Media, places: Sequence[int]) -> list[float]:
    """Frames that a process goes through for each of those at `places`: from the one before it, or
    from the last key frame where that is nearer.
    """
    source, frames = medium.source, medium.frames
    if source.kind == "array":
        return [0.0] * len(places)
    if source.kind == "pictures" or medium.picture:
        return [1.0] * len(places)
    # Seeks are told as time stamps; frames are taken to be as far apart as on average.
    apart = (source.rows[-1] - source.rows[0]) / max(1, frames[-1] - frames[0]) or 1.0
    passed: list[float] = []
    before = None
    for place in places:
        frame, seeks = frames[place], source.seeks[place]
        from_key = (source.rows[place] - seeks[0][0]) / apart + 1 if seeks else frame + 1.0
        passed.append(from_key if before is None else min(frame - before, from_key))
        before = frame
    return passed
