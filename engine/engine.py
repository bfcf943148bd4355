"""The driver's side of the engine: starts one worker per rank, sends requests, supervises.

A request that fails for its input leaves the workers up. Anything else (a dead or silent worker)
stops them all and raises `EngineDown`; the next request starts a fresh group.
"""

import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any, Self

from spava_app.engine import channel, watch
from spava_app.engine.endings import LOST_PEER, how_it_ended, memory_was_refused, oom_kills
from spava_app.engine.launcher import Ended, Launcher, LocalLauncher, Meeting, Worker
from spava_app.engine.request import Request
from spava_app.engine.settings import WorkerSettings
from spava_app.engine.turns import Turns
from spava_app.engine.video.damage import Noted, described
from spava_app.engine.watch import GRACE_SECONDS, Watch
from spava_app.errors import (
    Cancelled,
    EngineDown,
    EngineError,
    InvalidInput,
    OutOfMemory,
    SpavaError,
)

OnMessage = Callable[[str, Any], None]


def never() -> bool:
    """For requests that nobody cancels."""
    return False


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
        counts: frames that were encoded and reused, of all ranks.
        memory: bytes at the peak of each rank: of its tensors on a GPU; on a CPU of its process
            since it started.
    """

    tokens: tuple[int, ...]
    seconds: dict[str, float]
    warnings: tuple[str, ...] = ()
    counts: Mapping[str, int] = field(default_factory=dict)
    memory: tuple[int, ...] = ()


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
        self._oom_kills = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def start(self, cancelled: Callable[[], bool] = never) -> None:
        """Start the workers and wait until the model is loaded on all; does nothing when they are
        up.

        Args:
            cancelled: as in `run`.

        Raises:
            CheckpointError: the model cannot be loaded.
            OutOfMemory: it does not fit.
            Cancelled: while this caller waited for others.
            EngineDown: a worker died or hung.
        """
        with self._turn(cancelled):
            self._start()

    @contextmanager
    def _turn(self, cancelled: Callable[[], bool]) -> Iterator[None]:
        """Wait for this caller's turn, unless the engine is closed meanwhile."""
        closed = self._closed
        with self._turns.turn(cancelled):
            if self._closed != closed:
                raise EngineDown(CLOSED)
            if cancelled():
                raise Cancelled("cancelled before it began")
            yield

    def _start(self) -> None:
        if any(worker.ended() is not None for worker in self._workers):
            self._stop()  # one died while nobody asked anything
        if self._workers:
            return
        self._oom_kills = oom_kills()
        try:
            meeting = self._meeting = self._launcher.meeting()
            settings = replace(
                self._settings, rendezvous=meeting.init_method, scratch=meeting.scratch
            )
            for rank in range(settings.world_size):
                self._workers.append(self._launcher.spawn(replace(settings, rank=rank)))
            silence = watch.START_SILENCE_SECONDS
            starting = Watch(settings.world_size, "start", START_SECONDS, silence)
            _, failure = self._collect("ready", starting, lambda name, value: None)
            if failure is not None:
                raise failure
        except BaseException:
            self._stop()
            raise

    def run(
        self, request: Request, on_message: OnMessage, cancelled: Callable[[], bool] = never
    ) -> Result:
        """Run one request on all ranks.

        Args:
            on_message: called with ("stage", name) and ("token", id) as rank 0 reports them.
            cancelled: asked often, in the caller's thread; what it reads may be set by any. Once
                true, a request that waits for its turn leaves the queue, one that looks at frames
                ends before the prefill, and an answer ends at its next token.

        Returns:
            The answer, or what there is of a cancelled one.

        Raises:
            InvalidInput: the input cannot be served; the engine stays up.
            Cancelled: before there was a token; the engine stays up.
            OutOfMemory: what a request needs does not fit; the next call starts a new group.
            EngineDown: a worker died or hung; the next call starts a new group.
        """
        with self._turn(cancelled):
            self._check_reach(request)
            self._start()
            result = self._run(request, on_message, cancelled)
        if not result.tokens and cancelled():
            raise Cancelled("cancelled before the answer began")
        return result

    def _check_reach(self, request: Request) -> None:
        arrays = any(medium.source.kind == "array" for medium in request.media)
        if arrays and not self._launcher.one_machine:
            fix = "cannot reach several machines: write a file that all of them see"
            raise InvalidInput("video", "an array of frames", fix)

    def _run(
        self, request: Request, on_message: OnMessage, cancelled: Callable[[], bool]
    ) -> Result:
        self._oom_kills = oom_kills()
        try:
            self._send({"request": request.to_json()})
            silence = watch.SILENCE_SECONDS
            answering = Watch(self._settings.world_size, "request", self._deadline, silence)
            answers, failure = self._collect("result", answering, on_message, cancelled)
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
        memory = tuple(answer["peak"] for answer in answers)
        return Result(tuple(answers[0]["tokens"]), seconds, warnings, counts, memory)

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
        for worker in workers:
            # At once: it has nothing to put in order, and if it is stopped or hangs it would not.
            worker.end(0.0)
        if meeting is not None:
            meeting.clear()

    def _send(self, message: dict[str, Any]) -> None:
        try:
            for worker in self._workers:
                channel.send(worker.connection, message)
        except OSError as error:
            raise EngineDown("a worker is gone: ask again to start a new group") from error

    def _collect(
        self,
        final: str,
        watched: Watch,
        on_message: OnMessage,
        cancelled: Callable[[], bool] = never,
    ) -> tuple[list[Any], SpavaError | None]:
        """One message `final` from every worker; stages and tokens of rank 0 go to `on_message`.

        Returns:
            The messages' values by rank, and the typed error of the first rank that reported one,
            once every worker has ended the request.
        """
        answers: dict[int, Any] = {}
        failure: SpavaError | None = None
        told = False
        workers = self._workers
        while len(answers) < len(workers):
            ready = self._ready_ranks(workers, set(answers))
            now = time.monotonic()
            for rank in ready:
                name, value = next(iter(self._receive(workers[rank], rank, watched).items()))
                watched.heard(rank, name, value)
                if name in {final, "peer_failed"}:
                    answers[rank] = value
                elif name == "error":
                    answers[rank] = value
                    failure = failure or channel.decode_error(value)
                elif rank == 0 and name != "alive":
                    on_message(name, value["name"] if name == "stage" else value)
                    watched.progressed()  # what a callback takes is not the workers' time
            if isinstance(failure, OutOfMemory) or (failure and watched.waited() > GRACE_SECONDS):
                raise failure  # the others wait in a collective for the rank that failed
            watched.check(set(range(len(workers))) - {*answers, *ready}, now)
            if not told and cancelled():
                told = True
                self._send({"cancel": True})
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

    def _receive(self, worker: Worker, rank: int, watched: Watch) -> dict[str, Any]:
        try:
            return channel.receive(worker.connection)
        except (EOFError, OSError) as error:
            if worker not in self._workers:
                raise EngineDown(CLOSED) from error
            rank, ended = self._first_ended(rank)
            raise self._ended(rank, ended, watched.stages[rank]) from error

    def _first_ended(self, rank: int) -> tuple[int, Ended]:
        """The rank that ended for a reason of its own, when `rank` has ended, and how: those that
        wait for it in a collective end with it, and may be noticed before it.
        """
        until = time.monotonic() + GRACE_SECONDS
        first = self._workers[rank].end(until)
        while first.code == LOST_PEER and time.monotonic() < until:
            for other, worker in enumerate(self._workers):
                ended = worker.ended()
                if ended is not None and ended.code != LOST_PEER:
                    return other, ended
            time.sleep(0.05)
        return rank, first

    def _ended(self, rank: int, ended: Ended, stage: str) -> EngineError:
        if ended.code == -signal.SIGKILL and oom_kills() > self._oom_kills:
            return OutOfMemory(
                f"rank {rank} was ended by the kernel in {stage} because the machine's memory ran "
                "out: look at fewer frames, lower max_visual_tokens, or free memory"
            )
        last = f": {ended.last}" if ended.last else ""
        if memory_was_refused(last):
            return OutOfMemory(f"rank {rank} ran out of memory in {stage}{last}")
        return EngineDown(f"rank {rank} {how_it_ended(ended.code)} in {stage}{last}")
