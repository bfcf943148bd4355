"""What the driver knows of each rank while it waits for all of them.

A rank can fail in three ways, each with its own sign. A dead one closes its channel. A stopped one,
or one stuck with Python's lock held, sends no heartbeat. One that lives and waits in vain, in a
collective most likely, sends heartbeats and nothing else, until its stage's deadline has passed.
"""

import time
from collections.abc import Iterable

from spava_app.engine.workers.channel import EVERY
from spava_app.errors import EngineDown

# How long the other ranks may take to end a request after one has failed.
GRACE_SECONDS = 5.0
# Without a heartbeat for so long a rank counts as stopped. Whatever takes long in a request leaves
# Python's lock to others (kernels, collectives, reading, hashing), so that a slow rank beats on.
SILENCE_SECONDS = 10 * EVERY
# Loading a library keeps the lock, and from a slow disk the largest take many seconds.
START_SILENCE_SECONDS = 60 * EVERY


class Liveness:
    """Signs of life and of progress.

    Args:
        world_size: number of ranks.
        stage: what all of them do now.
        deadline: seconds until a rank must have said something, heartbeats not counted; each stage
            that is told brings its own.
        silence: seconds that a rank may be without a heartbeat.
    """

    def __init__(self, world_size: int, stage: str, deadline: float, silence: float) -> None:
        self.stages = [stage] * world_size
        self._limit, self._silence = deadline, silence
        self._heard = [time.monotonic()] * world_size
        self.progressed()

    def progressed(self) -> None:
        """Count the deadline from now on."""
        self._progress = time.monotonic()

    def heard(self, rank: int, name: str, value: dict[str, object]) -> None:
        """Note a message of `rank`."""
        self._heard[rank] = time.monotonic()
        if name != "alive":
            self.progressed()
        if name == "stage":
            self.stages[rank] = str(value["name"])
            self._limit = float(str(value["deadline"])) + GRACE_SECONDS

    def waited(self) -> float:
        """Seconds without progress of any rank."""
        return time.monotonic() - self._progress

    def check(self, silent: Iterable[int], now: float) -> None:
        """Raise EngineDown for ranks that are gone.

        Args:
            silent: ranks of which nothing was to be read ...
            now: ... at this time, in seconds of `time.monotonic`.
        """
        for rank in silent:
            if now - self._heard[rank] > self._silence:
                raise EngineDown(
                    f"rank {rank} has been stuck in {self.stages[rank]}: "
                    f"no sign of life for {self._silence:.0f} s"
                )
        if self.waited() > self._limit:
            where = ", ".join(f"rank {rank} in {name}" for rank, name in enumerate(self.stages))
            raise EngineDown(f"no progress for {self._limit:.0f} s: {where}")
