"""From a video file to pixels in several ways, each timed by stage: what `video` compares."""

from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch

from spava_app.engine.media import Media
from spava_app.engine.multimodal.pixel_stream import stream_units
from spava_app.engine.multimodal.pixels.config import PixelConfig
from spava_app.engine.multimodal.processors import QwenProcessor
from spava_app.engine.multimodal.single_video import video_alone
from spava_app.engine.video.decode import decode_frames

BATCH_UNITS = 16
CONFIG = PixelConfig()
PROCESSOR = QwenProcessor(CONFIG, CONFIG, frozenset())

Seconds = dict[str, float]


@dataclass(frozen=True)
class Task:
    """A video, how many evenly spaced frames of it, and how many threads."""

    path: Path
    frames: int
    threads: int


def plan(task: Task) -> Media:
    """The frames that are read, and how: what a driver tells its ranks."""
    return video_alone(task.path, PROCESSOR, num_frames=task.frames)


def run_ours(task: Task, decoder: str = "pyav") -> tuple[Seconds, np.ndarray]:
    """In this process, with frames from any decoder; the others go by frame number."""
    seconds: Seconds = {"decode": 0.0, "preprocess": 0.0}
    began = perf_counter()
    media = plan(task)
    seconds = {"probe": perf_counter() - began, **seconds}
    out = []
    if decoder == "pyav":
        units = range(media.num_units)
        for _, pixels in stream_units(
            *(media, units, PROCESSOR),
            batch_units=BATCH_UNITS,
            threads=task.threads,
            timings=seconds,
        ):
            out.append(pixels)
    else:
        source = replace(media.source, rows=media.frames)
        clock = perf_counter()
        for group in decode_frames(source, group=2, threads=task.threads, decoder=decoder):
            decoded = perf_counter()
            out.append(PROCESSOR.prepare(torch.from_numpy(group.pictures), media))
            seconds["decode"] += decoded - clock
            clock = perf_counter()
            seconds["preprocess"] += clock - decoded
    seconds["total"] = perf_counter() - began
    return seconds, torch.cat(out).numpy()


def run_ranks(task: Task, ranks: int) -> Seconds:
    """In processes that share the cores, after all have started: probing, then the slowest."""
    context = get_context("spawn")
    results, barrier = context.SimpleQueue(), context.Barrier(ranks + 1)
    began = perf_counter()
    media = plan(task)
    probed = perf_counter() - began
    threads = max(1, task.threads // ranks)
    processes = [
        context.Process(target=rank_main, args=(media, rank, ranks, threads, barrier, results))
        for rank in range(ranks)
    ]
    for process in processes:
        process.start()
    barrier.wait()
    began = perf_counter()
    spent = [results.get() for _ in processes]
    total = perf_counter() - began
    for process in processes:
        process.join()
    slowest = {stage: max(seconds[stage] for seconds in spent) for stage in spent[0]}
    return {"probe": probed, **slowest, "total": probed + total}


def rank_main(
    media: Media, rank: int, ranks: int, threads: int, barrier: Any, results: Any
) -> None:
    torch.set_num_threads(threads)
    own = np.array_split(np.arange(media.num_units), ranks)[rank]
    units = range(int(own[0]), int(own[-1]) + 1)
    seconds: Seconds = {}
    barrier.wait()
    for _ in stream_units(
        media, units, PROCESSOR, batch_units=BATCH_UNITS, threads=threads, timings=seconds
    ):
        pass
    results.put(seconds)


def run_transformers(task: Task) -> tuple[Seconds, np.ndarray]:
    """`load_video` and the video processor, as `transformers` uses them for a file."""
    from transformers.models.qwen2_vl.video_processing_qwen2_vl import Qwen2VLVideoProcessor

    make: Any = Qwen2VLVideoProcessor
    processor = make(min_pixels=CONFIG.min_pixels, max_pixels=CONFIG.max_pixels)
    began = perf_counter()
    frames = load(task)
    decoded = perf_counter()
    tensor = torch.from_numpy(frames).permute(0, 3, 1, 2)
    out = processor(videos=[tensor], return_tensors="pt", do_sample_frames=False)
    done = perf_counter()
    seconds = {"decode": decoded - began, "preprocess": done - decoded, "total": done - began}
    return seconds, out["pixel_values_videos"].numpy()


def load(task: Task) -> np.ndarray:
    """Its frames, `[N, H, W, 3]`, by PyAV."""
    from transformers import video_utils

    load_video: Any = video_utils.load_video
    return load_video(str(task.path), num_frames=task.frames, backend="pyav")[0]


def run_transformers_decoding(task: Task) -> Seconds:
    """Where its processor cannot run because torchvision is missing."""
    began = perf_counter()
    load(task)
    seconds = perf_counter() - began
    return {"decode": seconds, "total": seconds}
