"""A whole request on the ranks of a test group."""

from pathlib import Path

import torch

from spava_app.engine.comm import Comm
from spava_app.engine.front_end import FrontEnd
from spava_app.engine.generate import Runner
from spava_app.engine.request import Request
from spava_app.engine.timing import StageTimer
from spava_app.engine.video.pixel_config import PixelConfig
from spava_app.engine.weights import load_model
from spava_app.errors import SpavaError


def generate(
    comm: Comm, folder: Path, pixels: PixelConfig, request: Request
) -> tuple[list[int], list[str]]:
    """The tokens this rank ends up with and the stages it reported."""
    stages: list[str] = []
    model = load_model(folder)
    front_end = None if model.vision is None else FrontEnd(model.vision, pixels, comm)
    runner = Runner(model.decoder, front_end, comm)
    timer = StageTimer(torch.device("cpu"), stages.append)
    return list(runner.run(request, timer)), stages


def error_when_only_the_last_fails(
    comm: Comm, folder: Path, pixels: PixelConfig, good: Request, bad: Request
) -> str:
    """The class of the error that each rank meets when `bad` reaches the last one only."""
    try:
        generate(comm, folder, pixels, bad if comm.rank == comm.world_size - 1 else good)
    except SpavaError as error:
        return type(error).__name__
    return "no error"
