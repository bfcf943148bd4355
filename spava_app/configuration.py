"""Options from a TOML file and from the environment; what nobody knows is an error.

A flag wins over the environment, the environment over the file, and the file over defaults: that is
the command line's own order, for which the file becomes the defaults of the commands. `precedence`
keeps it between options that exclude each other.
"""

import os
import tomllib
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from typer.core import TyperGroup

from spava_app.commands.groups import ENVIRONMENT
from spava_app.errors import InvalidInput

# Read by other parts: where things are kept, and what launch.sh is told.
_OTHERS = {"SPAVA_CACHE", "SPAVA_CONFIG", "SPAVA_TORCH_INDEX", "SPAVA_SKIP_INSTALL"}


@dataclass(frozen=True)
class Written:
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
    options: dict[str, dict[str, Written]]

    @property
    def defaults(self) -> dict[str, dict[str, Any]]:
        """Their values, as the command line takes them."""
        return {
            command: {name: written.value for name, written in own.items()}
            for command, own in self.options.items()
        }


def check_environment(root: TyperGroup) -> None:
    """Raise InvalidInput for a variable SPAVA_... that sets nothing."""
    known = {*_OTHERS, *(f"{ENVIRONMENT}{name.upper()}" for name in _all_names(root))}
    for name in sorted(os.environ):
        if name.startswith(ENVIRONMENT) and name not in known:
            raise InvalidInput(name, os.environ[name], _unknown(name, known))


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
    options: dict[str, dict[str, Written]] = {command: {} for command in names}
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
                options[key][option.name] = Written(f"{key}.{name}", one, own=True)
            continue
        if key in names:
            fix = f"is a command: write its options below [{key}] (in {path})"
            raise InvalidInput(key, value, fix)
        if _plain(key) not in known:
            raise InvalidInput(key, str(path), _unknown(key, known))
        for command, own in names.items():
            if option := own.get(_plain(key)):
                _check_kind(option, key, value, path)
                options[command].setdefault(option.name, Written(key, value, own=False))
    return FromFile(str(path), options)


def _content(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise InvalidInput("config", str(path), f"cannot be read: {error.strerror}") from None
    # ValueError: also for what is no UTF-8, and for numbers of more digits than Python reads.
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


def _unknown(name: str, known: Any) -> str:
    # What all have in common says nothing.
    short = {one.removeprefix(ENVIRONMENT): one for one in known}
    close = get_close_matches(name.removeprefix(ENVIRONMENT), sorted(short), n=1)
    if not close:
        return "nothing is called so"
    return f"nothing is called so; did you mean {short[close[0]]}?"
