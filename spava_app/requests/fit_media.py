"""A prompt that the model takes: media are given as much room as its text leaves."""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, Self, TypeVar

from spava_app.engine.multimodal.processors import Fit, Processor
from spava_app.engine.multimodal.token_budget import Wish, least_tokens, share
from spava_app.engine.video.sample import FrameSample
from spava_app.requests.prompt import Prompt


class Looked(Protocol):
    """A file that was looked at, and the frames that are wished for."""

    @property
    def height(self) -> int: ...
    @property
    def width(self) -> int: ...
    @property
    def sample(self) -> FrameSample: ...
    @property
    def picture(self) -> bool: ...
    @property
    def max_pixels(self) -> int | None: ...

    def with_frames(self, num_frames: int) -> Self:
        """The same file with at most so many frames, evenly spaced."""
        ...


File = TypeVar("File", bound=Looked)


@dataclass(frozen=True)
class FittedPrompt(Generic[File]):
    """What fits.

    Attributes:
        files: with the frames that are used.
        fits: how each becomes tokens.
        lowered: per file, which of "size" and "frames" are less than wished for.
        prompt: around all of them.
    """

    files: tuple[File, ...]
    fits: tuple[Fit, ...]
    lowered: tuple[tuple[str, ...], ...]
    prompt: Prompt


def wish_of(file: Looked, *, all_frames: bool = False) -> Wish:
    """What is wished for of a file."""
    frames = len(file.sample)
    return Wish(frames, file.height, file.width, file.picture, all_frames, file.max_pixels)


def fit_prompt(
    processor: Processor | None,
    build: Callable[[Sequence[Fit]], Prompt],
    files: Sequence[File],
    *,
    room: int,
    max_visual_tokens: int | None,
    all_frames: bool,
) -> FittedPrompt[File] | None:
    """The prompt with as much of the files as it has room for, by the rule of `token_budget`.

    Args:
        processor: None for a text model.
        build: the prompt around media.
        room: tokens that the prompt may have.
        max_visual_tokens: that its media may have.
        all_frames: whether fewer frames are no answer.

    Returns:
        None where even the least does not fit.
    """
    if processor is None or not files:
        prompt = build(())
        return FittedPrompt((), (), (), prompt) if len(prompt.token_ids) <= room else None
    wishes = [wish_of(file, all_frames=all_frames) for file in files]
    full = [wish.fit(processor, None) for wish in wishes]
    least = least_tokens(processor, wishes)
    budget = room if max_visual_tokens is None else min(room, max_visual_tokens)
    while rooms := share(processor, wishes, budget):
        used, fits = [], []
        for file, given in zip(files, rooms, strict=True):
            if given.num_frames < len(file.sample):
                file = file.with_frames(given.num_frames)
            used.append(file)
            fits.append(wish_of(file).fit(processor, given.max_unit_tokens))
        prompt = build(fits)
        # Text comes with the media: marks, and a line for each frame of some models.
        over = len(prompt.token_ids) - room
        if over <= 0:
            lowered = [
                ("size",) * (fit.size != own.size or fit.grid[1:] != own.grid[1:])
                + ("frames",) * (len(file.sample) < wish.num_frames)
                for file, fit, own, wish in zip(used, fits, full, wishes, strict=True)
            ]
            return FittedPrompt(tuple(used), tuple(fits), tuple(lowered), prompt)
        taken = sum(sum(fit.runs) for fit in fits)
        budget = taken - over
        if taken > least:
            # With fewer frames there is less text too: the least may fit all the same.
            budget = max(budget, least)
    return None


def least_prompt(
    processor: Processor | None,
    build: Callable[[Sequence[Fit]], Prompt],
    files: Sequence[File],
    *,
    all_frames: bool,
) -> Prompt:
    """The prompt around the least of the files, text that comes with them included."""
    if processor is None or not files:
        return build(())
    wishes = [wish_of(file, all_frames=all_frames) for file in files]
    least = fit_prompt(
        processor,
        build,
        files,
        room=sys.maxsize,
        max_visual_tokens=least_tokens(processor, wishes),
        all_frames=all_frames,
    )
    assert least is not None  # there is room for anything
    return least.prompt
