"""The driver and its real worker processes: faults end a request with a typed error, and the next
one is served.
"""

import json
import os
import pickle
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest
from processes import wait_for

from spava_app.engine.request import Request
from spava_app.engine.sampling import Sampling
from spava_app.engine.workers import channel
from spava_app.engine.workers import liveness as watch
from spava_app.engine.workers.engine import Engine
from spava_app.engine.workers.launcher import LocalLauncher, LocalWorker
from spava_app.engine.workers.liveness import Liveness
from spava_app.engine.workers.settings import WorkerSettings
from spava_app.errors import (
    CheckpointError,
    EngineDown,
    EngineError,
    InternalError,
    InvalidInput,
    SpavaError,
    VideoError,
    decode_error,
    encode_error,
)


def ignore(name: str, value: object) -> None:
    pass


def lost(request: Request) -> Request:
    """The same, about a file that is not there."""
    [video] = request.media
    source = replace(video.source, paths=("/nowhere.mp4",))
    return replace(request, media=(replace(video, source=source),))


class Noting(LocalLauncher):
    """Notes what it starts."""

    def __init__(self, world_size: int) -> None:
        super().__init__(world_size)
        self.started: list[LocalWorker] = []

    @property
    def threads(self) -> list[int]:
        told = [cast("list[str]", worker.process.args)[-1] for worker in self.started]
        return [json.loads(settings)["threads"] for settings in told]

    def spawn(self, settings: WorkerSettings) -> LocalWorker:
        worker = super().spawn(settings)
        self.started.append(worker)
        return worker


@pytest.fixture(scope="module")
def engine(checkpoint: Path) -> Iterator[Engine]:
    (checkpoint / "preprocessor_config.json").write_text(
        '{"min_pixels": 784, "max_pixels": 7056, "patch_size": 14, "temporal_patch_size": 2,'
        ' "merge_size": 2}'
    )
    with Engine(checkpoint, world_size=2, device="cpu", dtype="float32") as started:
        yield started


def test_answers_and_reports_stages(engine: Engine, request_: Request) -> None:
    seen: list[tuple[str, object]] = []
    result = engine.run(request_, lambda name, value: seen.append((name, value)))
    stages = [value for name, value in seen if name == "stage"]
    assert stages == ["decode", "vision", "exchange", "prefill", "generate"]
    assert tuple(value for name, value in seen if name == "token") == result.tokens
    assert len(result.tokens) == request_.max_new_tokens
    assert set(result.seconds) == {*stages, "preprocess"}


def test_bad_input_leaves_the_workers_up(engine: Engine, request_: Request) -> None:
    before = engine.run(request_, ignore)
    processes = [worker.process.pid for worker in engine.workers]
    with pytest.raises(VideoError):
        engine.run(lost(request_), ignore)
    with pytest.raises(InvalidInput, match="method"):
        engine.run(replace(request_, method="nearly"), ignore)
    assert engine.run(request_, ignore).tokens == before.tokens
    assert [worker.process.pid for worker in engine.workers] == processes


def test_killed_worker_fails_the_request_in_seconds_and_the_next_is_served(
    engine: Engine, request_: Request
) -> None:
    before = engine.run(request_, ignore)
    victim = engine.workers[1].process.pid

    def kill(name: str, value: object) -> None:
        if value == "prefill":
            os.kill(victim, signal.SIGKILL)

    began = time.monotonic()
    with pytest.raises(EngineDown, match="rank"):
        engine.run(replace(request_, max_new_tokens=2000), kill)
    assert time.monotonic() - began < 20
    assert engine.run(request_, ignore).tokens == before.tokens


def test_a_rank_that_crashes_alone_ends_the_request_on_all_in_seconds(
    engine: Engine, request_: Request
) -> None:
    """Rank 1 meets a token outside the vocabulary; rank 0 waits for it in a collective."""
    before = engine.run(request_, ignore)
    bad = replace(request_, token_ids=(*request_.token_ids[:-1], 10**6), method="spava")
    good = replace(request_, method="spava")
    began = time.monotonic()
    for worker, request in zip(engine.workers, (good, bad), strict=True):
        channel.send(worker.connection, {"request": request.to_json()})
    with pytest.raises(InternalError, match=r"internal error in rank 1 in \w+: IndexError") as told:
        engine._group.collect("result", Liveness(2, "request", 60, 60), ignore)
    assert "decoder.py" in told.value.traceback
    engine.close()
    assert time.monotonic() - began < 10
    assert engine.run(request_, ignore).tokens == before.tokens


def test_worker_killed_between_requests(engine: Engine, request_: Request) -> None:
    before = engine.run(request_, ignore)
    pid = engine.workers[0].process.pid
    os.kill(pid, signal.SIGKILL)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    assert engine.run(request_, ignore).tokens == before.tokens


