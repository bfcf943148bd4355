"""`spava demo`: questions about a generated video, and whether the answers are right."""

from typing import Annotated

import typer

from spava_app.cli.commands.synth import Seconds, Seed
from spava_app.cli.option_groups import OutputGroup, count_of_gpus
from spava_app.cli.terminal import Stages, print_json

EPILOG = "Example: `spava demo --seed 7 --cpu-ranks 4`"


def demo(
    output: OutputGroup,
    seed: Seed = 0,
    seconds: Seconds = 300,
    gpus: Annotated[
        str, typer.Option(help="How many GPUs: `auto` takes all there are, `0` none.")
    ] = "auto",
    cpu_ranks: Annotated[
        int | None,
        typer.Option(
            help="Processes that share the work where there is no GPU.",
            show_default="2, or those of torchrun",
        ),
    ] = None,
    method: Annotated[str, typer.Option(help="Prefill method; see `spava ask`.")] = "spava",
) -> None:
    """Answer questions about a generated video, and check the answers.

    Makes a video of moving noise in which coloured cards with digits show for a few seconds, asks
    the embedded model one question per card, and says which answers are right. Needs no GPU, no
    model and no network.

    Exits 0 when every answer is right, 1 otherwise.
    """
    with Stages(keep=False, quiet=output.as_json) as stages:
        stages.begin("load")
        from spava_app.cli.demo import print_report, run_demo

        report = run_demo(
            stages,
            seed=seed,
            seconds=seconds,
            gpus=count_of_gpus(gpus),
            cpu_ranks=cpu_ranks,
            method=method,
        )
    if output.as_json:
        print_json(report.to_dict())
    else:
        print_report(report)
    raise typer.Exit(0 if report.num_right == len(report.results) else 1)
