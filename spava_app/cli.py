"""The `spava` command. Each command reads its options, calls the library and prints; nothing is
decided here.

torch and the engine are imported inside the commands, so that `spava --help` answers at once.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from spava_app import __version__
from spava_app.errors import InvalidInput
from spava_app.terminal import (
    Stages,
    format_moment,
    format_timings,
    hush,
    print_json,
    reported_errors,
    speaks,
)

if TYPE_CHECKING:
    from spava_app.engine.video.cards import CardScene

app = typer.Typer(
    name="spava",
    help="Ask questions about long videos: the prefill is spread over several GPUs or processes.",
    epilog="Start with `spava demo`: it needs no model, no GPU and no network.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Model = Annotated[
    str,
    typer.Option(
        help="`embedded` (knows only card videos), a folder with a Qwen2.5-VL or InternVL3 model, "
        "or its name on the Hugging Face hub."
    ),
]
Ranks = Annotated[
    int | None,
    typer.Option(
        help="Processes that share the work: one per GPU, or on CPU.",
        show_default="2, or those of torchrun",
    ),
]
Method = Annotated[
    str,
    typer.Option(
        help="How the prefill attends: `spava`, `apb`, `star` (approximate), `ring`, "
        "`zigzag_ring`, `ulysses`, or `full` on one rank (exact)."
    ),
]
Device = Annotated[str, typer.Option(help="`auto`, `cpu` or `cuda`.")]
Seed = Annotated[int, typer.Option(help="The same seed makes the same video.")]
Seconds = Annotated[float, typer.Option(help="Length of the video.")]
AsJson = Annotated[
    bool, typer.Option("--json", help="Print one JSON object; an error is one JSON line on stderr.")
]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"spava {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Show the version and exit."
        ),
    ] = False,
) -> None:
    pass


@app.command(epilog='Example: `spava ask talk.mp4 "Who speaks first?" --model ~/Qwen2.5-VL-3B`')
def ask(
    video: Annotated[Path, typer.Argument(help="The video, a picture, or a folder of pictures.")],
    question: Annotated[str, typer.Argument(help="What to ask about it, in quotes.")],
    model: Model = "embedded",
    ranks: Ranks = None,
    method: Method = "spava",
    device: Device = "auto",
    fps: Annotated[
        float | None, typer.Option(help="Frames per second to look at.", show_default="chosen")
    ] = None,
    frames: Annotated[
        int | None,
        typer.Option(help="Frames to look at, instead of --fps.", show_default="chosen"),
    ] = None,
    max_visual_tokens: Annotated[
        int | None,
        typer.Option(
            help="Shrink frames, then take fewer, to fit into so many tokens.",
            show_default="what the model takes",
        ),
    ] = None,
    max_new_tokens: Annotated[int, typer.Option(help="Longest answer, in tokens.")] = 64,
    passing_fraction: Annotated[
        float | None,
        typer.Option(
            help="spava, apb: share of each block passed on, 0 (fastest) to 1 (spava: exact).",
            show_default="from the length",
        ),
    ] = None,
    passing_len: Annotated[
        int | None,
        typer.Option(
            help="spava, apb: tokens of each block passed on, instead of --passing-fraction.",
            show_default="from the length",
        ),
    ] = None,
    anchor_len: Annotated[
        int | None,
        typer.Option(
            help="spava, apb, star: first tokens, which every block sees.",
            show_default="from the length",
        ),
    ] = None,
    virtual_hosts: Annotated[
        int | None,
        typer.Option(
            help="spava, apb, star: blocks the context is cut in; more, less attention work.",
            show_default="2 x ranks",
        ),
    ] = None,
    allow_pickle: Annotated[
        bool,
        typer.Option(
            "--allow-pickle", help="Load *.bin weights if there is no safetensors, tensors only."
        ),
    ] = False,
    cache: Annotated[
        bool, typer.Option(help="Keep visual embeddings for the next question.")
    ] = True,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Answer a question about a video.

    The answer goes to stdout; on a terminal, the stages with their times and the plan (frames,
    tokens, method) go to stderr. With `--json`, stdout is one object with `text`, `timings` in
    seconds, `plan` and `usage`.

    More frames see shorter events and cost more time. Options that name methods trade accuracy for
    speed, and are refused by methods that have no such option.
    """
    options = {
        "passing_fraction": passing_fraction,
        "passing_len": passing_len,
        "anchor_len": anchor_len,
        "virtual_hosts": virtual_hosts,
    }
    given = {name: value for name, value in options.items() if value is not None}
    with reported_errors(as_json=as_json, debug=debug):
        with Stages() as stages:
            stages.begin("load")
            from spava_app.api import VideoQA

            with VideoQA(
                model,
                ranks=ranks,
                method=method,
                device=device,
                method_options=given,
                allow_pickle=allow_pickle,
                cache=cache,
            ) as qa:
                answer = qa.ask(
                    video,
                    question,
                    num_frames=frames,
                    fps=fps,
                    max_visual_tokens=max_visual_tokens,
                    max_new_tokens=max_new_tokens,
                    on_event=stages.begin,
                )
            stages.end()
            stages.note(f"{answer.plan}\n{format_timings(answer.timings)}")
        if as_json:
            print_json(answer.to_dict())
            return
        for warning in answer.warnings if speaks() else ():
            typer.echo(f"warning: {warning}", err=True)
        typer.echo(answer.text)


