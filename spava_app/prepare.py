"""From what a user asks to a request and its plan: all is decided before a worker sees it."""

import math
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from spava_app.engine.budget import least_tokens
from spava_app.engine.parallel.base import Method
from spava_app.engine.plan import Plan, PlannedMedia
from spava_app.engine.processors import Fit, Processor
from spava_app.engine.request import Request
from spava_app.engine.sampler import Sampling
from spava_app.errors import InvalidInput
from spava_app.fitting import Fitted, fit_prompt, wish_of
from spava_app.looking import Asked, Seen, as_media, hashed
from spava_app.prompt import Prompt, PromptBuilder

_RATE_STEPS = 1000  # per frame per second, when the largest rate that fits is named


@dataclass(frozen=True)
class Preparer:
    """Turns questions into requests for one model and one way to run it.

    Attributes:
        max_tokens: that the model takes, the answer included.
        options: of the method, as given.
        cached: whether visual embeddings are kept, so that files are hashed.
    """

    prompts: PromptBuilder
    processor: Processor | None
    max_tokens: int
    method: Method
    options: Mapping[str, Any]
    ranks: int
    device: str
    cached: bool

    def __call__(self, asked: Asked, seen: Sequence[Seen]) -> tuple[Request, Plan]:
        """Decide.

        Args:
            seen: what the question is about, as it was looked at.

        Raises:
            InvalidInput: a text or a number that cannot be served.
        """
        fitted = self._fit(asked, seen)
        if fitted is None:
            raise self._too_much(asked, seen)
        prompt = fitted.prompt
        media = tuple(map(as_media, fitted.files, fitted.fits, prompt.starts))
        if self.cached:
            media = tuple(map(hashed, media))
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
            sampling=asked.sampling or Sampling(),
        )
        return request, self._plan(request, fitted)

    def _build(self, asked: Asked, fits: Sequence[Fit]) -> Prompt:
        return self.prompts.build(asked.question, fits, asked.history, asked.text)

    def _fit(self, asked: Asked, seen: Sequence[Seen]) -> Fitted[Seen] | None:
        return fit_prompt(
            self.processor,
            lambda fits: self._build(asked, fits),
            seen,
            room=self.max_tokens - asked.max_new_tokens,
            max_visual_tokens=asked.max_visual_tokens,
            all_frames=asked.all_frames,
        )

    def _too_much(self, asked: Asked, seen: Sequence[Seen]) -> InvalidInput:
        """Why it does not fit: the frames that were asked for, else the question."""
        if asked.all_frames and (most := self._largest(asked, seen)):
            name, value = ("num_frames", asked.num_frames)
            if asked.fps is not None:
                name, value, most = "fps", asked.fps, most / _RATE_STEPS
            elif asked.num_frames is None:
                name, value = "frame_rule", asked.frame_rule
            return InvalidInput(name, value, f"the most that fits is {most}: look at fewer frames")
        wishes = [wish_of(file, all_frames=asked.all_frames) for file in seen]
        least = least_tokens(self.processor, wishes) if self.processor else 0
        given = asked.max_visual_tokens
        if given is not None and given < least:
            return InvalidInput("max_visual_tokens", given, f"give at least {least} for these")
        text = len(self._build(asked, ()).token_ids)
        if (most := self.max_tokens - text - least) > 0:
            fix = f"the most that fits is {most}"
            return InvalidInput("max_new_tokens", asked.max_new_tokens, fix)
        fix = (
            f"with the answer this is {text + asked.max_new_tokens} tokens, what it is about needs "
            f"at least {least}, and the model takes {self.max_tokens}: ask a shorter question"
        )
        alone = replace(asked, text="")
        if asked.text and len(self._build(alone, ()).token_ids) < self.max_tokens:
            fix = (
                f"with the answer this is {text + asked.max_new_tokens} tokens, and the model "
                f"takes {self.max_tokens}: shorten it"
            )
            return InvalidInput("text", asked.text, fix)
        return InvalidInput("question", asked.question, fix)

    def _largest(self, asked: Asked, seen: Sequence[Seen]) -> int:
        """The largest `num_frames`, or `fps` in steps, that fits; 0 if none."""

        def too_many(count: int) -> bool:
            how = {"num_frames": count} if asked.fps is None else {"fps": count / _RATE_STEPS}
            fewer = replace(asked, **how)
            return self._fit(fewer, [file.as_asked(fewer) for file in seen]) is None

        most = max(len(file.sample) for file in seen)
        if asked.fps is not None:
            most = math.ceil(min(asked.fps, 1e6) * _RATE_STEPS)
        return bisect_right(range(1, most), False, key=too_many)

    def _plan(self, request: Request, fitted: Fitted[Seen]) -> Plan:
        layout = self.method.layout(request.shape, self.ranks)
        media = [
            PlannedMedia(
                path=file.path,
                duration=file.duration,
                num_frames=len(file.sample),
                interval=file.sample.interval,
                size=medium.size,
                num_tokens=medium.num_tokens,
                lowered=lowered,
            )
            for file, medium, lowered in zip(
                fitted.files, request.media, fitted.lowered, strict=True
            )
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
