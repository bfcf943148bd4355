"""An answer on the terminal: its stages, its text as it comes, its plan; or as JSON."""

import sys
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import typer

from spava_app.api.answer import Answer
from spava_app.cli.terminal import Stages, format_timings, print_json, speaks
from spava_app.errors import SpavaWarning


class AskCall(Protocol):
    """A question, to be asked with `on_event` and `on_text`."""

    def __call__(self, **hooks: Any) -> Answer: ...


def show_answer(ask: AskCall, stages: Stages, *, as_json: bool) -> None:
    """AskCall, and show what comes."""
    streams = sys.stdout is not None and sys.stdout.isatty() and not as_json
    begun = False

    def show(piece: str) -> None:
        nonlocal begun
        if not begun:
            piece = piece.lstrip()
        if piece:
            if not begun:
                stages.hide()  # a spinner would be drawn over the text
            begun = True
            typer.echo(piece, nl=False, color=True)

    with warnings_in_result():
        answer = ask(on_event=stages.begin, on_text=show if streams else None)
    if begun:
        typer.echo()
    stages.end()
    stages.note(f"{answer.plan}\n{format_timings(answer.timings)}")
    if usage := _reused(answer):
        stages.note(usage)
    if as_json:
        print_json(answer.to_dict())
        return
    show_warnings(answer.warnings)
    if not begun:
        # Verbatim where it is piped: typer by itself takes colours out of it.
        typer.echo(answer.text, color=True)
    if answer.usage.finish_reason == "length" and speaks():
        count = answer.usage.answer_tokens
        stopped = f"stopped at {count} token{'s' * (count != 1)}"
        typer.echo(f"{stopped}; --max-new-tokens N allows more", err=True)


@contextmanager
def warnings_in_result() -> Iterator[None]:
    """Leave out the package's own warnings in the `with` block: what is asked for there has them,
    and they are shown with it.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SpavaWarning)
        yield


def show_warnings(told: Iterable[str]) -> None:
    """A line on stderr for each."""
    for warning in told if speaks() else ():
        typer.echo(f"warning: {warning}", err=True)


def _reused(answer: Answer) -> str:
    usage = answer.usage
    if not usage.frames_reused:
        return ""
    seen = usage.frames_reused + usage.frames_encoded
    return f"embeddings of {usage.frames_reused} of {seen} frames reused from an earlier question"
