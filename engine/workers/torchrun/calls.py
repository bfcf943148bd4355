"""One call, the same on all processes: rank 0 runs it and the others get what it gives.

Calls are counted on each process, so that a process that calls something else, or more often, gets
an error. Messages about a call carry its number: `{"call": n, "begin": name}`, then any number of
`{"call": n, "told": name, "values": [...]}`, then `result` or `error`.
"""

import itertools
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol, TypeVar

from spava_app.engine.serialization import from_plain
from spava_app.engine.workers import channel
from spava_app.engine.workers.launcher import Launcher, LocalLauncher, Meeting
from spava_app.engine.workers.torchrun.agent import Agent
from spava_app.engine.workers.torchrun.environment import Place
from spava_app.engine.workers.torchrun.launcher import AgentLauncher
from spava_app.engine.workers.torchrun.rendezvous import look_up
from spava_app.errors import EngineDown, EngineError, SpavaError, decode_error, encode_error

T = TypeVar("T")
Told = Callable[..., None] | None
# Of the doors that this process has opened or looked for; the same on all that run one script.
_meetings = itertools.count()


class Calls(Protocol):
    """How this process makes calls.

    Attributes:
        place: among the processes of torchrun; None for a process of its own.
        follows: whether another process does the work, so that nothing need be prepared here.
    """

    @property
    def place(self) -> Place | None: ...
    @property
    def follows(self) -> bool: ...

    def call(self, name: str, run: Callable[..., T], result: type[T], **told: Told) -> T:
        """Make a call.

        Args:
            name: of the call, to notice processes that make another.
            run: called on rank 0 alone, with `told`.
            result: what it returns: a dataclass, or what JSON can hold.
            told: callbacks by name, called on every process with the same plain values.

        Raises:
            SpavaError: what `run` raised, on every process.
            EngineError: this process makes another call than rank 0, or two at a time.
            EngineDown: a process is gone.
        """
        ...

    def launcher(self, world_size: int) -> Launcher:
        """What starts the workers of the calls; to be closed when there are no more."""
        ...


def calls_here() -> "Calls":
    """How this process makes calls, by its environment.

    Raises:
        InvalidInput: a variable of torchrun is missing or wrong.
    """
    place = Place.from_environment()
    if place is None or place.world_size == 1:
        return Alone(place)
    return Leader(place) if place.rank == 0 else Follower(place)


class Alone:
    """A process of its own."""

    follows = False

    def __init__(self, place: Place | None = None) -> None:
        self.place = place

    def call(self, name: str, run: Callable[..., T], result: type[T], **told: Told) -> T:
        """As `Calls.call`."""
        return run(**told)

    def launcher(self, world_size: int) -> Launcher:
        """As `Calls.launcher`."""
        return LocalLauncher(world_size)


class _Counted:
    """Numbers of calls, one at a time."""

    def __init__(self) -> None:
        self.number = 0
        self._busy = threading.Lock()

    @contextmanager
    def one(self) -> Iterator[int]:
        if not self._busy.acquire(blocking=False):
            fix = "under torchrun ask when the answer before is there"
            raise EngineError(f"asked while another question was being answered: {fix}")
        try:
            self.number += 1
            yield self.number
        finally:
            self._busy.release()


class Leader:
    """The process with rank 0."""

    follows = False

    def __init__(self, place: Place) -> None:
        self.place = place
        self._counted = _Counted()
        self._launcher = AgentLauncher(place, lambda: next(_meetings))

    def call(self, name: str, run: Callable[..., T], result: type[T], **told: Told) -> T:
        """As `Calls.call`."""
        with self._counted.one() as number:
            self._launcher.join()
            self._tell(number, begin=name)
            try:
                value = run(**{key: self._shared(number, key, own) for key, own in told.items()})
                message = {"result": channel.plain(value)}
            except BaseException as error:
                kind = type(error).__name__
                typed = error if isinstance(error, SpavaError) else None
                stopped = EngineError(f"{name} ended on rank 0 with {kind}")
                self._tell(number, **encode_error(typed or stopped))
                raise
            self._tell(number, **message)
            return value

    def launcher(self, world_size: int) -> Launcher:
        """As `Calls.launcher`."""
        return self._launcher

    def _shared(self, number: int, name: str, own: Told) -> Callable[..., None]:
        def tell(*values: Any) -> None:
            self._tell(number, told=name, values=list(values))
            if own is not None:
                own(*values)

        return tell

    def _tell(self, number: int, **message: Any) -> None:
        self._launcher.tell({"call": number, **message})


class Follower:
    """A process with another rank. It is its own launcher: nothing is started by its engine."""

    follows = True
    one_machine = True

    def __init__(self, place: Place) -> None:
        self.place, self.world_size = place, place.world_size
        self._counted = _Counted()
        self._agent: Agent | None = None

    def call(self, name: str, run: Callable[..., T], result: type[T], **told: Told) -> T:
        """As `Calls.call`: `run` is left to rank 0."""
        with self._counted.one() as number:
            if self._agent is None:
                self._agent = Agent(self.place, look_up(self.place, next(_meetings)))
            while True:
                message = self._next(self._agent, number, name)
                if message.get("begin", name) != name:
                    begun = message["begin"]
                    fix = "all processes must make the same calls in the same order"
                    raise EngineError(f"call {number} is {name} here, {begun} on rank 0: {fix}")
                if "error" in message:
                    error = decode_error(message["error"])
                    error.elsewhere = True
                    raise error
                if "result" in message:
                    return from_plain(result, message["result"])
                if (own := told.get(message.get("told", ""))) is not None:
                    own(*message["values"])

    def _next(self, agent: Agent, number: int, name: str) -> dict[str, Any]:
        """The next message of this call; those of calls that were left early are passed over."""
        while (message := agent.inbox.get()) is not None:
            if message.get("call") == number:
                return message
        agent.inbox.put(None)  # for the calls after this one
        raise EngineDown(f"rank 0 has left, or died, before {name} was done")

    def launcher(self, world_size: int) -> Launcher:
        """As `Calls.launcher`."""
        return self

    def meeting(self) -> Meeting:
        """Nothing is started here."""
        raise EngineError("only the process with rank 0 starts workers")

    def spawn(self, settings: object) -> Any:
        """Nothing is started here."""
        raise EngineError("only the process with rank 0 starts workers")

    def close(self) -> None:
        """Leave the others, and end the worker that runs here."""
        agent, self._agent = self._agent, None
        if agent is not None:
            agent.close()
