"""The `spava` command. Each command reads its options, calls the library and prints; nothing is
decided here.

torch and the engine are imported inside the commands, so that `spava --help` answers at once.
"""

import sys
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from spava_app import __version__
from spava_app.cli.commands import ask, demo, doctor, plan, synth, text
from spava_app.cli.config_file import check_environment, read_file
from spava_app.cli.option_groups import spread
from spava_app.cli.precedence import SourcedCommand, keep_words, wants_json
from spava_app.cli.terminal import ClickError, hush, reported_errors, tell_error
from spava_app.terminal_text import guard_terminal


class _Group(TyperGroup):
    """Commands whose wrong use is told in one line, as every other wrong input."""

    def main(self, *args: Any, standalone_mode: bool = True, **kwargs: Any) -> Any:
        try:
            code = super().main(*args, standalone_mode=False, **kwargs)
        except ClickError as error:
            code = error.exit_code
            if type(error).__name__ == "NoArgsIsHelpError":
                error.show()
                sys.exit(code)
            tell_error("UsageError", error.format_message(), as_json=wants_json(error.ctx))
        except typer.Abort:
            code = 1
        if standalone_mode:
            sys.exit(code)
        return code

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        keep_words(ctx, args)
        with reported_errors(as_json=wants_json(ctx), debug=False):
            return super().parse_args(ctx, args)


app = typer.Typer(
    name="spava",
    cls=_Group,
    help="Ask questions about long videos: the prefill is spread over several GPUs or processes.",
    epilog="Start with `spava demo`: it needs no model, no GPU and no network. Options may also be "
    "set as SPAVA_NAME in the environment, or in a TOML file (`--config`).",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"spava {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    context: typer.Context,
    config: Annotated[
        str | None,
        typer.Option(
            metavar="PATH",
            envvar="SPAVA_CONFIG",
            help='A TOML file with options: `model = "..."` for all commands, `[ask]` for one. '
            "Flags win over the environment, and that over the file.",
            show_default="~/.config/spava/config.toml",
        ),
    ] = None,
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Show the version and exit."
        ),
    ] = False,
) -> None:
    with reported_errors(as_json=wants_json(context), debug=False):
        assert isinstance(context.command, TyperGroup)
        check_environment(context.command)
        context.obj = read_file(config, context.command)
        context.default_map = context.obj.defaults


for _command in (ask, plan, text, doctor, demo, synth):
    _name = _command.__name__.rpartition(".")[2]
    _decorate = app.command(name=_name, cls=SourcedCommand, epilog=_command.EPILOG)
    _decorate(spread(getattr(_command, _name)))


def main() -> None:
    """Entry point of `spava` and of `python -m spava_app`."""
    hush()
    guard_terminal()
    app(prog_name="spava")
