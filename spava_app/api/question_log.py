"""The log of one question: its stages, its plan and its usage, and never its text above DEBUG."""

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count

from spava_app.api.answer import Answer
from spava_app.engine.planning.plan import Plan
from spava_app.errors import InvalidInput, SpavaError

logger = logging.getLogger(__name__)
_numbers = count(1)


class QuestionLog:
    """Logs as one question goes on."""

    def __init__(self) -> None:
        self._name = f"question {next(_numbers)}"
        self._stage, self._since = "", 0.0

    def begin(self, stage: str) -> None:
        """A stage begins, and with it the one before ends."""
        now = time.perf_counter()
        if self._stage:
            logger.info("%s: %s %.2f s", self._name, self._stage, now - self._since)
        if stage:
            logger.debug("%s: %s begins", self._name, stage)
        self._stage, self._since = stage, now

    def planned(self, plan: Plan, question: str) -> None:
        """What will be done."""
        frames = sum(medium.num_frames for medium in plan.media)
        logger.info(
            "%s: %d frames, %d tokens (%d visual), method %s on %d x %s",
            self._name,
            frames,
            plan.num_tokens,
            plan.num_visual,
            plan.method,
            plan.world_size,
            plan.device,
        )
        logger.debug("%s: %r, %s", self._name, question, plan)

    def answered(self, answer: Answer) -> None:
        """What it took."""
        self.begin("")
        usage = answer.usage
        logger.info(
            "%s: answered in %.2f s: %d prompt tokens, %d new tokens (%s), %d frames encoded, "
            "%d reused from the cache",
            self._name,
            answer.timings["total"],
            usage.prompt_tokens,
            usage.answer_tokens,
            usage.finish_reason,
            usage.frames_encoded,
            usage.frames_reused,
        )
        for warning in answer.warnings:
            logger.warning("%s: %s", self._name, warning)
        logger.debug("%s: %r", self._name, answer.text)

    def failed(self, error: BaseException) -> None:
        """It was not answered."""
        # What the caller gave wrong may be the question itself, and is quoted in the message.
        told = isinstance(error, SpavaError) and not isinstance(error, InvalidInput)
        why = f"{type(error).__name__}: {error}" if told else type(error).__name__
        logger.warning("%s: failed in %s: %s", self._name, self._stage or "its options", why)
        logger.debug("%s: %s", self._name, error)


@contextmanager
def question_logged() -> Iterator[QuestionLog]:
    """Log a question that is asked in the `with` block, and how it failed if it does."""
    log = QuestionLog()
    try:
        yield log
    except BaseException as error:
        log.failed(error)
        raise
