"""From what a user asks to a request and its plan: all is decided before a worker sees it."""

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

from spava_app.engine.layout import PromptShape
from spava_app.engine.multimodal.processors import Fit, Processor
from spava_app.engine.multimodal.token_budget import least_tokens
from spava_app.engine.planning.method_choice import MethodChoice, Variant
from spava_app.engine.planning.plan import Plan, PlannedMedia
from spava_app.engine.planning.predictor import Predictor
from spava_app.engine.request import Request
from spava_app.engine.sampling import GREEDY
from spava_app.errors import InvalidInput, as_written
from spava_app.requests.fit_media import FittedPrompt, fit_prompt, least_prompt, wish_of
from spava_app.requests.media_input import MediaInput, Question, as_media
from spava_app.requests.prompt import Prompt, PromptBuilder

_RATE_STEPS = 1000  # per frame per second, when the largest rate that fits is named


@dataclass(frozen=True)
class Limit:
    """How long a prompt may be, in tokens, and whether that is for want of memory."""

    tokens: int
    memory: bool


@dataclass(frozen=True)
class Preparer:
    """Turns questions into requests for one model and one group of ranks.

    Attributes:
        max_tokens: that the model takes, the answer included.
        variants: prefill methods to choose from.
        predictor: what a request will take of time and memory.
    """

    prompts: PromptBuilder
    processor: Processor | None
    max_tokens: int
    variants: Sequence[Variant]
    predictor: Predictor

    def __call__(self, asked: Question, seen: Sequence[MediaInput]) -> tuple[Request, Plan]:
        """Decide.

        Args:
            seen: what the question is about, as it was looked at.

        Raises:
            InvalidInput: a text or a number that cannot be served, or for which memory lacks.
        """
        limit = self._limit(asked, seen)
        found = self._fit(asked, seen, limit)
        if found is None:
            raise self._too_much(asked, seen, limit)
        fitted, choice = found
        prompt = fitted.prompt
        media = tuple(map(as_media, fitted.files, fitted.fits, prompt.starts))
        request = Request(
            token_ids=prompt.token_ids,
            query_len=prompt.query_len,
            system_len=prompt.system_len,
            question_len=prompt.question_len,
            method=choice.variant.method.name,
            options=dict(choice.variant.options),
            max_new_tokens=asked.answer_len,
            stop_ids=self.prompts.stop_ids,
            media=media,
            sampling=asked.sampling or GREEDY,
        )
        return request, self._plan(request, fitted, choice)

    def _build(self, asked: Question, fits: Sequence[Fit]) -> Prompt:
        return self.prompts.build(asked.question, fits, asked.history, asked.text)

    def _limit(self, asked: Question, seen: Sequence[MediaInput]) -> Limit:
        """What the model takes, or what the ranks have memory for where that is less."""
        most = self.max_tokens - asked.answer_len
        text = self._build(asked, ())
        if len(text.token_ids) >= most:
            return Limit(most, memory=False)

        def shape_of(length: int) -> PromptShape:
            return _shape(text, seen, max(length, len(text.token_ids)))

        fits = [wish_of(file).fit(self.processor, None) for file in seen] if self.processor else []
        tokens = self.predictor.most_tokens(self.variants, shape_of, fits, asked.answer_len, most)
        return Limit(tokens, memory=tokens < most)

    def _fit(
        self, asked: Question, seen: Sequence[MediaInput], limit: Limit
    ) -> tuple[FittedPrompt[MediaInput], MethodChoice] | None:
        room = limit.tokens
        while fitted := fit_prompt(
            self.processor,
            partial(self._build, asked),
            seen,
            room=room,
            max_visual_tokens=asked.max_visual_tokens,
            all_frames=asked.all_frames,
        ):
            length = len(fitted.prompt.token_ids)
            shape = _shape(fitted.prompt, seen, length)
            choice = self.predictor.choose(self.variants, shape, fitted.fits, asked.answer_len)
            if choice is not None:
                return fitted, choice
            # Frames that were shrunk are encoded in other steps than those the limit was found for.
            room = length * 99 // 100
        return None

    def _too_much(self, asked: Question, seen: Sequence[MediaInput], limit: Limit) -> InvalidInput:
        """Why it does not fit: the frames that were asked for, memory, else the question."""
        if asked.all_frames and (most := self._largest(asked, seen, limit)):
            name, value = ("num_frames", asked.num_frames)
            if asked.fps is not None:
                name, value, most = "fps", asked.fps, most / _RATE_STEPS
            elif asked.num_frames is None:
                name, value = "frame_rule", asked.frame_rule
            place = f" into {self._memory()}" if limit.memory else ""
            fix = f"the most that fits{place} is {most}: look at fewer frames"
            return InvalidInput(name, value, fix)
        wishes = [wish_of(file, all_frames=asked.all_frames) for file in seen]
        least = least_tokens(self.processor, wishes) if self.processor else 0
        given = asked.max_visual_tokens
        if given is not None and given < least:
            return InvalidInput("max_visual_tokens", given, f"give at least {least} for these")
        # Counted, not summed: marks around media, and lines of text for frames, come on top.
        smallest = least_prompt(
            self.processor, partial(self._build, asked), seen, all_frames=asked.all_frames
        )
        length, text = len(smallest.token_ids), len(self._build(asked, ()).token_ids)
        if limit.memory:
            predictor = self.predictor
            fix = (
                f"its weights take {_gib(predictor.weights)} on each rank, and with a prompt of "
                f"{length} tokens it does not fit into {self._memory()}: use a smaller model "
                "or free some memory"
            )
            return InvalidInput("model", predictor.name, fix)
        if (most := self.max_tokens - length) > 0:
            fix = f"the most that fits is {most}"
            return InvalidInput("max_new_tokens", asked.answer_len, fix)
        fix = (
            f"with the answer this is {text + asked.answer_len} tokens, what it is about needs "
            f"at least {length - text}, and the model takes {self.max_tokens}: "
            "ask a shorter question"
        )
        alone = replace(asked, text="")
        if asked.text and len(self._build(alone, ()).token_ids) < self.max_tokens:
            fix = (
                f"with the answer this is {text + asked.answer_len} tokens, and the model "
                f"takes {self.max_tokens}: shorten it"
            )
            return InvalidInput("text", asked.text, fix)
        return InvalidInput("question", asked.question, fix)

    def _memory(self) -> str:
        device = "GPU memory" if self.predictor.machine.device == "cuda" else "memory"
        return f"the {_gib(self.predictor.available)} of {device} that each rank may take"

    def _largest(self, asked: Question, seen: Sequence[MediaInput], limit: Limit) -> int:
        """The largest `num_frames`, or `fps` in steps, that fits; 0 if none."""

        def too_many(count: int) -> bool:
            how = {"num_frames": count} if asked.fps is None else {"fps": count / _RATE_STEPS}
            fewer = replace(asked, **how)
            return self._fit(fewer, [file.as_asked(fewer) for file in seen], limit) is None

        most = max(len(file.sample) for file in seen)
        if asked.fps is not None:
            most = math.ceil(as_written(min(asked.fps, 1e6)) * _RATE_STEPS)
        return bisect_right(range(1, most), False, key=too_many)

    def _plan(
        self, request: Request, fitted: FittedPrompt[MediaInput], choice: MethodChoice
    ) -> Plan:
        layout, method, predictor = choice.layout, choice.variant.method, self.predictor
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
        new = request.max_new_tokens
        memories = predictor.memory(method, layout, request.media, new)
        memory = tuple(one.total for one in memories)
        return Plan(
            media=tuple(media),
            max_new_tokens=new,
            sampling=request.sampling,
            chat_template=self.prompts.has_template,
            model=predictor.name,
            num_tokens=layout.num_tokens,
            num_visual=sum(medium.num_tokens for medium in media),
            query_len=request.query_len,
            method=method.name,
            world_size=layout.world_size,
            device=predictor.machine.device,
            anchor_len=layout.anchor_len,
            num_blocks=len(layout.blocks),
            block_len=len(layout.blocks[0]),
            passing_len=max(layout.passing, default=0),
            options=dict(choice.variant.options),
            why=choice.why,
            seconds=predictor.seconds(method, layout, request.media, new),
            rates=predictor.machine.origin,
            memory=memory,
            margin=predictor.margin(max(memory)),
            available=predictor.available,
        )


def _shape(prompt: Prompt, seen: Sequence[MediaInput], length: int) -> PromptShape:
    """Of a prompt around media, or of a longer one."""
    return PromptShape(
        num_tokens=length,
        query_len=prompt.query_len,
        system_len=prompt.system_len,
        question_len=prompt.question_len,
        has_video=any(not file.picture for file in seen),
    )


def _gib(size: int) -> str:
    return f"{size / 2**30:.2f} GiB"
