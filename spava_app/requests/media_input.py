"""What a question is about: files, folders or frames, and which frames of them are looked at."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
from torch import Tensor

from spava_app.engine.media import FrameSource, Media
from spava_app.engine.multimodal.processors import Fit
from spava_app.engine.multimodal.token_budget import FLOOR_TOKENS
from spava_app.engine.sampling import Sampling
from spava_app.engine.video.array_files import ArrayFiles
from spava_app.engine.video.frames import Frames, natural_order
from spava_app.engine.video.probe import FolderInfo, PictureInfo, VideoInfo, look_at
from spava_app.engine.video.sample import FrameSample, sample_rule, sample_times
from spava_app.errors import InvalidInput, check_count, plain_number
from spava_app.requests.generation_config import GenerationDefaults
from spava_app.requests.options import DEFAULT_MAX_NEW_TOKENS
from spava_app.requests.tokenization.detokenizer import check_stops

DEFAULT_FPS = 2.0
MAX_FRAMES = 768  # as qwen-vl-utils; a longer video is sampled evenly
# Of a frame, in all supported towers: 2 x 2 patches of 14 x 14.
PIXELS_PER_TOKEN = 28 * 28

# A file or folder, frames, or several of these.
Medium = str | Path | Frames | np.ndarray | Tensor
Files = Medium | Sequence[Medium]


@dataclass(frozen=True)
class Question:
    """A question as a user asks it, with all that may be said with it; see `options`.

    Attributes:
        video: what it is about ...
        text: ... unless that is this text.
        warnings: to be said with the answer.
    """

    video: Files
    question: str
    text: str = ""
    history: Sequence[tuple[str, str]] = ()
    num_frames: int | None = None
    fps: float | None = None
    frame_rule: str | None = None
    max_pixels: int | None = None
    max_visual_tokens: int | None = None
    max_new_tokens: int | None = None
    sampling: Sampling | None = None
    stop_strings: Iterable[str] = ()
    method: str | None = None
    method_options: Mapping[str, object] | None = None
    warnings: tuple[str, ...] = ()

    def checked(self) -> Self:
        """The same with plain numbers, which can travel as JSON. Those of frames are not checked
        here, because what is right depends on the video.

        Raises:
            InvalidInput: numbers and kinds that are never right.
        """
        new_tokens = check_count("max_new_tokens", self.max_new_tokens, least=1)
        if not isinstance(self.frame_rule, str | None):
            raise InvalidInput("frame_rule", self.frame_rule, "give its name")
        tokens = check_count("max_visual_tokens", self.max_visual_tokens, least=1)
        least = FLOOR_TOKENS * PIXELS_PER_TOKEN
        pixels = check_count("max_pixels", self.max_pixels, least=least)
        if not isinstance(self.sampling, Sampling | None):
            raise InvalidInput("sampling", self.sampling, "give a spava_app.Sampling")
        return replace(
            self,
            num_frames=_plain(self.num_frames),
            fps=_plain(self.fps),
            max_pixels=pixels,
            max_visual_tokens=tokens,
            max_new_tokens=new_tokens,
            stop_strings=check_stops(self.stop_strings),
        )

    def completed(self, defaults: GenerationDefaults) -> Self:
        """The same with the checkpoint's own way of answering where the question does not say."""
        sampling = (self.sampling or Sampling()).over(defaults.sampling)
        new_tokens = self.max_new_tokens or defaults.max_new_tokens
        return replace(self, sampling=sampling, max_new_tokens=new_tokens)

    @property
    def answer_len(self) -> int:
        """Tokens that are kept free for the answer."""
        return self.max_new_tokens or DEFAULT_MAX_NEW_TOKENS

    @property
    def media(self) -> Sequence[Medium]:
        """What the question is about, one by one.

        Raises:
            InvalidInput: something that is none, or nothing.
        """
        given = self.video
        if self.text:
            return ()
        listed = isinstance(given, list | tuple) and any(
            isinstance(it, str) and not it for it in given
        )
        if listed or (isinstance(given, str) and not given):
            raise InvalidInput("video", given, "must not be empty")
        if isinstance(given, str | Path | Frames | np.ndarray | Tensor):
            return [given]
        several = isinstance(given, Sequence) and len(given) > 0
        if several and all(
            isinstance(it, str | Path | Frames | np.ndarray | Tensor) for it in given
        ):
            return given
        fix = "give the path of a video, a picture or a folder of pictures, Frames, or a list"
        raise InvalidInput("video", given, fix)

    @property
    def all_frames(self) -> bool:
        """Whether fewer frames would not be what was asked for."""
        return any(how is not None for how in (self.num_frames, self.fps, self.frame_rule))


