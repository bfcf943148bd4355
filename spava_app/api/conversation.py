"""Several questions about the same videos, which are looked at once."""

import threading
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Self

from typing_extensions import Unpack

from spava_app.api.answer import Answer
from spava_app.api.session import OnEvent, OnText, Session
from spava_app.api.streaming import Event, streamed
from spava_app.engine.media import stamp_of
from spava_app.engine.video.array_files import ArrayFiles
from spava_app.engine.workers.fair_lock import FairLock
from spava_app.errors import EngineError
from spava_app.forked import check_not_forked
from spava_app.requests.media_input import Files, MediaInput, Question, look
from spava_app.requests.options import AnswerOptions, FrameOptions, check_options


class Conversation:
    """Questions and answers about videos; made by `VideoQA.open`, use it as a context manager.

    Earlier turns are part of each prompt. What later questions reuse is which frames there are and,
    unless the model was told not to keep them, their visual embeddings: `Answer.usage` says of how
    many frames. The prefill is run anew for each, because what blocks pass on depends on the
    question. A file that was replaced meanwhile is looked at again.

    Attributes:
        history: (question, answer) pairs, oldest first; assign to it to change what was said.
    """

    def __init__(self, session: Session, video: Files, frames: FrameOptions) -> None:
        self.history: list[tuple[str, str]] = []
        self._session, self._about = session, Question(video, "", **frames).checked()
        self._open = ExitStack()
        self._arrays = self._open.enter_context(ArrayFiles())
        self._turns, self._closed = FairLock(), False
        self._seen: list[MediaInput] = []
        self._stamps: list[tuple[int, ...]] = []
        try:
            session._calls.call("open", self._look, type(None))
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Forget the videos; the model stays."""
        self._closed = True
        self._open.close()

    def ask(
        self,
        question: str,
        *,
        on_event: OnEvent | None = None,
        on_text: OnText | None = None,
        cancel: threading.Event | None = None,
        **options: Unpack[AnswerOptions],
    ) -> Answer:
        """The next question; arguments and errors as in `VideoQA.ask`. A question that fails leaves
        the conversation as it was.
        """
        check_not_forked()
        check_options(options, AnswerOptions, "a question of a conversation")
        with self._turns.turn(lambda: cancel is not None and cancel.is_set()):
            if self._closed:
                raise EngineError("the conversation was closed: open another")
            asked = Question(
                **{
                    **vars(self._about),
                    "question": question,
                    "history": tuple(self.history),
                    **options,
                }
            )
            answer = self._session._ask(
                asked, self._looked, on_event=on_event, on_text=on_text, cancel=cancel
            )
            self.history.append((question, answer.text))
        return answer

    def stream(self, question: str, **options: Unpack[AnswerOptions]) -> Iterator[Event]:
        """As `ask`, yielding what `VideoQA.stream` does."""
        return streamed(partial(self.ask, question, **options))

    def _looked(self, asked: Question) -> list[MediaInput]:
        if self._stamps != self._stamps_now():
            self._look()
        return self._seen

    def _look(self) -> None:
        stamps = self._stamps_now()
        self._seen = look(self._about, self._arrays)
        self._stamps = stamps

    def _stamps_now(self) -> list[tuple[int, ...]]:
        files = [medium for medium in self._about.media if isinstance(medium, str | Path)]
        return [stamp_of(path) for path in files]
