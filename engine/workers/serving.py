"""What a worker does: load the model and join the group, then answer one request after another."""

import logging
import os
import resource
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from spava_app.engine.checkpoints.load import load_model, read_config
from spava_app.engine.comm import Comm
from spava_app.engine.devices import torch_threads
from spava_app.engine.multimodal.embedding_cache import EmbeddingCache, Kind
from spava_app.engine.multimodal.encoder import MediaEncoder
from spava_app.engine.multimodal.fingerprint import on_this_machine
from spava_app.engine.multimodal.processors import make_processor
from spava_app.engine.multimodal.warnings import warnings_noted
from spava_app.engine.request import Request
from spava_app.engine.runner import PeerError, Runner
from spava_app.engine.timing import StageTimer
from spava_app.engine.workers.oom import reported_when_out_of_memory
from spava_app.engine.workers.settings import DISK_BYTES, MEMORY_BYTES, WorkerSettings
from spava_app.errors import SpavaError, encode_error
from spava_app.kernels import windows

logger = logging.getLogger(__name__)

Send = Callable[[dict[str, Any]], None]


def start(settings: WorkerSettings) -> Runner:
    """Join the group and load the model.

    Raises:
        CheckpointError: the model cannot be loaded.
        OutOfMemory: it does not fit.
    """
    device = torch.device(settings.device)
    if device.type == "cuda":
        device = torch.device("cuda", settings.gpu)
    torch.set_num_threads(torch_threads(device.type, settings.threads))
    with reported_when_out_of_memory(settings.rank, device, lambda: "start"):
        return _start(settings, device)


def _start(settings: WorkerSettings, device: torch.device) -> Runner:
    if device.type == "cuda":
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
    encoder = None
    if model.vision is not None and processor is not None:
        windows.prepare(device)
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
        encoder = MediaEncoder(model.vision, processor, comm, cache, max(2, settings.threads))
    kept = settings.cache if settings.cache and encoder is not None else "none"
    logger.info("model loaded on %s, %s, cache: %s", device, settings.dtype, kept)
    return Runner(model.decoder, encoder, comm)


def serve(
    runner: Runner,
    request: str,
    cancelled: Callable[[], bool],
    send: Send,
    files: Sequence[int] = (),
) -> None:
    """Answer one request, given as JSON with the files of its arrays, which are closed here. An
    input that cannot be served ends the request on every rank and nothing else.
    """

    def tell(stage: str) -> None:
        # The deadline of a stage is set before it begins; the driver waits as long, and no longer.
        send({"stage": {"name": stage, "deadline": runner.comm.deadline}})
        logger.debug("%s, deadline %.0f s", stage, runner.comm.deadline)

    timer = StageTimer(runner.device, tell)
    try:
        tokens = []
        if runner.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(runner.device)
        exhausted = reported_when_out_of_memory(
            runner.comm.rank, runner.device, lambda: timer.current
        )
        with warnings_noted() as noted, exhausted:
            asked = Request.from_json(request, files)
            asked = replace(asked, media=tuple(map(on_this_machine, asked.media)))
            for token in runner.run(asked, timer, cancelled):
                send({"token": token})
                tokens.append(token)
        result = {
            "tokens": tokens,
            "seconds": timer.seconds,
            "counts": timer.counts,
            "noted": asdict(noted),
            "peak": _peak_memory(runner.device),
        }
        send({"result": result})
        logger.debug("answered, %.0f MiB at the peak: %s", result["peak"] / 2**20, timer.counts)
    except PeerError as error:
        send({"peer_failed": str(error)})
    except SpavaError as error:
        send(encode_error(error))
    finally:
        for file in files:
            os.close(file)


def _peak_memory(device: torch.device) -> int:
    """Bytes: of the tensors of this request on a GPU; on a CPU of this process since it started."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:  # getrusage would tell the driver's peak where that is larger: it survives exec
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) * 1024
    except (OSError, StopIteration):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