def _plain(value: Any) -> Any:
    number = plain_number(value)
    return value if number is None else number


@dataclass(frozen=True)
class MediaInput:
    """What was looked at, and the frames that are used of it; a picture has no duration.

    Attributes:
        max_pixels: of a frame; None for the checkpoint's own limit.
    """

    path: str
    height: int
    width: int
    duration: float
    sample: FrameSample
    read: Callable[[Sequence[int]], FrameSource]
    info: VideoInfo | None = None
    max_pixels: int | None = None

    @property
    def picture(self) -> bool:
        return self.info is None

    @property
    def notes(self) -> tuple[str, ...]:
        """What a user should know of the file, as sentences."""
        told = self.info.notes if self.info else ()
        return tuple(f"{Path(self.path).name}: {note}" for note in told)

    def with_frames(self, num_frames: int) -> Self:
        """The same file with at most so many frames, evenly spaced."""
        if self.info is None:
            return self
        return replace(self, sample=sample_times(self.info, num_frames=num_frames))

    def as_asked(self, asked: Question) -> Self:
        """The same file with the frames that are asked for."""
        if self.info is None:
            return self
        return replace(self, sample=_choose(self.info, asked))


def look(asked: Question, arrays: ArrayFiles | None = None) -> list[MediaInput]:
    """Look at all that a question is about, and choose frames.

    Args:
        arrays: where an array is written down; to be kept until the answer.

    Raises:
        InvalidInput: wrong numbers of frames, an unknown rule, or an array of another kind.
        VideoError: something cannot be read.
    """
    seen = (_look(medium, asked, arrays) for medium in asked.media)
    return [replace(file, max_pixels=asked.max_pixels) for file in seen]


def _look(medium: Medium, asked: Question, arrays: ArrayFiles | None) -> MediaInput:
    if isinstance(medium, np.ndarray | Tensor):
        medium = Frames(medium)
    if isinstance(medium, Frames):
        return _look_at_frames("frames", medium, asked, arrays)
    info = look_at(medium)
    if isinstance(info, FolderInfo):
        paths = [Path(info.path, name) for name in natural_order(info.names)]
        return _look_at_frames(info.path, Frames(paths), asked, None)
    if isinstance(info, PictureInfo):
        only = FrameSample((0,), (0.0,), 0.0)
        return MediaInput(info.path, *info.shape, 0.0, only, lambda frames: info.source())
    sample = _choose(info, asked)
    return MediaInput(info.path, info.height, info.width, info.duration, sample, info.source, info)


def _look_at_frames(
    name: str, frames: Frames, asked: Question, arrays: ArrayFiles | None
) -> MediaInput:
    info = frames.info()
    sample = _choose(info, asked)

    def read(chosen: Sequence[int]) -> FrameSource:
        return frames.source(chosen, arrays)

    return MediaInput(name, *frames.shape(), info.duration, sample, read, info)


def _choose(info: VideoInfo, asked: Question) -> FrameSample:
    if asked.frame_rule is not None:
        if asked.fps is not None:
            raise InvalidInput("fps", asked.fps, "a frame_rule takes num_frames instead")
        return sample_rule(info, asked.frame_rule, asked.num_frames)
    if asked.num_frames is None and asked.fps is None:
        return sample_times(info, fps=DEFAULT_FPS, max_frames=MAX_FRAMES)
    return sample_times(info, num_frames=asked.num_frames, fps=asked.fps)


def as_media(file: MediaInput, fit: Fit, starts: tuple[int, ...]) -> Media:
    """What the ranks are told of a file that fits into the prompt in this way."""
    source = file.read(file.sample.frames)
    return Media(
        path=source.name,
        picture=file.picture,
        frames=file.sample.frames,
        times=file.sample.times,
        size=fit.size,
        grid=fit.grid,
        unit_tokens=fit.unit_tokens,
        starts=starts,
        source=source,
    )
