"""`spava ask`: a question about a video."""

from typing import Annotated

import typer

from spava_app.cli.option_groups import AnswerGroup, FrameGroup, ModelGroup, OutputGroup
from spava_app.cli.show_answer import show_answer
from spava_app.cli.terminal import Stages

# No Path: of nothing that would be the current folder.
Video = Annotated[str, typer.Argument(help="The video, a picture, or a folder of pictures.")]
NoCache = Annotated[
    bool, typer.Option("--no-cache", help="Keep no visual embeddings for the next question.")
]
EPILOG = 'Example: `spava ask talk.mp4 "Who speaks first?" --model ~/Qwen2.5-VL-3B`'


def ask(
    video: Video,
    question: Annotated[str, typer.Argument(help="What to ask about it, in quotes.")],
    model: ModelGroup,
    frames: FrameGroup,
    answer: AnswerGroup,
    output: OutputGroup,
    no_cache: NoCache = False,
) -> None:
    """Answer a question about a video.

    The answer goes to stdout, on a terminal as it comes; there, the stages with their times and the
    plan (frames, tokens, model, method) go to stderr. With `--json`, stdout is one object with
    `text`, `model`, `timings` in seconds, `plan`, `usage` and `warnings`.

    Without `--model` a small embedded model answers, which only reads the coloured cards of videos
    from `spava synth`; about any other video there is a warning.

    More frames see shorter events and cost more time. Options that name methods trade accuracy for
    speed, and are refused by methods that have no such option.
    """
    with Stages(quiet=output.as_json) as stages:
        stages.begin("load")
        from spava_app.api.video_qa import VideoQA

        with VideoQA(**model.keywords(), cache=not no_cache) as qa:
            options = {**frames.keywords(), **answer.keywords()}
            show_answer(
                lambda **hooks: qa.ask(video, question, **options, **hooks),
                stages,
                as_json=output.as_json,
            )
