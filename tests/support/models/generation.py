"""A whole request on the ranks of a test group."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import torch
from live_bytes import LiveBytes
from torch import Tensor

from spava_app.engine.checkpoints.load import load_model
from spava_app.engine.comm import Comm
from spava_app.engine.media import Media
from spava_app.engine.multimodal.embedding_cache import EmbeddingCache, Kind
from spava_app.engine.multimodal.encoder import MediaEncoder
from spava_app.engine.multimodal.processors import Processor
from spava_app.engine.multimodal.unit_sharding import deal
from spava_app.engine.parallel.base import make_method
from spava_app.engine.request import Request
from spava_app.engine.runner import Runner
from spava_app.engine.timing import StageTimer
from spava_app.errors import SpavaError
from spava_app.requests.media_input import Question, as_media, look

# In a prompt: so many tokens of text, or a file and how many of its frames.
Text = int
Vision = tuple[str, int]


def runner_of(comm: Comm, folder: Path, processor: Processor | None) -> Runner:
    model = load_model(folder)
    encoder = None
    if model.vision is not None and processor is not None:
        encoder = MediaEncoder(model.vision, processor, comm)
    return Runner(model.decoder, encoder, comm)


def generate(
    comm: Comm, folder: Path, processor: Processor | None, request: Request
) -> tuple[list[int], list[str]]:
    """The tokens this rank ends up with and the stages it reported."""
    stages: list[str] = []
    timer = StageTimer(torch.device("cpu"), stages.append)
    return list(runner_of(comm, folder, processor).run(request, timer)), stages


def deadlines(
    comm: Comm, folder: Path, processor: Processor | None, request: Request
) -> dict[str, float]:
    """The deadline of the collectives in each stage, in seconds."""
    found: dict[str, float] = {}

    def note(stage: str) -> None:
        found[stage] = comm.deadline

    timer = StageTimer(torch.device("cpu"), note)
    list(runner_of(comm, folder, processor).run(request, timer))
    return found


def generate_logits(
    comm: Comm, folder: Path, processor: Processor | None, request: Request
) -> tuple[list[int], list[list[float]]]:
    """The tokens, and the logits before each on the rank that samples (none on the others)."""
    runner = runner_of(comm, folder, processor)
    rows: list[list[float]] = []
    logits = runner.decoder.logits

    def record(hidden: Tensor) -> Tensor:
        out = logits(hidden)
        rows.extend(out.tolist())
        return out

    runner.decoder.logits = record
    timer = StageTimer(torch.device("cpu"), lambda stage: None)
    return list(runner.run(request, timer)), rows


def encode_with_cache(
    comm: Comm, folder: Path, processor: Processor, request: Request, cache: Path
) -> tuple[Tensor, list[int], list[str]]:
    """This rank's embeddings, which units they are, and the stages that making them took."""
    stages: list[str] = []
    encoder = runner_of(comm, folder, processor).encoder
    assert encoder is not None
    weight = next(encoder.vision.parameters())
    kind = Kind.of(folder, processor, encoder.vision.config.out_hidden_size, weight)
    kept = EmbeddingCache(kind, folder=cache, disk_bytes=10**9)
    layout = make_method(request.method, request.options).layout(request.shape, comm.world_size)
    units = deal(request.media, layout)[comm.rank]
    with torch.inference_mode():
        timer = StageTimer(torch.device("cpu"), stages.append)
        rows = replace(encoder, cache=kept).encode(request, units, timer).clone()
    return rows, units, stages


def bytes_of_encoding(
    comm: Comm, folder: Path, processor: Processor, request: Request
) -> tuple[int, int]:
    """Bytes of this rank's embeddings, and of all tensors there were at the peak of making them."""
    encoder = runner_of(comm, folder, processor).encoder
    assert encoder is not None
    layout = make_method(request.method, request.options).layout(request.shape, comm.world_size)
    units = deal(request.media, layout)[comm.rank]
    timer = StageTimer(torch.device("cpu"), lambda stage: None)
    with torch.inference_mode(), LiveBytes() as counter:
        encoded = encoder.encode(request, units, timer)
    return encoded.nbytes, counter.peak


def error_when_only_the_last_fails(
    comm: Comm, folder: Path, processor: Processor, good: Request, bad: Request
) -> str:
    """The class of the error that each rank meets when `bad` reaches the last one only."""
    try:
        generate(comm, folder, processor, bad if comm.rank == comm.world_size - 1 else good)
    except SpavaError as error:
        return type(error).__name__
    return "no error"


def text_request(token_ids: Sequence[int], **changes: Any) -> Request:
    """A prompt without a video whose last four tokens are the question."""
    request = Request(
        token_ids=tuple(token_ids),
        query_len=4,
        system_len=0,
        question_len=4,
        method="full",
        options={},
        max_new_tokens=4,
        stop_ids=(),
    )
    return replace(request, **changes)


def media_request(
    processor: Processor,
    parts: Sequence[Text | Vision],
    *,
    picture_id: int,
    video_id: int,
    text_ids: int,
) -> Request:
    """A prompt of text and media in any order; every placeholder stands between two marks.

    Args:
        parts: the last one is the question, the first one the system's text.
        text_ids: text is made of ids below this.
    """
    random = Random(0)
    ids: list[int] = []
    media: list[Media] = []
    for part in parts:
        if isinstance(part, int):
            ids += [random.randrange(text_ids) for _ in range(part)]
            continue
        [seen] = look(Question(part[0], "", num_frames=part[1]))
        fit = processor.fit(len(seen.sample), seen.height, seen.width, picture=seen.picture)
        starts: list[int] = []
        for run in fit.runs:
            ids.append(random.randrange(text_ids))
            starts += range(len(ids), len(ids) + run, fit.unit_tokens)
            ids += [picture_id if seen.picture else video_id] * run
            ids.append(random.randrange(text_ids))
        media.append(as_media(seen, fit, tuple(starts)))
    assert isinstance(parts[-1], int)
    assert isinstance(parts[0], int)
    return text_request(ids, query_len=parts[-1], system_len=parts[0], media=tuple(media))
