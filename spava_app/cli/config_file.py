"""Options from a TOML file and from the environment. What nobody knows in the file is an error; in
the environment it may be another program's.

A flag wins over the environment, the environment over the file, and the file over defaults: that is
the command line's own order, for which the file becomes the defaults of the commands. `precedence`
keeps it between options that exclude each other.
"""

import os
import re
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import typer
from typer.core import TyperGroup

from spava_app.cli.option_groups import ENVIRONMENT
from spava_app.cli.terminal import speaks
from spava_app.errors import InvalidInput
from spava_app.requests.bounded_text import read_text_file

# Read by other parts: where things are kept, and what launch.sh is told.
_OTHERS = {"SPAVA_CACHE", "SPAVA_CONFIG", "SPAVA_TORCH_INDEX", "SPAVA_SKIP_INSTALL"}
# What Kubernetes sets in every container for a Service called `spava` or `spava-...`: SPAVA_PORT is
# then `tcp://10.0.0.1:80`. No option may be read from a variable of such a name.
KUBERNETES = re.compile(
    rf"{ENVIRONMENT}(\w+_)?(SERVICE_HOST|SERVICE_PORT(_\w+)?"
    r"|PORT(_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?)"
)
# How alike a variable and an option must be to be the same with a slip of the pen.
_NEAR_MISS = 0.75

# More than all options there are take.
_MOST_BYTES = 2**20


@dataclass(frozen=True)
class FileOption:
    """An option in a file.

    Attributes:
        key: as it is written: `fps`, or `ask.fps` in the table of a command.
        value: what it is set to.
        own: whether it is in the table of its command.
    """

    key: str
    value: Any
    own: bool


@dataclass(frozen=True)
class FromFile:
    """The options in a file, by command and parameter."""

    path: str
    options: dict[str, dict[str, FileOption]]

    @property
    def defaults(self) -> dict[str, dict[str, Any]]:
        """Their values, as the command line takes them."""
        return {
            command: {name: written.value for name, written in own.items()}
            for command, own in self.options.items()
        }


def check_environment(root: TyperGroup) -> None:
    """Warn of a variable SPAVA_... that sets nothing and is spelled almost as one that does. Others
    are another program's, or of another version.
    """
    known = {*_OTHERS, *(f"{ENVIRONMENT}{name.upper()}" for name in _all_names(root))}
    for name in sorted(os.environ):
        if not name.startswith(ENVIRONMENT) or not os.environ[name]:
            continue
        if name in known or KUBERNETES.fullmatch(name):
            continue
        meant = _close(name, known, _NEAR_MISS)
        if meant is not None and speaks():
            text = f"warning: unknown environment variable {name}; did you mean {meant}?"
            typer.echo(text, err=True)


def read_file(given: str | None, root: TyperGroup) -> FromFile:
    """The options in a file; none if there is no file at the usual place.

    Raises:
        InvalidInput: it cannot be read, is no TOML, or has keys that are no options.
    """
    if given == "":
        raise InvalidInput("config", given, "must not be empty: give the path of a TOML file")
    path = Path(given) if given else _usual_place()
    names = {command: _names(root, command) for command in root.commands}
    known = _all_names(root)
    options: dict[str, dict[str, FileOption]] = {command: {} for command in names}
    content = _content(path) if given is not None or path.is_file() else {}
    for table, prefix in (
        (content, ""),
        *((it, f"{key}.") for key, it in content.items() if isinstance(it, dict)),
    ):
        _check_once(table, prefix, path)
    for key, value in content.items():
        if isinstance(value, dict):
            if key not in names:
                raise InvalidInput(f"[{key}]", str(path), _unknown(key, names))
            for name, one in value.items():
                if _plain(name) not in names[key]:
                    raise InvalidInput(f"{key}.{name}", str(path), _unknown(name, names[key]))
                option = names[key][_plain(name)]
                _check_kind(option, f"{key}.{name}", one, path)
                options[key][option.name] = FileOption(f"{key}.{name}", one, own=True)
            continue
        if key in names:
            fix = f"is a command: write its options below [{key}] (in {path})"
            raise InvalidInput(key, value, fix)
        if _plain(key) not in known:
            raise InvalidInput(key, str(path), _unknown(key, known))
        for command, own in names.items():
            if option := own.get(_plain(key)):
                _check_kind(option, key, value, path)
                options[command].setdefault(option.name, FileOption(key, value, own=False))
    return FromFile(str(path), options)


def _content(path: Path) -> dict[str, Any]:
    text = read_text_file("config", path, _MOST_BYTES)
    try:
        return tomllib.loads(text)
    # ValueError: also for numbers of more digits than Python reads.
    except (ValueError, RecursionError) as error:
        raise InvalidInput("config", str(path), f"is no TOML: {error}") from None


def _check_kind(option: Any, key: str, value: object, path: Path) -> None:
    """Raise InvalidInput for kinds that no flag can have; whether a number is one, the command line
    finds out.
    """
    if isinstance(value, bool) and not option.is_flag:  # by itself it would be taken as 1 or 0
        raise InvalidInput(key, value, f"give a value, not true or false (in {path})")
    if not isinstance(value, str | int | float):
        raise InvalidInput(key, value, f"give one value: a string or a number (in {path})")


def _check_once(table: dict[str, Any], prefix: str, path: Path) -> None:
    """Raise InvalidInput for an option that a table has with `-` and with `_`: which one counts
    nobody could tell.
    """
    first: dict[str, str] = {}
    for key, value in table.items():
        other = first.setdefault(_plain(key), key)
        if other != key:
            fix = f"are one option: write it once (in {path})"
            raise InvalidInput(f"{prefix}{other}, {prefix}{key}", (table[other], value), fix)


def _usual_place() -> Path:
    base = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
    return Path(base) / "spava" / "config.toml"


def _names(root: TyperGroup, command: str) -> dict[str, Any]:
    """The options of a command by what users call them."""
    # `spread` names a variable after each; what has none, as --help, is no option of a file.
    return {
        str(option.envvar).removeprefix(ENVIRONMENT).lower(): option
        for option in root.commands[command].params
        if option.envvar
    }


def _all_names(root: TyperGroup) -> set[str]:
    return {name for command in root.commands for name in _names(root, command)}


def _plain(name: str) -> str:
    return name.replace("-", "_")


def _unknown(name: str, known: Iterable[str]) -> str:
    meant = _close(name, known)
    return "unknown option" if meant is None else f"unknown option; did you mean {meant}?"


def _close(name: str, known: Iterable[str], cutoff: float = 0.6) -> str | None:
    """The known name that is most like this one, if any is."""
    # What all have in common says nothing.
    short = {one.removeprefix(ENVIRONMENT): one for one in known}
    close = get_close_matches(name.removeprefix(ENVIRONMENT), sorted(short), n=1, cutoff=cutoff)
    return short[close[0]] if close else None
