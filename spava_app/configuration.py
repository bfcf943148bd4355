"""Options from a TOML file and from the environment; what nobody knows is an error.

A flag wins over the environment, the environment over the file, and the file over defaults: that is
the command line's own order, for which the file becomes the defaults of the commands.
"""

import os
import tomllib
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from typer.core import TyperGroup

from spava_app.errors import InvalidInput

_PREFIX = "SPAVA_"
# Read by other parts: where things are kept, and what launch.sh is told.
_OTHERS = {"SPAVA_CACHE", "SPAVA_CONFIG", "SPAVA_TORCH_INDEX", "SPAVA_SKIP_INSTALL"}

Defaults = dict[str, dict[str, Any]]


def check_environment(root: TyperGroup) -> None:
    """Raise InvalidInput for a variable SPAVA_... that sets nothing."""
    known = {*_OTHERS, *(f"{_PREFIX}{name.upper()}" for name in _all_names(root))}
    for name in sorted(os.environ):
        if name.startswith(_PREFIX) and name not in known:
            raise InvalidInput(name, os.environ[name], _unknown(name, known))


def read_defaults(given: Path | None, root: TyperGroup) -> Defaults:
    """The options in a file, by command; none if there is no file at the usual place.

    Raises:
        InvalidInput: it cannot be read, is no TOML, or has keys that are no options.
    """
    path = given or _usual_place()
    if given is None and not path.is_file():
        return {}
    try:
        content = tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise InvalidInput("config", str(path), f"cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InvalidInput("config", str(path), f"is no TOML: {error}") from None
    names = {command: _names(root, command) for command in root.commands}
    defaults: Defaults = {command: {} for command in names}
    known = _all_names(root)
    for key, value in content.items():
        if isinstance(value, dict):
            if key not in names:
                raise InvalidInput(f"[{key}]", str(path), _unknown(key, names))
            for name, one in value.items():
                if _plain(name) not in names[key]:
                    raise InvalidInput(f"{key}.{name}", str(path), _unknown(name, names[key]))
                defaults[key][names[key][_plain(name)]] = one
            continue
        if _plain(key) not in known:
            raise InvalidInput(key, str(path), _unknown(key, known))
        for command, own in names.items():
            if _plain(key) in own:
                defaults[command].setdefault(own[_plain(key)], value)
    return defaults


def _usual_place() -> Path:
    base = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
    return Path(base) / "spava" / "config.toml"


def _names(root: TyperGroup, command: str) -> dict[str, str]:
    """What the options of a command are called by users, and the parameter each is."""
    options = [it for it in root.commands[command].params if it.param_type_name == "option"]
    named = {}
    for option in options:
        written = next((word for word in option.opts if word.startswith("--")), option.opts[0])
        if option.name is not None and written != "--help":
            named[_plain(written.lstrip("-"))] = option.name
    return named


def _all_names(root: TyperGroup) -> set[str]:
    return {name for command in root.commands for name in _names(root, command)}


def _plain(name: str) -> str:
    return name.replace("-", "_")


def _unknown(name: str, known: Any) -> str:
    # What all have in common says nothing.
    short = {one.removeprefix(_PREFIX): one for one in known}
    close = get_close_matches(name.removeprefix(_PREFIX), sorted(short), n=1)
    if not close:
        return "nothing is called so"
    return f"nothing is called so; did you mean {short[close[0]]}?"
