"""How long a file takes to become visual embeddings on all ranks, and how much of decoding is
hidden behind the vision tower.

    python -m spava_app.engine.bench.frames --ranks 1 2 --json frames.json

Writes a video (one encoded minute, copied), takes frames of it at a rate, and runs the front end as
a question does: each rank decodes and encodes the units its blocks need. A vision tower of a
published size has random weights. Everything runs twice; the second time is told. `hidden` is the
share of the seconds that decoding takes by itself for which the front end did not wait. `memory` is
what a rank and its decoder processes took more than before at their peak, in host memory and on the
GPU, beside its share of the embeddings and what may be decoded ahead.
"""

import argparse
import json
import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

from spava_app.engine.bench.group import versions
from spava_app.engine.bench.host_memory import sampled_tree, tree_memory
from spava_app.engine.bench.report import say
from spava_app.engine.checkpoints.hub import EMBEDDED
from spava_app.engine.comm import Comm
from spava_app.engine.media import Media
from spava_app.engine.models import geometries
from spava_app.engine.models.qwen2_5_vl import VisionConfig, VisionTower
from spava_app.engine.multimodal.encoder import MediaEncoder
from spava_app.engine.multimodal.pixel_stream import num_processes, stream_units
from spava_app.engine.multimodal.pixels.config import PixelConfig
from spava_app.engine.multimodal.processors import QwenProcessor
from spava_app.engine.multimodal.single_video import video_alone
from spava_app.engine.multimodal.unit_sharding import deal
from spava_app.engine.parallel.base import make_method
from spava_app.engine.planning.calibration.video_rates import DECODE_ONLY
from spava_app.engine.request import Request
from spava_app.engine.synthetic.long_clip import repeat, write_minute
from spava_app.engine.timing import StageTimer
from spava_app.engine.video.shared_ring import PREFETCH_BYTES
from spava_app.output_file import JsonFile, add_json_option
from spava_app.terminal_text import guard_terminal

# Frames keep their size, whatever a checkpoint's own limits are.
PIXELS = PixelConfig(min_pixels=1, max_pixels=2**24)
PROCESSOR = QwenProcessor(PIXELS, PIXELS, frozenset())
GEOMETRIES = ("Qwen2.5-VL-3B", "Qwen2.5-VL-7B", "embedded")
TEXT = 32  # tokens before and after the video


@dataclass(frozen=True)
class FramesSetup:
    """What all ranks share; `vision` is a `vision_config`."""

    request: Request
    vision: dict[str, Any]
    device: str
    world_size: int
    rendezvous: str