def test_a_stopped_worker_is_noticed_by_its_silence(
    engine: Engine, request_: Request, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While it did nothing, before the request."""
    before = engine.run(request_, ignore)
    monkeypatch.setattr(watch, "SILENCE_SECONDS", 3.0)
    os.kill(engine.workers[1].process.pid, signal.SIGSTOP)
    with pytest.raises(EngineDown, match="rank 1 has been stuck in request: no sign of life"):
        engine.run(request_, ignore)
    assert engine.run(request_, ignore).tokens == before.tokens


def test_close_leaves_no_process(checkpoint: Path, engine: Engine, request_: Request) -> None:
    other = Engine(checkpoint, world_size=2, device="cpu", dtype="float32")
    other.start()
    processes = [worker.process for worker in other.workers]
    threads = threading.active_count()
    other.close()
    other.close()
    assert all(process.poll() is not None for process in processes)
    assert threading.active_count() < threads  # those that read what the workers write


@pytest.mark.parametrize("after", [0.0, 0.05, 0.2, 0.5, 2.0])
def test_closed_while_it_starts_it_says_so_and_leaves_no_process(
    checkpoint: Path, request_: Request, after: float
) -> None:
    launcher = Noting(4)
    with Engine(
        checkpoint, world_size=4, device="cpu", dtype="float32", launcher=launcher
    ) as engine:
        told: list[str] = []

        def start() -> None:
            try:
                engine.start()
            except EngineDown as error:
                told.append(str(error))

        thread = threading.Thread(target=start)
        thread.start()
        assert wait_for(lambda: launcher.started)
        time.sleep(after)
        engine.close()
        thread.join(20)
        assert not thread.is_alive()
        assert told == ["the engine was closed"]
        assert all(worker.process.poll() is not None for worker in launcher.started)
        assert not engine.workers


def test_what_began_before_it_was_closed_is_not_asked(engine: Engine, request_: Request) -> None:
    since = engine.closings
    engine.close()
    for _ in range(2):  # also once workers are up again for what was asked since
        with pytest.raises(EngineDown, match="the engine was closed"):
            engine.start(since=since)
        with pytest.raises(EngineDown, match="the engine was closed"):
            engine.run(request_, ignore, since=since)
        assert engine.run(request_, ignore).tokens


def test_workers_share_the_cores_that_this_process_may_use(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {3, 4, 5, 6, 7, 8})
    launcher = Noting(2)
    with Engine(checkpoint, world_size=2, device="cpu", dtype="float32", launcher=launcher) as two:
        two.start()
    assert launcher.threads == [3, 3]


def test_broken_model_is_told_at_start(tmp_path: Path) -> None:
    with (
        Engine(tmp_path, world_size=2, device="cpu", dtype="float32") as engine,
        pytest.raises(CheckpointError, match=r"config\.json"),
    ):
        engine.start()


@pytest.mark.parametrize(
    "error",
    [
        InvalidInput("fps", -1.0, "must be positive"),
        VideoError("video", "x.mp4", "is not a video"),
        EngineDown("rank 1 died"),
        InternalError("rank 1", "TypeError: wrong", "Traceback"),
    ],
)
def test_errors_travel(error: SpavaError) -> None:
    for copy in (
        decode_error(encode_error(error)["error"]),
        pickle.loads(pickle.dumps(error)),
    ):
        assert type(copy) is type(error)
        assert str(copy) == str(error)
        assert vars(copy) == vars(error)


@pytest.mark.parametrize("kind", ["sys", "nothing", "check_count", "Exception"])
def test_an_error_of_no_known_type_is_an_engine_error(kind: str) -> None:
    copy = decode_error({"type": kind, "message": "odd"})
    assert (type(copy), str(copy)) == (EngineError, "odd")


def test_cancel_ends_the_answer_on_all_ranks_and_not_the_next_one(
    engine: Engine, request_: Request
) -> None:
    seen: list[object] = []

    def note(name: str, value: object) -> None:
        if name == "token":
            seen.append(value)

    long = replace(request_, max_new_tokens=400)
    result = engine.run(long, note, lambda: len(seen) >= 3)
    assert 3 <= len(result.tokens) < 400
    engine._group.send({"cancel": True})  # too late: nothing is running
    assert len(engine.run(request_, ignore).tokens) == request_.max_new_tokens


def test_callers_from_several_threads_wait_for_their_turn(
    engine: Engine, request_: Request
) -> None:
    wanted = [replace(request_, max_new_tokens=count) for count in (3, 30, 7, 12)]
    alone = [engine.run(request, ignore).tokens for request in wanted]
    began, together = [], {}

    def ask(number: int) -> None:
        def on_message(name: str, value: object) -> None:
            if (name, value) == ("stage", "decode"):
                began.append(number)
                time.sleep(0.5)  # the others ask meanwhile

        together[number] = engine.run(wanted[number], on_message).tokens

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
        time.sleep(0.05)
    for thread in threads:
        thread.join()
    assert [together[number] for number in range(4)] == alone
    assert began == [0, 1, 2, 3]


def test_sampling_is_the_same_on_any_number_of_ranks(
    checkpoint: Path, engine: Engine, request_: Request
) -> None:
    hot = replace(request_, sampling=Sampling(temperature=2.0, seed=5))
    two = engine.run(hot, ignore).tokens
    with Engine(checkpoint, world_size=1, device="cpu", dtype="float32") as alone:
        one = alone.run(hot, ignore).tokens
    assert one == two
    assert two != engine.run(request_, ignore).tokens
    assert (
        two != engine.run(replace(hot, sampling=Sampling(temperature=2.0, seed=6)), ignore).tokens
    )
