"""Many questions, grouped by what they are about."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from spava_app.api.answer import Answer
from spava_app.api.session import Session
from spava_app.engine.video.array_files import ArrayFiles
from spava_app.errors import InvalidInput, SpavaError
from spava_app.requests.media_input import Files, MediaInput, Question, look
from spava_app.requests.options import AskOptions

OnAnswer = Callable[[int, Answer | SpavaError], None]


def ask_all(
    session: Session,
    pairs: Iterable[tuple[Files, str]],
    options: AskOptions,
    on_answer: OnAnswer | None,
) -> list[Answer | SpavaError]:
    """See `VideoQA.map`."""
    if on_answer is not None and not callable(on_answer):
        raise InvalidInput("on_answer", on_answer, "give a function")
    stops = options.get("stop_strings", ())
    if isinstance(stops, Iterator):  # which the first question would use up
        options = {**options, "stop_strings": tuple(stops)}
    questions = [Question(*_pair(number, pair), **options) for number, pair in _numbered(pairs)]
    groups: dict[object, list[int]] = {}
    for number, asked in enumerate(questions):
        groups.setdefault(_same(asked.video), []).append(number)
    results: dict[int, Answer | SpavaError] = {}

    def tell(number: int, result: Answer | SpavaError) -> None:
        results[number] = result
        if on_answer is not None:
            on_answer(number, result)

    for numbers in groups.values():
        _ask_group(session, {number: questions[number] for number in numbers}, tell)
    return [results[number] for number in range(len(questions))]


def _ask_group(session: Session, group: dict[int, Question], tell: OnAnswer) -> None:
    """Questions about one video, which is looked at once."""
    with ArrayFiles() as arrays:
        seen: list[MediaInput] = []

        def looked(asked: Question) -> list[MediaInput]:
            if not seen:
                seen.extend(look(asked, arrays))
            return seen

        for number, asked in group.items():
            try:
                result: Answer | SpavaError = session._ask(asked, looked)
            except SpavaError as error:
                result = error
            tell(number, result)  # outside, so that what the caller's own function raises passes


def _numbered(pairs: object) -> Iterable[tuple[int, object]]:
    if not isinstance(pairs, Iterable) or isinstance(pairs, str):
        raise InvalidInput("pairs", pairs, "give (video, question) pairs")
    return enumerate(pairs)


def _pair(number: int, pair: object) -> tuple[Any, Any]:
    if not isinstance(pair, tuple | list) or len(pair) != 2:
        raise InvalidInput(f"pairs[{number}]", pair, "give (video, question)")
    return pair[0], pair[1]


def _same(video: Files) -> object:
    """What is equal for questions about the same video: a path, or the very same object."""
    if isinstance(video, str | Path):
        return str(video)
    if isinstance(video, Sequence):
        return tuple(map(_same, video))
    return id(video)