@app.command(epilog="Example: `spava demo --seed 7 --ranks 4`")
def demo(
    seed: Seed = 0,
    seconds: Seconds = 300,
    ranks: Ranks = None,
    method: Method = "spava",
    device: Device = "auto",
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Answer questions about a generated video, and check the answers.

    Makes a video of moving noise in which coloured cards with digits show for a few seconds, asks
    the embedded model one question per card, and says which answers are right. Needs no GPU, no
    model and no network.

    Exits 0 when every answer is right, 1 otherwise.
    """
    with reported_errors(as_json=as_json, debug=debug):
        with Stages(keep=False) as stages:
            stages.begin("load")
            from spava_app.demo import print_report, run_demo

            report = run_demo(
                stages, seed=seed, seconds=seconds, ranks=ranks, method=method, device=device
            )
        if as_json:
            print_json(report.to_dict())
        else:
            print_report(report)
    raise typer.Exit(0 if report.num_right == len(report.results) else 1)


@app.command(epilog="Example: `spava synth cards.mp4 --seconds 3600 --cards 8 --seed 3`")
def synth(
    out: Annotated[Path, typer.Argument(metavar="OUT.mp4", help="The file to write.")],
    seconds: Seconds = 300,
    cards: Annotated[int, typer.Option(help="How many cards show, each in its own colour.")] = 5,
    seed: Seed = 0,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Write a synthetic card video, with a right answer for every question about it.

    Coloured cards with digits show for a few seconds each in moving noise. Prints which card shows
    when, with the question about it and the right answer, so that any method can be checked on a
    video of any length. A card shows for 3 to 6 seconds: ask about a long video with `--fps 0.5`
    or more, because by default an hour is looked at every 4.7 seconds.
    """
    with reported_errors(as_json=as_json, debug=debug):
        if out.suffix.lower() != ".mp4":
            raise InvalidInput("OUT", str(out), "name a file that ends in .mp4")
        if not out.parent.is_dir():
            raise InvalidInput("OUT", str(out), "its folder does not exist: make it first")
        with Stages() as stages:
            stages.begin("load")
            from spava_app.engine.video.cards import random_scene, write_video

            scene = random_scene(seconds, cards, seed)
            stages.begin("write video")
            try:
                write_video(scene, out)
            except OSError as error:
                raise InvalidInput("OUT", str(out), f"cannot be written ({error})") from error
        _print_scene(scene, out, as_json=as_json)


def _print_scene(scene: "CardScene", path: Path, *, as_json: bool) -> None:
    if as_json:
        cards = [
            {
                "color": card.color,
                "digit": card.digit,
                "start": card.start,
                "end": card.end,
                "question": card.question,
                "answer": card.answer,
            }
            for card in scene.cards
        ]
        print_json(
            {"path": str(path), "seconds": scene.seconds, "seed": scene.seed, "cards": cards}
        )
        return
    typer.echo(f"{path}: {format_moment(scene.seconds)}, {len(scene.cards)} cards")
    for card in scene.cards:
        shown = f"{format_moment(card.start)} to {format_moment(card.end)}"
        typer.echo(f"  {shown}  {card.question} {card.answer}")


def main() -> None:
    """Entry point of `spava` and of `python -m spava_app`."""
    hush()
    app(prog_name="spava")
