"""`spava text`: a question about a text file."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from spava_app.cli.option_groups import AnswerGroup, ModelGroup, OutputGroup
from spava_app.cli.show_answer import show_answer
from spava_app.cli.terminal import Stages
from spava_app.errors import InvalidInput
from spava_app.requests.bounded_text import read_standard_input

EPILOG = 'Example: `spava text book.txt "Who is the narrator?" --model ~/Llama-3.1-8B-Instruct`'


def text(
    file: Annotated[str, typer.Argument(help="A UTF-8 text file; `-` for standard input.")],
    question: Annotated[str, typer.Argument(help="What to ask about it, in quotes.")],
    model: ModelGroup,
    answer: AnswerGroup,
    output: OutputGroup,
) -> None:
    """Answer a question about a long text.

    Takes the folder of a Llama, Qwen2 or Yi model, or its name on the Hugging Face hub. What
    is printed is as with `spava ask`.
    """
    with Stages(quiet=output.as_json) as stages:
        if not file:
            raise InvalidInput("text", file, "must not be empty: give the path of a file")
        about = _standard_input() if file == "-" else Path(file)
        stages.begin("load")
        from spava_app.api.text_qa import TextQA

        with TextQA(**model.keywords()) as qa:
            show_answer(
                lambda **hooks: qa.ask(about, question, **answer.keywords(), **hooks),
                stages,
                as_json=output.as_json,
            )


def _standard_input() -> str:
    # None is how Python says that the process was started without one.
    if sys.stdin is None:
        raise InvalidInput("text", "-", "standard input is closed: pipe a text, or name a file")
    return read_standard_input("text", sys.stdin.fileno())
