"""`spava synth`: a video with known answers."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from spava_app.cli.option_groups import OutputGroup
from spava_app.cli.terminal import Stages, format_moment, print_json
from spava_app.errors import InvalidInput
from spava_app.output_file import EXISTS, check_output

if TYPE_CHECKING:
    from spava_app.engine.synthetic.cards import CardScene

Seed = Annotated[int, typer.Option(help="The same seed makes the same video.")]
Seconds = Annotated[float, typer.Option(help="Length of the video.")]
EPILOG = "Example: `spava synth cards.mp4 --seconds 3600 --cards 8 --seed 3`"


def synth(
    out: Annotated[str, typer.Argument(metavar="OUT.mp4", help="The file to write.")],
    output: OutputGroup,
    seconds: Seconds = 300,
    cards: Annotated[int, typer.Option(help="How many cards show, each in its own colour.")] = 5,
    seed: Seed = 0,
    force: Annotated[bool, typer.Option("--force", help="Overwrite OUT.mp4 if it exists.")] = False,
) -> None:
    """Write a synthetic card video, with a right answer for every question about it.

    Coloured cards with digits show for a few seconds each in moving noise. Prints which card shows
    when, with the question about it and the right answer, so that any method can be checked on a
    video of any length. A card shows for 3 to 6 seconds: ask about a long video with `--fps 0.5`
    or more, because by default an hour is looked at every 4.7 seconds.
    """
    path = Path(out)
    if path.suffix.lower() != ".mp4":
        raise InvalidInput("OUT", out, "name a file that ends in .mp4")
    if not path.parent.is_dir():
        raise InvalidInput("OUT", out, "its folder does not exist: make it first")
    if not path.is_dir():
        check_output("OUT", out, force=force)
    with Stages(quiet=output.as_json) as stages:
        stages.begin("load")
        from spava_app.engine.synthetic.cards import random_scene, write_video

        scene = random_scene(seconds, cards, seed)
        stages.begin("write video")
        try:
            write_video(scene, path, force=force)
        except FileExistsError:  # it appeared while the video was made
            raise InvalidInput("OUT", out, EXISTS) from None
        except OSError as error:
            # Not all of it: it names the file beside it that is written first.
            why = error.strerror or error
            raise InvalidInput("OUT", out, f"cannot be written ({why})") from error
    _print_scene(scene, path, as_json=output.as_json)


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
