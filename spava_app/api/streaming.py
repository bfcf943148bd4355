"""An answer while it is being made, as an iterator."""

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Protocol

from spava_app.api.answer import Answer


@dataclass(frozen=True)
class StageBegan:
    """A stage begins.

    Attributes:
        name: as in `Answer.timings`.
        seconds: since the question was asked.
    """

    name: str
    seconds: float


@dataclass(frozen=True)
class TextPiece:
    """The next piece of the answer's text."""

    text: str


Event = StageBegan | TextPiece | Answer


class Ask(Protocol):
    """A question that is ready to be asked."""

    def __call__(
        self,
        *,
        on_event: Callable[[str, float], None],
        on_text: Callable[[str], None],
        cancel: threading.Event,
    ) -> Answer: ...


def streamed(ask: Ask) -> Iterator[Event]:
    """Ask in a thread, and yield what it tells: stages and pieces of text, the answer last.

    When the caller closes the iterator, the question is taken back.
    """
    events: SimpleQueue[Event | BaseException] = SimpleQueue()
    cancel = threading.Event()

    def run() -> None:
        try:
            events.put(
                ask(
                    on_event=lambda name, seconds: events.put(StageBegan(name, seconds)),
                    on_text=lambda text: events.put(TextPiece(text)),
                    cancel=cancel,
                )
            )
        except BaseException as error:  # noqa: BLE001 (raised where the events are read)
            events.put(error)

    # A daemon: a caller that is interrupted need not wait for the end of a stage.
    threading.Thread(target=run, daemon=True).start()
    try:
        while True:
            event = events.get()
            if isinstance(event, BaseException):
                raise event
            yield event
            if isinstance(event, Answer):
                return
    finally:
        cancel.set()
