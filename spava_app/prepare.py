"""From what a user asks to a request and its plan: all is decided before a worker sees it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from spava_app.engine.media import Media
from spava_app.engine.parallel.base import Method
from spava_app.engine.plan import Plan, PlannedMedia
from spava_app.engine.processors import Fit, Processor
from spava_app.engine.request import Request
from spava_app.engine.sampler import Sampling
from spava_app.engine.video.frame_source import FrameSource
from spava_app.engine.video.frames import Frames, natural_order
from spava_app.engine.video.probe import FolderInfo, PictureInfo, VideoInfo, look_at
from spava_app.engine.video.sample import FrameSample, sample_times
from spava_app.errors import InvalidInput
from spava_app.prompt import Prompt, PromptBuilder

DEFAULT_FPS = 2.0
MAX_FRAMES = 768  # as qwen-vl-utils; a longer video is sampled evenly

# A file or folder, frames, or several of these.
Medium = str | Path | Frames | np.ndarray | Tensor
Files = Medium | Sequence[Medium]


@dataclass(frozen=True)
class Asked:
    """A question as a user asks it; see `VideoQA.ask`."""

    video: Files
    question: str
    history: Sequence[tuple[str, str]]
    num_frames: int | None
    fps: float | None
    max_new_tokens: int
    sampling: Sampling


@dataclass(frozen=True)
class Seen:
    """What was looked at, and the frames that are used of it; a picture has no duration."""

    path: str
    height: int
    width: int
    duration: float
    sample: FrameSample
    source: FrameSource

    @property
    def picture(self) -> bool:
        return self.duration == 0


@dataclass(frozen=True)
class Preparer:
    """Turns questions into requests for one model and one way to run it.

    Attributes:
        max_tokens: that the model takes, the answer included.
        options: of the method, as given.
    """

    prompts: PromptBuilder
    processor: Processor
    max_tokens: int
    method: Method
    options: Mapping[str, Any]
    ranks: int
    device: str

    def __call__(self, asked: Asked, scratch: Path) -> tuple[Request, Plan]:
        """Decide.

        Args:
            scratch: a folder for frames that were given as arrays; to be kept until the answer.

        Raises:
            InvalidInput: a text or a number that cannot be served.
            VideoError: a file that cannot be read.
        """
        self.prompts.check(asked.question, asked.history)  # told before a file is read
        seen = [look(it, asked.num_frames, asked.fps, scratch) for it in _media(asked.video)]
        fits = [
            self.processor.fit(len(file.sample), file.height, file.width, picture=file.picture)
            for file in seen
        ]
        prompt = self.prompts.build(asked.question, fits, asked.history)
        self._check_length(prompt, seen, asked)
        media = tuple(map(as_media, seen, fits, prompt.starts))
        request = Request(
            token_ids=prompt.token_ids,
            query_len=prompt.query_len,
            system_len=prompt.system_len,
            question_len=prompt.question_len,
            method=self.method.name,
            options=dict(self.options),
            max_new_tokens=asked.max_new_tokens,
            stop_ids=self.prompts.stop_ids,
            media=media,
            sampling=asked.sampling,
        )
        return request, self._plan(request, seen)

    def _check_length(self, prompt: Prompt, seen: Sequence[Seen], asked: Asked) -> None:
        total = len(prompt.token_ids) + asked.max_new_tokens
        if total > self.max_tokens:
            frames = sum(len(file.sample) for file in seen)
            fix = (
                f"with {frames} frames and the answer this is {total} tokens, the model "
                f"takes {self.max_tokens}: look at fewer frames or ask a shorter question"
            )
            raise InvalidInput("question", _shortened(asked.question), fix)

    def _plan(self, request: Request, seen: Sequence[Seen]) -> Plan:
        layout = self.method.layout(request.shape, self.ranks)
        media = [
            PlannedMedia(
                path=file.path,
                duration=file.duration,
                num_frames=len(file.sample),
                interval=file.sample.interval,
                size=medium.size,
                num_tokens=medium.num_tokens,
            )
            for file, medium in zip(seen, request.media, strict=True)
        ]
        return Plan(
            media=tuple(media),
            num_tokens=layout.num_tokens,
            num_visual=sum(medium.num_tokens for medium in media),
            query_len=request.query_len,
            method=self.method.name,
            world_size=self.ranks,
            device=self.device,
            anchor_len=layout.anchor_len,
            num_blocks=len(layout.blocks),
            block_len=len(layout.blocks[0]),
            passing_len=max(layout.passing, default=0),
            options=dict(self.options),
        )


def look(
    medium: Medium, num_frames: int | None, fps: float | None, scratch: Path | None = None
) -> Seen:
    """Look at a file, a folder of pictures or frames, and choose frames.

    Args:
        scratch: a folder to write into, which an array needs.

    Raises:
        InvalidInput: wrong numbers of frames, or an array of another kind.
        VideoError: it cannot be read.
    """
    if isinstance(medium, np.ndarray | Tensor):
        medium = Frames(medium)
    if isinstance(medium, Frames):
        return _look_at_frames("frames", medium, num_frames, fps, scratch)
    info = look_at(medium)
    if isinstance(info, FolderInfo):
        paths = [Path(info.path, name) for name in natural_order(info.names)]
        return _look_at_frames(info.path, Frames(paths), num_frames, fps, None)
    if isinstance(info, PictureInfo):
        sample = FrameSample((0,), (0.0,), 0.0)
        return Seen(info.path, *info.shape, 0.0, sample, info.source())
    sample = _sample(info, num_frames, fps)
    source = info.source(sample.frames)
    return Seen(info.path, info.height, info.width, info.duration, sample, source)


def _look_at_frames(
    name: str, frames: Frames, num_frames: int | None, fps: float | None, scratch: Path | None
) -> Seen:
    info = frames.info()
    sample = _sample(info, num_frames, fps)
    source = frames.source(sample.frames, scratch)
    return Seen(name, *source.shape, info.duration, sample, source)


def _sample(info: VideoInfo, num_frames: int | None, fps: float | None) -> FrameSample:
    if num_frames is None and fps is None:
        return sample_times(info, fps=DEFAULT_FPS, max_frames=MAX_FRAMES)
    return sample_times(info, num_frames=num_frames, fps=fps)


def _media(video: Files) -> Sequence[Medium]:
    if isinstance(video, str | Path | Frames | np.ndarray | Tensor):
        return [video]
    several = isinstance(video, Sequence) and len(video) > 0
    if several and all(isinstance(it, str | Path | Frames | np.ndarray | Tensor) for it in video):
        return video
    fix = "give the path of a video or picture, a folder of pictures, Frames, or a list of these"
    raise InvalidInput("video", video, fix)


def as_media(file: Seen, fit: Fit, starts: tuple[int, ...]) -> Media:
    """What the ranks are told of a file that fits into the prompt in this way."""
    return Media(
        path=file.source.name,
        picture=file.picture,
        frames=file.sample.frames,
        times=file.sample.times,
        size=fit.size,
        grid=fit.grid,
        unit_tokens=fit.unit_tokens,
        starts=starts,
        source=file.source,
    )


def _shortened(text: str, limit: int = 60) -> str:
    return text if len(text) <= limit else f"{text[:limit]}..."
