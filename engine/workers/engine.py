"""The driver's side of the engine: starts one worker per rank, sends requests, supervises.

A request that fails for its input leaves the workers up. Anything else (a dead or silent worker)
stops them all and raises `EngineDown`, or what else it was; the next request starts a fresh group.
"""

import logging
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from spava_app.engine.multimodal.warnings import Noted, described
from spava_app.engine.request import Request
from spava_app.engine.video.array_files import descriptors
from spava_app.engine.workers.fair_lock import FairLock
from spava_app.engine.workers.group import CLOSED, OnMessage, WorkerGroup, never
from spava_app.engine.workers.launcher import Launcher, LocalLauncher, Worker
from spava_app.engine.workers.settings import WorkerSettings
from spava_app.errors import Cancelled, EngineDown, InvalidInput, SpavaError
from spava_app.forked import is_forked

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class RequestResult:
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

    Attributes:
        closings: how often it was closed.
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
        self._group: WorkerGroup | None = None
        self._turns = FairLock()
        self.closings = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def workers(self) -> Sequence[Worker]:
        """By rank; none while they are not up."""
        group = self._group
        return () if group is None else group.workers

    def start(self, cancelled: Callable[[], bool] = never, since: int | None = None) -> None:
        """Start the workers and wait until the model is loaded on all; does nothing when they are
        up.

        Args:
            cancelled, since: as in `run`.

        Raises:
            CheckpointError: the model cannot be loaded.
            OutOfMemory: it does not fit.
            Cancelled: while this caller waited for others.
            EngineDown: a worker died or hung, or the engine was closed meanwhile.
        """
        with self._group_in_turn(cancelled, since):
            pass

    @contextmanager
    def _group_in_turn(
        self, cancelled: Callable[[], bool], since: int | None
    ) -> Iterator[WorkerGroup]:
        """Wait for this caller's turn and the workers, unless the engine is closed meanwhile."""
        since = self.closings if since is None else since
        with self._turns.turn(cancelled):
            self._check_open(since)
            if cancelled():
                raise Cancelled("cancelled before it began")
            yield self._start(since)

    def _start(self, since: int) -> WorkerGroup:
        """The group that is up, or a new one."""
        group = self._group
        if group is not None and group.lost():
            logger.warning("a worker has ended while idle: starting new workers")
            self._drop(group)
            group = None
        if group is not None:
            return group
        group = self._group = WorkerGroup(self._launcher, self._settings)
        try:
            self._check_open(since)  # from here on `close` sees the group
            group.start()
        except BaseException as error:
            why = error if isinstance(error, SpavaError) else type(error).__name__
            logger.warning("the workers did not start: %s", why)
            self._drop(group)
            if self.closings != since:
                self._launcher.close()  # what a start that came too late has opened again
            raise
        return group

    def _check_open(self, since: int) -> None:
        if self.closings != since:
            raise EngineDown(CLOSED)

    def run(
        self,
        request: Request,
        on_message: OnMessage,
        cancelled: Callable[[], bool] = never,
        since: int | None = None,
    ) -> RequestResult:
        """Run one request on all ranks.

        Args:
            on_message: called with ("stage", name) and ("token", id) as rank 0 reports them.
            cancelled: asked often, in the caller's thread; what it reads may be set by any. Once
                true, a request that waits for its turn leaves the queue, one that looks at frames
                ends before the prefill, and an answer ends at its next token.
            since: `closings` when the question began, if that was earlier: of an engine that was
                closed since, nothing is asked.

        Returns:
            The answer, or what there is of a cancelled one.

        Raises:
            InvalidInput: the input cannot be served; the engine stays up.
            Cancelled: before there was a token; the engine stays up.
            OutOfMemory: what a request needs does not fit; the next call starts a new group.
            InternalError: a worker or a decoder process met a fault of this program; the next call
                starts a new group where that is needed.
            EngineDown: a worker died or hung, or the engine was closed; the next call starts a new
                group.
        """
        request = self._reaching(request)
        with self._group_in_turn(cancelled, since) as group:
            result = self._run(group, request, on_message, cancelled)
        if not result.tokens and cancelled():
            raise Cancelled("cancelled before the answer began")
        return result

    def _reaching(self, request: Request) -> Request:
        """The request as all ranks can serve it."""
        if self._launcher.one_machine:
            return request
        if any(medium.source.kind == "array" for medium in request.media):
            fix = "cannot reach several machines: write a file that all of them see"
            raise InvalidInput("video", "an array of frames", fix)
        return request.portable()

    def _run(
        self,
        group: WorkerGroup,
        request: Request,
        on_message: OnMessage,
        cancelled: Callable[[], bool],
    ) -> RequestResult:
        try:
            answers, failure = group.ask(
                {"request": request.to_json()},
                files=descriptors([medium.source for medium in request.media]),
                seconds=self._deadline,
                on_message=on_message,
                cancelled=cancelled,
            )
        except BaseException as error:
            # Not all workers have ended the request (or the callback raised): what they still send
            # must never be read as the answer to the next one.
            why = error if isinstance(error, SpavaError) else type(error).__name__
            logger.warning("ending the workers; the next question starts new ones: %s", why)
            self._drop(group)
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
        return RequestResult(tuple(answers[0]["tokens"]), seconds, warnings, counts, memory)

    def close(self) -> None:
        """Stop the workers and end what runs and waits; safe to call twice, from any thread. In a
        forked child it does nothing: they are its parent's.
        """
        if is_forked():
            return
        self.closings += 1
        group = self._group
        if group is None:
            self._launcher.close()
        else:
            self._drop(group, self._launcher.close)

    def _drop(self, group: WorkerGroup, leave: Callable[[], None] = lambda: None) -> None:
        if is_forked():
            return
        # Forgotten first: an interrupt in the middle must not leave half a group behind.
        if self._group is group:
            self._group = None
        group.end(leave)
