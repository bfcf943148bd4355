"""The driver's side of the engine: starts one worker per rank, sends requests, supervises.

A request that fails for its input leaves the workers up. Anything else (a dead or silent worker)
stops them all and raises `EngineDown`; the next request starts a fresh group.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any, Self

from spava_app.engine import channel
from spava_app.engine.launcher import Launcher, LocalLauncher, Meeting, Worker
from spava_app.engine.request import Request
from spava_app.engine.settings import WorkerSettings
from spava_app.engine.turns import Turns
from spava_app.engine.video.damage import Noted, described
from spava_app.errors import EngineDown, InvalidInput, SpavaError

OnMessage = Callable[[str, Any], None]

# How long the other ranks may take to end a request after one has failed.
GRACE_SECONDS = 5.0
CLOSED = "the engine was closed"
# Imports and weights of a large model from a slow disk.
START_SECONDS = 900.0


@dataclass(frozen=True)
class Result:
    """What the ranks answered.

    Attributes:
        tokens: ids of the answer.
        seconds: per stage, of the slowest rank.
        warnings: what was wrong with the videos and did not keep them from being looked at.
    """

    tokens: tuple[int, ...]
    seconds: dict[str, float]
    warnings: tuple[str, ...] = ()
    counts: Mapping[str, int] = field(default_factory=dict)


class Engine:
    """A group of workers with one model loaded. It serves one request at a time; callers from
    several threads wait for their turn.

    Args:
        model: folder of the checkpoint.
        world_size: number of ranks.
        device: "cpu" or "cuda".
        dtype: torch dtype name.
        deadline: seconds the workers may take to begin a request; each stage then has its own.
        allow_pickle: read pickled weights where there is no safetensors, tensors only.
        cache: folder of the cache of visual embeddings; None keeps none.
        launcher: starts the workers, and is closed with the engine; by default they are
            subprocesses of this process.
    """

    def __init__(
        self,
        model: Path,
        *,
        world_size: int,
        device: str,
        dtype: str,
        deadline: float = 600.0,
        allow_pickle: bool = False,
        cache: Path | None = None,
        launcher: Launcher | None = None,
    ) -> None:
        self._deadline = deadline
        self._launcher = launcher or LocalLauncher(world_size)
        self._settings = WorkerSettings(
            rank=0,
            world_size=world_size,
            rendezvous="",
            model=str(model),
            device=device,
            dtype=dtype,
            deadline=deadline,
            allow_pickle=allow_pickle,
            cache=str(cache or ""),
        )
        self._workers: list[Worker] = []
        self._meeting: Meeting | None = None
        self._turns = Turns()
        self._closed = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def start(self) -> None:
        """Start the workers and wait until the model is loaded on all; does nothing when they are
        up.

        Raises:
            CheckpointError: the model cannot be loaded.
            EngineDown: a worker died or hung.
        """
        with self._turn():
            self._start()

    @contextmanager
    def _turn(self) -> Iterator[None]:
        """Wait for this caller's turn, unless the engine is closed meanwhile."""
        closed = self._closed
        with self._turns.turn():
            if self._closed != closed:
                raise EngineDown(CLOSED)
            yield

    def _start(self) -> None:
        if self._workers:
            return
        try:
            self._meeting = self._launcher.meeting()
            settings = replace(self._settings, rendezvous=self._meeting.init_method)
            for rank in range(settings.world_size):
                self._workers.append(self._launcher.spawn(replace(settings, rank=rank)))
            _, failure = self._collect("ready", "start", lambda name, value: None, START_SECONDS)
            if failure is not None:
                raise failure
        except BaseException:
            self._stop()
            raise

    def run(self, request: Request, on_message: OnMessage) -> Result:
        """Run one request on all ranks.

        Args:
            on_message: called with ("stage", name) and ("token", id) as rank 0 reports them.

        Raises:
            SpavaError: the input cannot be served; the engine stays up.
            EngineDown: a worker died or hung; the next call starts a new group.
        """
        with self._turn():
            self._check_reach(request)
            self._start()
            return self._run(request, on_message)

    def _check_reach(self, request: Request) -> None:
        arrays = any(medium.source.kind == "array" for medium in request.media)
        if arrays and not self._launcher.one_machine:
            fix = "cannot reach several machines: write a file that all of them see"
            raise InvalidInput("video", "an array of frames", fix)

    def _run(self, request: Request, on_message: OnMessage) -> Result:
        try:
            self._send({"request": request.to_json()})
            answers, failure = self._collect("result", "request", on_message, self._deadline)
        except BaseException:
            # Not all workers have ended the request (or the callback raised): what they still send
            # must never be read as the answer to the next one.
            self._stop()
            raise
        if failure is not None:
            raise failure
        seconds: dict[str, float] = {}
        for answer in answers:
            for stage, spent in answer["seconds"].items():
                seconds[stage] = max(spent, seconds.get(stage, 0.0))
        counts = sum((Counter(answer["counts"]) for answer in answers), Counter[str]())
        warnings = described(request.media, [Noted(**answer["noted"]) for answer in answers])
        return Result(tuple(answers[0]["tokens"]), seconds, warnings, counts)

    def close(self) -> None:
        """Stop the workers and end what runs and waits; safe to call twice, from any thread."""
        self._closed += 1
        self._stop(self._launcher.close)

    def _stop(self, leave: Callable[[], None] = lambda: None) -> None:
        # Forgotten first: an interrupt in the middle must not leave half a group behind.
        workers, self._workers = self._workers, []
        meeting, self._meeting = self._meeting, None
        leave()
        for worker in workers:
            worker.connection.close()
        until = time.monotonic() + GRACE_SECONDS
        for worker in workers:
            worker.end(until)
        if meeting is not None:
            meeting.clear()

    def cancel(self) -> None:
        """End the running request at its next token, on all ranks together; `run` then returns what
        there is. To be called from `on_message`; too late, it does nothing.
        """
        self._send({"cancel": True})

    def _send(self, message: dict[str, Any]) -> None:
        try:
            for worker in self._workers:
                channel.send(worker.connection, message)
        except OSError as error:
            raise EngineDown("a worker is gone: ask again to start a new group") from error

    def _collect(
        self, final: str, what: str, on_message: OnMessage, deadline: float
    ) -> tuple[list[Any], SpavaError | None]:
        """One message `final` from every worker; others of rank 0 go to `on_message`.

        Returns:
            The messages' values by rank, and the typed error of the first rank that reported one,
            once every worker has ended the request.
        """
        answers: dict[int, Any] = {}
        failure: SpavaError | None = None
        heard = time.monotonic()
        limit = deadline
        workers = self._workers
        while len(answers) < len(workers):
            for rank in self._ready_ranks(workers, set(answers)):
                heard = time.monotonic()
                name, value = next(iter(self._receive(workers[rank], rank, what).items()))
                if name in {final, "peer_failed"}:
                    answers[rank] = value
                elif name == "error":
                    answers[rank] = value
                    failure = failure or channel.decode_error(value)
                elif name == "stage":
                    limit = value["deadline"] + GRACE_SECONDS
                    if rank == 0:
                        on_message(name, value["name"])
                elif rank == 0:
                    on_message(name, value)
            silent = time.monotonic() - heard
            if failure is not None and silent > GRACE_SECONDS:
                raise failure  # the others wait in a collective for the rank that failed
            if silent > limit:
                raise EngineDown(f"no word from the workers for {limit:.0f} s")
            self._check_open(workers)
        return [answers[rank] for rank in range(len(workers))], failure

    def _check_open(self, workers: list[Worker]) -> None:
        """Raise EngineDown if `workers` were stopped by another thread or a callback."""
        if self._workers is not workers:
            raise EngineDown(CLOSED)

    def _ready_ranks(self, workers: list[Worker], done: set[int]) -> list[int]:
        """Ranks not `done` that have sent something, or that are gone; waits a second at most."""
        waiting = {
            worker.connection: rank for rank, worker in enumerate(workers) if rank not in done
        }
        try:
            ready = wait(waiting, timeout=1.0)
        except (OSError, ValueError):  # closed while it was waited for
            self._check_open(workers)
            raise
        return [rank for connection, rank in waiting.items() if connection in ready]

    def _receive(self, worker: Worker, rank: int, what: str) -> dict[str, Any]:
        try:
            return channel.receive(worker.connection)
        except (EOFError, OSError) as error:
            if worker not in self._workers:
                raise EngineDown(CLOSED) from error
            ended = worker.end(time.monotonic() + GRACE_SECONDS)
            how = f"ended with code {ended.code}"
            if ended.code is None:
                how = "was lost with the process that had started it"
            last = f": {ended.last}" if ended.last else ""
            raise EngineDown(f"rank {rank} {how} during {what}{last}") from error
