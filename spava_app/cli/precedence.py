"""Where the value of an option came from: what it is called where it is wrong, and which of two
options that exclude each other counts.
"""

import os
from dataclasses import fields
from typing import Any

import typer
from typer.core import TyperCommand

from spava_app.cli.config_file import FileOption, FromFile
from spava_app.cli.logs import command_log
from spava_app.cli.option_groups import ENVIRONMENT, METHOD_OPTIONS, OPTIONS_OF_FIELDS, RIVALS
from spava_app.cli.terminal import reported_errors
from spava_app.errors import InvalidInput

# What click takes for true, in the environment and in the file.
_TRUE = {"1", "true", "t", "yes", "y", "on"}
_WORDS = "spava_app.words"


def keep_words(context: typer.Context, words: list[str]) -> None:
    """Keep the command line for `wants_json`, before it is taken apart."""
    context.meta[_WORDS] = tuple(words)


def wants_json(context: typer.Context) -> bool:
    """Whether errors are told as JSON, where the options are not read yet or cannot be: by the
    flag, else by the variable, else by the file once that is read.
    """
    if "--json" in context.meta.get(_WORDS, ()):
        return True
    if given := os.environ.get(f"{ENVIRONMENT}JSON"):
        return given.strip().lower() in _TRUE
    if not isinstance(context.obj, FromFile):
        return False
    written = context.obj.options.get(str(context.info_name), {}).get("as_json")
    return written is not None and str(written.value).lower() in _TRUE


class SourcedCommand(TyperCommand):
    """A command that knows flags, the environment and the file apart, and tells its errors in
    words that the user wrote.
    """

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        with reported_errors(as_json=wants_json(ctx), debug=False):
            try:
                rest = super().parse_args(ctx, args)
            except typer.BadParameter as error:
                raise _named(ctx, error) or error from None
            _drop_beaten(ctx)
            _check_rivals(ctx)
        return rest

    def invoke(self, ctx: Any) -> Any:
        as_json, verbose = ctx.params["as_json"], ctx.params["verbose"]
        debug = ctx.params["debug"] or verbose > 1
        with command_log(verbose, as_json=as_json), reported_errors(as_json=as_json, debug=debug):
            try:
                return super().invoke(ctx)
            except InvalidInput as error:
                if (told := _as_written(ctx, error)) is None:
                    raise
                raise told from error


def _named(context: typer.Context, error: typer.BadParameter) -> InvalidInput | None:
    """A wrong value of the environment or the file as such: nobody gave the flag it is told as."""
    name = getattr(error.param, "name", None)
    if name is None or _source(context, name) not in {"ENVIRONMENT", "DEFAULT_MAP"}:
        return None
    fix = f"{error.message[:1].lower()}{error.message[1:]}".rstrip(".")
    key, value, place = _place(context, name)
    return InvalidInput(key, value, f"{fix}{place}")


def _as_written(context: typer.Context, error: InvalidInput) -> InvalidInput | None:
    """An error of the library about an option, under the name and with the value it has where it
    was written; None if it is about nothing else than it says.
    """
    name = OPTIONS_OF_FIELDS.get(error.field, error.field)
    if name not in context.params:
        return None
    key, value, place = _place(context, name)
    # The library may tell of something else: where a model was found, how many there are.
    if str(context.params[name]) != str(error.value):
        value = error.value
    if (key, value, place) == (error.field, error.value, ""):
        return None
    told = type(error)(key, value, f"{error.fix}{place}")
    told.elsewhere = error.elsewhere
    return told


def _check_rivals(context: typer.Context) -> None:
    """Raise InvalidInput for options that exclude each other at one place: the library would name
    them as nobody wrote them.
    """
    for rivals in RIVALS:
        if all(context.params.get(name) is not None for name in rivals):
            keys, values, places = zip(*(_place(context, name) for name in rivals), strict=True)
            raise InvalidInput(", ".join(keys), values, f"give only one of these{places[0]}")


def _place(context: typer.Context, name: str) -> tuple[str, Any, str]:
    """What an option is called where it was written, its value there, and the file, if it is one,
    as the end of a sentence.
    """
    match _source(context, name):
        case "ENVIRONMENT":
            option = next(it for it in context.command.params if it.name == name)
            variable = str(option.envvar)
            return variable, os.environ.get(variable), ""
        case "DEFAULT_MAP":
            written = _written(context, name)
            return written.key, written.value, f" (in {context.obj.path})"
    return name, context.params.get(name), ""


def _drop_beaten(context: typer.Context) -> None:
    """Take back each option that excludes one of a source that comes before its own. What is taken
    back itself beats nothing.
    """
    ranks = {name: _rank(context, name) for name, it in context.params.items() if it is not None}
    counting: list[str] = []
    for name in sorted(ranks, key=lambda one: -ranks[one]):
        if any(ranks[it] > ranks[name] and _beats(context, it, name) for it in counting):
            context.params[name] = None
        else:
            counting.append(name)


def _beats(context: typer.Context, nearer: str, name: str) -> bool:
    if nearer == "method" and name in METHOD_OPTIONS:
        return _lacks(context.params["method"], name)
    return any({nearer, name} == set(rivals) for rivals in RIVALS)


def _lacks(method: str, option: str) -> bool:
    """Whether this method has no such option; of one that does not exist nothing is known."""
    from spava_app.engine.parallel.base import methods

    known = methods().get(method)
    return known is not None and option not in {field.name for field in fields(known)}


def _rank(context: typer.Context, name: str) -> int:
    """The higher, the nearer to the caller."""
    match _source(context, name):
        case "COMMANDLINE":
            return 4
        case "ENVIRONMENT":
            return 3
        case "DEFAULT_MAP":
            return 2 if _written(context, name).own else 1
    return 0


def _source(context: typer.Context, name: str) -> str:
    # By its name: it is click's own, or typer's copy of it.
    return getattr(context.get_parameter_source(name), "name", "")


def _written(context: typer.Context, name: str) -> FileOption:
    assert isinstance(context.obj, FromFile)
    return context.obj.options[str(context.info_name)][name]
