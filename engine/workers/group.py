"""The workers of one start, as the driver sees them: told what to do, listened to, and ended."""

import logging
import signal
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from multiprocessing.connection import wait
from typing import Any

from spava_app.engine.processes.exit_status import (
    LOST_PEER,
    how_it_ended,
    memory_was_refused,
    oom_kills,
)
from spava_app.engine.workers import channel, liveness
from spava_app.engine.workers.launcher import ExitStatus, Launcher, Meeting, Worker
from spava_app.engine.workers.liveness import GRACE_SECONDS, Liveness
from spava_app.engine.workers.settings import WorkerSettings
from spava_app.errors import EngineDown, InternalError, OutOfMemory, SpavaError, decode_error

logger = logging.getLogger(__name__)

OnMessage = Callable[[str, Any], None]

CLOSED = "the engine was closed"
# Imports and weights of a large model from a slow disk.
_START_SECONDS = 900.0


def never() -> bool:
    """For requests that nobody cancels."""
    return False


class WorkerGroup:
    """One worker per rank. It is started once, serves requests one by one, and is ended once and
    for all, from any thread: whoever waits for it then hears that the engine was closed.

    Args:
        settings: of all workers.

    Attributes:
        workers: by rank, those that have been started.
    """

    def __init__(self, launcher: Launcher, settings: WorkerSettings) -> None:
        self.workers: list[Worker] = []
        self._launcher, self._settings = launcher, settings
        self._meeting: Meeting | None = None
        self._over = False
        # Held while channels are used: one that is closed meanwhile may become another's.
        self._using = threading.Lock()
        self._oom_kills = 0

    def start(self) -> None:
        """Start the workers and wait until the model is loaded on all. Who is told of an error here
        has to `end` the group.

        Raises:
            CheckpointError: the model cannot be loaded.
            OutOfMemory: it does not fit.
            InternalError: a worker met a fault of this program.
            EngineDown: a worker died or hung, or the group was ended meanwhile.
        """
        began = time.monotonic()
        self._oom_kills = oom_kills()
        meeting = self._meeting = self._launcher.meeting()
        settings = replace(self._settings, rendezvous=meeting.init_method, scratch=meeting.scratch)
        for rank in range(settings.world_size):
            self.workers.append(self._launcher.spawn(replace(settings, rank=rank)))
            self._check_open()
        silence = liveness.START_SILENCE_SECONDS
        starting = Liveness(settings.world_size, "start", _START_SECONDS, silence)
        _, failure = self.collect("ready", starting, lambda name, value: None)
        if failure is not None:
            raise failure
        size, took = settings.world_size, time.monotonic() - began
        ranks = f"{size} rank{'s' if size > 1 else ''}"
        logger.info("model %s loaded on %s in %.1f s", settings.model, ranks, took)

    def lost(self) -> bool:
        """Whether a worker has ended."""
        return any(worker.ended() is not None for worker in self.workers)

    def end(self, leave: Callable[[], None] = lambda: None) -> None:
        """End all workers that have been started, at once; safe to call twice, from any thread.

        Args:
            leave: called before, once nobody listens any more.
        """
        self._over = True
        leave()
        for worker in self.workers:
            with suppress(OSError):
                channel.hang_up(worker.connection)  # who waits for it wakes
        with self._using:
            for worker in self.workers:
                worker.connection.close()
        for worker in self.workers:
            # At once: it has nothing to put in order, and if it is stopped or hangs it would not.
            worker.end(0.0)
        if self._meeting is not None:
            self._meeting.clear()

    def ask(
        self,
        message: dict[str, Any],
        *,
        files: Sequence[int] = (),
        seconds: float,
        on_message: OnMessage,
        cancelled: Callable[[], bool],
    ) -> tuple[list[Any], SpavaError | None]:
        """Send a request and the files that it is about, and collect what the ranks answer within
        so many seconds per stage.
        """
        self._oom_kills = oom_kills()
        self.send(message | {"files": len(files)}, files)
        watched = Liveness(self._settings.world_size, "request", seconds, liveness.SILENCE_SECONDS)
        return self.collect("result", watched, on_message, cancelled)

    def send(self, message: dict[str, Any], files: Sequence[int] = ()) -> None:
        """The same to all."""
        try:
            with self._using:
                for worker in self.workers:
                    channel.send(worker.connection, message)
                    channel.send_files(worker.connection, files)
        except OSError as error:
            self._check_open()
            raise EngineDown("a worker is gone: ask again to start a new group") from error

    def collect(
        self,
        final: str,
        watched: Liveness,
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
        workers = self.workers
        while len(answers) < len(workers):
            ready = self._ready_ranks(set(answers))
            now = time.monotonic()
            for rank in ready:
                name, value = next(iter(self._receive(workers[rank], rank, watched).items()))
                watched.heard(rank, name, value)
                if name in {final, "peer_failed"}:
                    answers[rank] = value
                elif name == "fault":
                    raise self._fault(rank, value, watched.stages[rank])
                elif name == "error":
                    answers[rank] = value
                    failure = failure or decode_error(value)
                elif rank == 0 and name != "alive":
                    on_message(name, value["name"] if name == "stage" else value)
                    watched.progressed()  # what a callback takes is not the workers' time
            if isinstance(failure, OutOfMemory) or (failure and watched.waited() > GRACE_SECONDS):
                raise failure  # the others wait in a collective for the rank that failed
            watched.check(set(range(len(workers))) - {*answers, *ready}, now)
            if not told and cancelled():
                told = True
                self.send({"cancel": True})
            self._check_open()
        return [answers[rank] for rank in range(len(workers))], failure

    def _check_open(self) -> None:
        """Raise EngineDown if the group was ended by another thread or a callback."""
        if self._over:
            raise EngineDown(CLOSED)

    def _ready_ranks(self, done: set[int]) -> list[int]:
        """Ranks not `done` that have sent something, or that are gone; waits a second at most."""
        waiting = {
            worker.connection: rank for rank, worker in enumerate(self.workers) if rank not in done
        }
        with self._using:
            self._check_open()
            ready = wait(waiting, timeout=1.0)
        return [rank for connection, rank in waiting.items() if connection in ready]

    def _receive(self, worker: Worker, rank: int, watched: Liveness) -> dict[str, Any]:
        try:
            with self._using:
                self._check_open()
                return channel.receive(worker.connection)
        except (EOFError, OSError) as error:
            self._check_open()
            for other in (rank, *range(len(self.workers))):
                if (value := self._reported_fault(other)) is not None:
                    raise self._fault(other, value, watched.stages[other]) from None
            rank, ended = self._first_ended(rank)
            raise self._told(rank, ended, watched.stages[rank]) from error

    def _reported_fault(self, rank: int) -> dict[str, Any] | None:
        """The fault that a rank has reported and nobody has read, before another rank that waited
        for it was seen to end.
        """
        connection = self.workers[rank].connection
        try:
            with self._using:
                while not self._over and connection.poll():
                    if "fault" in (message := channel.receive(connection)):
                        return message["fault"]
        except (EOFError, OSError):
            pass
        return None

    def _fault(self, rank: int, value: dict[str, Any], stage: str) -> SpavaError:
        """A rank's own internal error, as it reported it before it ended."""
        where, cause = f"rank {rank} in {stage}", str(value["cause"])
        if memory_was_refused(cause):
            return OutOfMemory(f"rank {rank} ran out of memory in {stage}: {cause}")
        return InternalError(where, cause, str(value["traceback"]))

    def _first_ended(self, rank: int) -> tuple[int, ExitStatus]:
        """The rank that ended for a reason of its own, when `rank` has ended, and how: those that
        wait for it in a collective end with it, and may be noticed before it.
        """
        until = time.monotonic() + GRACE_SECONDS
        first = self.workers[rank].end(until)
        while first.code == LOST_PEER and time.monotonic() < until:
            for other, worker in enumerate(self.workers):
                ended = worker.ended()
                if ended is not None and ended.code != LOST_PEER:
                    return other, ended
            time.sleep(0.05)
        return rank, first

    def _told(self, rank: int, ended: ExitStatus, stage: str) -> SpavaError:
        if ended.code == -signal.SIGKILL and oom_kills() > self._oom_kills:
            return OutOfMemory(
                f"rank {rank} was ended by the kernel in {stage} because the machine's memory ran "
                "out: look at fewer frames, lower max_visual_tokens, or free memory"
            )
        last = f": {ended.last}" if ended.last else ""
        if memory_was_refused(last):
            return OutOfMemory(f"rank {rank} ran out of memory in {stage}{last}")
        how = how_it_ended(ended.code)
        if ended.code is not None and ended.code > 0 and ended.code != LOST_PEER:
            fault = InternalError(f"rank {rank} in {stage}", ended.last or how, ended.output or how)
            logger.error("%s\n%s", fault, fault.traceback)  # it could not do so itself
            return fault
        return EngineDown(f"rank {rank} {how} in {stage}{last}")
