"""`spava doctor`: what this machine has for the work, and how fast it is."""

from typing import Annotated

import typer

from spava_app.cli.option_groups import OutputGroup
from spava_app.cli.terminal import Stages, print_json

EPILOG = "Example: `spava doctor --calibrate`, once for each machine"


def doctor(
    output: OutputGroup,
    calibrate: Annotated[
        bool,
        typer.Option(
            "--calibrate", help="Also measure how fast the machine is, in under a minute."
        ),
    ] = False,
) -> None:
    """Look at this machine: versions, GPUs, memory, cache, and what predictions come from.

    What works less well is a warning, what does not work a problem, and below each is what to do
    about it. With `--calibrate` rates of the GPUs, or of the CPU where there are none, are measured
    and kept: plans and `--method auto` use them from then on. It is best done while nothing else
    runs.

    Exits 1 when there is a problem.
    """
    with Stages(quiet=output.as_json) as stages:
        stages.begin("load")
        from spava_app.doctor import diagnose, usual_device
        from spava_app.engine.planning.calibration import calibrate as measure

        found = {}
        if calibrate:
            stages.begin("start")
            machine, path = measure(usual_device(), on_step=stages.begin)
            found = {"rates": machine.to_dict(), "rates_file": str(path)}
        stages.begin("look")
        diagnosis = diagnose()
    if output.as_json:
        print_json({**diagnosis.to_dict(), **found})
    else:
        typer.echo(diagnosis)
    raise typer.Exit(1 if diagnosis.status == "problem" else 0)
