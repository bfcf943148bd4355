"""A whole request on the ranks of a test group."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from spava_app.engine.comm import Comm
from spava_app.engine.front_end import FrontEnd
from spava_app.engine.generate import Runner
from spava_app.engine.processors import Processor
from spava_app.engine.request import Request
from spava_app.engine.timing import StageTimer
from spava_app.engine.weights import load_model
from spava_app.errors import SpavaError


def generate(
    comm: Comm, folder: Path, processor: Processor | None, request: Request
) -> tuple[list[int], list[str]]:
    """The tokens this rank ends up with and the stages it reported."""
    stages: list[str] = []
    model = load_model(folder)
    front_end = None
    if model.vision is not None and processor is not None:
        front_end = FrontEnd(model.vision, processor, comm)
    runner = Runner(model.decoder, front_end, comm)
    timer = StageTimer(torch.device("cpu"), stages.append)
    return list(runner.run(request, timer)), stages


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
