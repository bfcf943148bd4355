"""One rank: a process that loads the model, joins the group and answers requests until the driver
is gone.

Started as `python -m spava_app.engine.worker SETTINGS` with one inherited socket and a pipe as
standard input; SETTINGS is a JSON object.
"""

import json
import os
import queue
import sys
import threading
import traceback
from dataclasses import asdict
from multiprocessing.connection import Connection
from pathlib import Path

import torch

from spava_app.engine import channel
from spava_app.engine.comm import Comm
from spava_app.engine.embedding_cache import EmbeddingCache, Kind
from spava_app.engine.front_end import FrontEnd
from spava_app.engine.generate import PeerError, Runner
from spava_app.engine.processors import make_processor
from spava_app.engine.request import Request
from spava_app.engine.settings import DISK_BYTES, MEMORY_BYTES, WorkerSettings
from spava_app.engine.timing import StageTimer
from spava_app.engine.video.damage import warnings_noted
from spava_app.engine.weights import load_model, read_config
from spava_app.errors import SpavaError

# A request and the flag that cancels it.
Asked = tuple[Request, threading.Event]


def main() -> None:
    """Serve until the driver closes its end."""
    settings = WorkerSettings(**json.loads(sys.argv[1]))
    connection = Connection(settings.socket)
    inbox: queue.Queue[Asked] = queue.Queue()
    threading.Thread(target=_listen, args=(connection, inbox), daemon=True).start()
    threading.Thread(target=_end_with_starter, daemon=True).start()
    try:
        runner = _start(settings)
        channel.send(connection, {"ready": True})
        while True:
            _serve(runner, *inbox.get(), connection)
    except SpavaError as error:
        channel.send(connection, channel.encode_error(error))
        sys.exit(error.exit_code)


def _listen(connection: Connection, inbox: "queue.Queue[Asked]") -> None:
    """Read requests; when the driver is gone, end the process whatever it is doing, a collective
    included.
    """
    cancelled = threading.Event()
    try:
        while True:
            message = channel.receive(connection)
            if "cancel" in message:
                cancelled.set()
                continue
            # A flag of its own: the channel keeps order, so a cancel means the request sent last,
            # and one that comes too late cannot end the next.
            cancelled = threading.Event()
            inbox.put((Request.from_json(message["request"]), cancelled))
    except (EOFError, OSError):
        os._exit(0)
    except Exception:  # noqa: BLE001 (a process that no longer listens would never end)
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)


def _end_with_starter() -> None:
    """End the process with the one that started it, which may be another than the driver: nobody
    writes to standard input, so that reading it ends with that process.
    """
    os.read(sys.stdin.fileno(), 1)
    os._exit(0)


def _start(settings: WorkerSettings) -> Runner:
    torch.set_num_threads(settings.threads)
    device = torch.device(settings.device)
    if device.type == "cuda":
        device = torch.device("cuda", settings.card)
        torch.cuda.set_device(device)
    comm = Comm.connect(
        settings.rank,
        settings.world_size,
        init_method=settings.rendezvous,
        backend="nccl" if device.type == "cuda" else "gloo",
        deadline=settings.deadline,
    )
    folder = Path(settings.model)
    processor = make_processor(folder, read_config(folder))
    model = load_model(
        folder,
        device=device,
        dtype=getattr(torch, settings.dtype),
        allow_pickle=settings.allow_pickle,
    )
    front_end = None
    if model.vision is not None and processor is not None:
        cache = EmbeddingCache()
        if settings.cache:
            weight = next(model.vision.parameters())
            hidden = model.vision.config.out_hidden_size
            cache = EmbeddingCache(
                Kind.of(folder, processor, hidden, weight),
                folder=Path(settings.cache) / "embeddings",
                disk_bytes=DISK_BYTES,
                memory_bytes=MEMORY_BYTES,
            )
        front_end = FrontEnd(model.vision, processor, comm, cache, max(2, settings.threads))
    return Runner(model.decoder, front_end, comm)


def _serve(
    runner: Runner, request: Request, cancelled: threading.Event, connection: Connection
) -> None:
    """Answer one request. An input that cannot be served ends the request on every rank and nothing
    else.
    """

    def tell(stage: str) -> None:
        # The deadline of a stage is set before it begins; the driver waits as long, and no longer.
        message = {"name": stage, "deadline": runner.comm.deadline}
        channel.send(connection, {"stage": message})

    timer = StageTimer(runner.device, tell)
    try:
        tokens = []
        with warnings_noted() as noted:
            for token in runner.run(request, timer, cancelled.is_set):
                channel.send(connection, {"token": token})
                tokens.append(token)
        result = {"tokens": tokens, "seconds": timer.seconds, "counts": timer.counts}
        result["noted"] = asdict(noted)
        channel.send(connection, {"result": result})
    except PeerError as error:
        channel.send(connection, {"peer_failed": str(error)})
    except SpavaError as error:
        channel.send(connection, channel.encode_error(error))


if __name__ == "__main__":
    try:
        main()
    except Exception:  # noqa: BLE001 (the last line of defence: the driver quotes from this log)
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)  # not sys.exit: threads of a broken group must not keep the process alive
