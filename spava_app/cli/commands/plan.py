"""`spava plan`: what a question would take, before anything runs."""

from typing import Annotated

import typer

from spava_app.cli.commands.ask import Video
from spava_app.cli.option_groups import AnswerGroup, FrameGroup, ModelGroup, OutputGroup
from spava_app.cli.show_answer import show_warnings, warnings_in_result
from spava_app.cli.terminal import Stages, print_json

EPILOG = 'Example: `spava plan talk.mp4 --question "Who speaks first?" --frames 128`'


def plan(
    video: Video,
    model: ModelGroup,
    frames: FrameGroup,
    answer: AnswerGroup,
    output: OutputGroup,
    question: Annotated[
        str, typer.Option(help="What would be asked; its length counts.")
    ] = "What happens?",
) -> None:
    """Say what `spava ask` would do with a video, and run nothing.

    Looks at the file and prints how many frames of which size would be looked at, how many tokens
    that is, and how the prefill would be spread over the ranks. Options are those of `spava ask`.
    """
    with Stages(quiet=output.as_json) as stages:
        stages.begin("load")
        from spava_app.api.video_qa import VideoQA

        with VideoQA(**model.keywords()) as qa:
            stages.begin("probe")
            with warnings_in_result():
                found = qa.plan(video, question, **frames.keywords(), **answer.keywords())
    if output.as_json:
        print_json(found.to_dict())
    else:
        typer.echo(found)
        show_warnings(found.warnings)
