"""What the driver sends to the workers: one small JSON message per request, never a tensor."""

import json
from dataclasses import asdict, dataclass, field
from typing import Any, Self

from spava_app.engine.layout import PromptShape
from spava_app.engine.models.positions import Span, TextSpan, VideoSpan
from spava_app.engine.sampler import Sampling


@dataclass(frozen=True)
class Request:
    """A question about a video, fully decided: every rank does the same with it.

    Attributes:
        video: path of the file.
        frames: which frames of the file's index are sampled, ascending.
        times: seconds of each sampled frame.
        interval: mean seconds between sampled frames.
        size: (height, width) in pixels that frames are resized to.
        grid: (units, patch rows, patch columns) of the whole video.
        token_ids: the whole prompt, with one id per visual token.
        video_start: index of the first visual token.
        num_visual: how many there are.
        query_len, system_len, question_len: as in `PromptShape`.
        method, options: the prefill method.
        max_new_tokens, stop_ids: when generation ends.
        sampling: how a token is chosen.
    """

    video: str
    frames: tuple[int, ...]
    times: tuple[float, ...]
    interval: float
    size: tuple[int, int]
    grid: tuple[int, int, int]
    token_ids: tuple[int, ...]
    video_start: int
    num_visual: int
    query_len: int
    system_len: int
    question_len: int
    method: str
    options: dict[str, Any]
    max_new_tokens: int
    stop_ids: tuple[int, ...]
    sampling: Sampling = field(default_factory=Sampling)

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Self:
        fields: dict[str, Any] = json.loads(text)
        for name, value in fields.items():
            if isinstance(value, list):
                fields[name] = tuple(value)
        fields["sampling"] = Sampling(**fields["sampling"])
        return cls(**fields)

    @property
    def shape(self) -> PromptShape:
        """What the method needs to know of the prompt."""
        return PromptShape(
            num_tokens=len(self.token_ids),
            query_len=self.query_len,
            system_len=self.system_len,
            question_len=self.question_len,
            has_video=self.num_visual > 0,
        )

    @property
    def visual(self) -> range:
        """Token indices of the video."""
        return range(self.video_start, self.video_start + self.num_visual)

    def spans(self, frames_per_unit: int, merge_size: int) -> tuple[Span, ...]:
        """The prompt as text, video, text, for multimodal positions. A unit's time is its first
        frame's.
        """
        if not self.num_visual:
            return (TextSpan(len(self.token_ids)),)
        _, rows, cols = self.grid
        unit_times = self.times[::frames_per_unit]
        return (
            TextSpan(self.video_start),
            VideoSpan(
                tuple(time - unit_times[0] for time in unit_times),
                rows // merge_size,
                cols // merge_size,
            ),
            TextSpan(len(self.token_ids) - self.visual.stop),
        )
