"""The driver's hand in the other processes: one link to each, over which their agents start and end
workers and hear about calls.
"""

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from multiprocessing.connection import Connection
from typing import Any

from spava_app.engine.workers import channel
from spava_app.engine.workers.launcher import ExitStatus, LocalWorker, Meeting
from spava_app.engine.workers.settings import WorkerSettings
from spava_app.engine.workers.torchrun.agent import on_this_machine, worker_environment
from spava_app.engine.workers.torchrun.environment import Place
from spava_app.engine.workers.torchrun.listener import Door
from spava_app.engine.workers.torchrun.rendezvous import JOIN_SECONDS, publish
from spava_app.errors import EngineDown, InvalidInput

# How long an agent may take to start a process, or to answer beyond the time it was given.
_ANSWER_SECONDS = 30.0


@dataclass
class _Link:
    """To the agent of one rank. Once it fails it stays failed."""

    rank: int
    connection: Connection
    lock: threading.Lock = field(default_factory=threading.Lock)

    def tell(self, message: dict[str, Any]) -> None:
        """Send; nothing happens if the agent is gone."""
        with self.lock, suppress(OSError):
            channel.send(self.connection, message)

    def ask(self, message: dict[str, Any], within: float) -> dict[str, Any]:
        """Send, and wait for the answer."""
        try:
            with self.lock:
                channel.send(self.connection, message)
                if self.connection.poll(within):
                    return channel.receive(self.connection)
                # What it may still answer must not be read as the answer to the next.
                self.connection.close()
        except (EOFError, OSError) as error:
            raise EngineDown(f"the process of rank {self.rank} is gone") from error
        raise EngineDown(f"the process of rank {self.rank} does not react")


@dataclass
class _FarWorker:
    """A worker that an agent has started."""

    link: _Link
    connection: Connection
    found: ExitStatus | None = None

    def ended(self) -> ExitStatus | None:
        """As `Worker.ended`."""
        return self.found or self._ask({"look": True}, _ANSWER_SECONDS)

    def end(self, until: float) -> ExitStatus:
        """As `Worker.end`."""
        seconds = max(0.0, until - time.monotonic())
        asked = {"end": seconds}
        self.found = self.found or self._ask(asked, seconds + _ANSWER_SECONDS) or ExitStatus(None)
        return self.found

    def _ask(self, message: dict[str, Any], within: float) -> ExitStatus | None:
        try:
            answer = self.link.ask(message, within)["ended"]
        except EngineDown:
            return ExitStatus(None)
        return None if answer is None else ExitStatus(**answer)


class AgentLauncher:
    """One worker per process of torchrun; this is the process with rank 0.

    Args:
        number: gives the number of the next meeting, the same on all processes.
    """

    def __init__(self, place: Place, number: Callable[[], int]) -> None:
        self.world_size, self.one_machine = place.world_size, place.one_machine
        self._place, self._number = place, number
        self._door: Door | None = None
        self._links: list[_Link] = []
        self._joined, self._group = 0, 0

    def join(self, within: float = JOIN_SECONDS) -> None:
        """Wait until all processes have joined; at once when they have.

        Raises:
            InvalidInput: this is not the machine that MASTER_ADDR names.
            EngineDown: a process has not come.
        """
        if self._door is not None:
            return
        place = self._place
        try:
            door = self._door = Door(place.host, here=place.one_machine)
        except OSError as error:
            fix = f"rank 0 must run where this is an address ({error})"
            raise InvalidInput("MASTER_ADDR", place.master_addr, fix) from error
        try:
            self._joined = self._number()
            publish(place, self._joined, door.address)
            until = time.monotonic() + within
            for rank in range(1, place.world_size):
                left = max(0.0, until - time.monotonic())
                self._links.append(_Link(rank, door.take(f"agent/{rank}", left)))
        except TimeoutError as error:
            rank = len(self._links) + 1
            self.close()
            fix = "every process must make the same calls"
            raise EngineDown(f"rank {rank} has not called within {within:.0f} s: {fix}") from error
        except BaseException:
            self.close()
            raise

    def tell(self, message: dict[str, Any]) -> None:
        """Send to all other processes; those that are gone are passed over."""
        for link in self._links:
            link.tell(message)

    def meeting(self) -> Meeting:
        """As `Launcher.meeting`."""
        self.join()
        self._group += 1
        if self.one_machine:
            return Meeting.on_this_machine()
        # The store of the processes themselves: nothing else need listen.
        place = self._place
        name = f"spava/{place.attempt}/{self._joined}/group/{self._group}"
        return Meeting(f"store://{place.master_addr}:{place.master_port}/{name}")

    def spawn(self, settings: WorkerSettings) -> LocalWorker | _FarWorker:
        """As `Launcher.spawn`."""
        settings = replace(settings, group=self._group)
        # In this order, since `close` takes both from any thread.
        place, links, door = self._place, self._links, self._door
        if door is None or len(links) < settings.rank:
            raise EngineDown("the engine was closed")
        if settings.rank == 0:
            environment = worker_environment(place, door.address.host)
            return LocalWorker.start(on_this_machine(settings, place), environment)
        link = links[settings.rank - 1]
        answer = link.ask({"start": asdict(settings)}, _ANSWER_SECONDS)
        if "started" not in answer:
            raise EngineDown(f"rank {settings.rank} cannot start: {answer.get('failed')}")
        name = f"worker/{settings.rank}/{settings.group}"
        try:
            return _FarWorker(link, door.take(name, _ANSWER_SECONDS))
        except TimeoutError as error:
            raise EngineDown(f"the worker of rank {settings.rank} is not heard of") from error

    def close(self) -> None:
        """As `Launcher.close`: the other processes are on their own."""
        links, self._links = self._links, []
        door, self._door = self._door, None
        if door is not None:
            door.close()
        for link in links:
            with suppress(OSError):
                channel.hang_up(link.connection)
            with link.lock:
                link.connection.close()