def main(arguments: Sequence[str] | None = None) -> int:
    """Run, print a line per number of ranks and write `--json`."""
    on_gpu = torch.cuda.is_available()
    parser = argparse.ArgumentParser(
        prog="python -m spava_app.engine.bench.frames",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_json_option(parser)
    parser.add_argument("--ranks", type=int, nargs="+", default=[1], help="default: %(default)s")
    parser.add_argument("--minutes", type=int, default=60, help="default: %(default)s")
    parser.add_argument("--height", type=int, default=360, help="16:9; default: %(default)s")
    parser.add_argument("--rate", type=int, default=30, help="of the file; default: %(default)s")
    parser.add_argument("--fps", type=float, default=1.0, help="looked at; default: %(default)s")
    default = "Qwen2.5-VL-7B" if on_gpu else "embedded"
    parser.add_argument("--geometry", default=default, choices=GEOMETRIES, help="%(default)s")
    device = "cuda" if on_gpu else "cpu"
    parser.add_argument("--device", default=device, help="default: %(default)s")
    options = parser.parse_args(arguments)
    if min(options.minutes, options.rate, *options.ranks) < 1 or options.fps <= 0:
        parser.error("--minutes, --rate, --ranks and --fps must be positive")
    if options.height < 64 or options.height % 2:
        parser.error("--height must be even, and at least 64")
    file = JsonFile(parser, options)
    found = versions(options.device)
    say(", ".join(f"{name} {value}" for name, value in found.items() if value))
    with tempfile.TemporaryDirectory(prefix="spava-bench-") as folder:
        media, made = _media(Path(folder), options)
        say(f"{media.num_units * 2} frames of {options.minutes} min at {options.height} p")
        vision = _vision(options.geometry)
        rows = [_measure(media, vision, options.device, ranks) for ranks in options.ranks]
    settings = {name: it for name, it in vars(options).items() if name not in {"json", "force"}}
    whole = {"versions": found, **settings, **made, "rows": rows, "tokens": media.num_tokens}
    return file.save(whole)


def _vision(geometry: str) -> dict[str, Any]:
    if geometry == "embedded":
        return json.loads((EMBEDDED / "config.json").read_text())["vision_config"]
    return geometries.GEOMETRIES[geometry]["vision_config"]


def _media(folder: Path, options: argparse.Namespace) -> tuple[Media, dict[str, float]]:
    """The video, written and looked at, with the seconds of both."""
    began = time.perf_counter()
    height, width = options.height, options.height * 16 // 9 // 2 * 2
    write_minute(folder / "minute.mp4", size=(height, width), fps=options.rate, key_every=250)
    repeat(folder / "minute.mp4", folder / "long.mp4", options.minutes)
    written = time.perf_counter()
    media = video_alone(folder / "long.mp4", PROCESSOR, fps=options.fps, first=TEXT)
    looked = time.perf_counter()
    return media, {"write_seconds": written - began, "probe_seconds": looked - written}


def _measure(media: Media, vision: dict[str, Any], device: str, ranks: int) -> dict[str, Any]:
    request = Request(
        token_ids=(0,) * (media.num_tokens + 2 * TEXT),
        query_len=TEXT,
        system_len=TEXT,
        question_len=TEXT,
        method="spava",
        options={},
        max_new_tokens=1,
        stop_ids=(),
        media=(media,),
    )
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        setup = FramesSetup(request, vision, device, ranks, f"file://{folder}/rendezvous")
        pipes, processes = [], []
        for rank in range(ranks):
            ours, theirs = context.Pipe()
            process = context.Process(target=_rank, args=(rank, setup, theirs), daemon=True)
            process.start()
            theirs.close()
            pipes.append(ours)
            processes.append(process)
        answers = [pipe.recv() for pipe in pipes]
        for process in processes:
            process.join(10)
    memory = [answer.pop("memory") for answer in answers]
    slowest = {name: max(answer[name] for answer in answers) for name in answers[0]}
    hidden = 1 - slowest["decode"] / slowest["decode_alone"]
    stages = ", ".join(f"{name} {seconds:.2f} s" for name, seconds in slowest.items())
    say(f"{ranks} ranks: {stages}; {hidden:.0%} of decoding hidden")
    for rank, parts in enumerate(memory):
        told = (f"{name} {size / 2**20:.0f} MiB" for name, size in parts.items() if size)
        say(f"    rank {rank}: {', '.join(told)}")
    return {
        "ranks": ranks,
        "slowest": slowest,
        "hidden": hidden,
        "by_rank": answers,
        "memory": memory,
    }


def _rank(rank: int, setup: FramesSetup, pipe: Connection) -> None:
    threads = max(2, (os.cpu_count() or 1) // setup.world_size)
    torch.set_num_threads(threads)
    device = torch.device(setup.device)
    if device.type == "cuda":
        device = torch.device("cuda", rank)
        torch.cuda.set_device(device)
    comm = Comm.connect(
        rank,
        setup.world_size,
        init_method=setup.rendezvous,
        backend="nccl" if device.type == "cuda" else "gloo",
        deadline=600.0,
    )
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    with torch.device(device):
        tower = VisionTower(VisionConfig.from_hf({"vision_config": setup.vision})).to(dtype)
    encoder = MediaEncoder(tower, PROCESSOR, comm, threads=threads)
    request = setup.request
    layout = make_method(request.method, {}).layout(request.shape, setup.world_size)
    dealt = deal(request.media, layout)
    timer, total, memory = StageTimer(device, lambda stage: None), 0.0, dict[str, int]()
    for _ in range(2):
        comm.any(False, device)  # ranks begin together
        timer = StageTimer(device, lambda stage: None)
        began = time.perf_counter()
        with torch.inference_mode(), _memory(device, memory):
            encoded = encoder.encode(request, dealt[rank], timer)
            encoder.deliver(request, layout, dealt, encoded)
            if device.type == "cuda":
                torch.cuda.synchronize(device)
        total = time.perf_counter() - began
        memory["share"] = encoded.nbytes
        del encoded
    [media] = request.media
    memory["ahead"] = PREFETCH_BYTES * num_processes(threads, len(dealt[rank]))
    comm.any(False, device)
    began = time.perf_counter()
    for _ in stream_units(media, dealt[rank], DECODE_ONLY, batch_units=1, threads=threads):
        pass
    alone = time.perf_counter() - began
    pipe.send({**timer.seconds, "total": total, "decode_alone": alone, "memory": memory})
    comm.close()


@contextmanager
def _memory(device: torch.device, peak: dict[str, int]) -> Iterator[None]:
    """Put into `peak` what the block takes of the host and of the GPU, more than before; of several
    blocks the most of the host.
    """
    host, card = tree_memory(), 0
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        card = torch.cuda.memory_allocated(device)
    with sampled_tree() as samples:
        yield
    if samples and host is not None:
        peak["host"] = max(peak.get("host", 0), max(samples) - host)
    if device.type == "cuda":
        peak["card"] = torch.cuda.max_memory_allocated(device) - card


if __name__ == "__main__":
    guard_terminal()
    sys.exit(main())
