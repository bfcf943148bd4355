"""An answer on the terminal: its stages, its text as it comes, its plan; or as JSON."""

import sys
from typing import Any, Protocol

import typer

from spava_app.answer import Answer
from spava_app.terminal import Stages, format_timings, print_json, speaks


class Ask(Protocol):
    """A question, to be asked with `on_event` and `on_text`."""

    def __call__(self, **hooks: Any) -> Answer: ...


def show_answer(ask: Ask, stages: Stages, *, as_json: bool) -> None:
    """Ask, and show what comes."""
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
            typer.echo(piece, nl=False)

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
    for warning in answer.warnings if speaks() else ():
        typer.echo(f"warning: {warning}", err=True)
    if not begun:
        typer.echo(answer.text)


def _reused(answer: Answer) -> str:
    usage = answer.usage
    if not usage.frames_reused:
        return ""
    seen = usage.frames_reused + usage.frames_encoded
    return f"embeddings of {usage.frames_reused} of {seen} frames reused from an earlier question"
