"""The versions this package is tested with, and whether those installed are among them.

The same ranges stand in pyproject.toml, where installers read them; a test compares the two.
"""

import platform
import re
from importlib.metadata import version

# The oldest that is tested, and the first that is not.
TESTED = {
    "python": ("3.11", "3.14"),
    "torch": ("2.11", "3"),
    "transformers": ("5.17", "6"),
    "av": ("16", "20"),
}


def installed(name: str) -> str:
    """The version of Python or of a distribution.

    Raises:
        PackageNotFoundError: it is not installed.
    """
    return platform.python_version() if name == "python" else version(name)


def version_range(name: str) -> str:
    """As installers write it, for example ">=16,<20"."""
    return ">={},<{}".format(*TESTED[name])


def is_tested(name: str, found: str) -> bool:
    """Whether the version `found` is in the range. Release candidates count as their release."""
    oldest, untested = TESTED[name]
    return _release(oldest) <= _release(found) < _release(untested)


def _release(text: str) -> tuple[int, ...]:
    """The numbers before any suffix: "2.13.0rc1+cpu" is (2, 13, 0)."""
    found = re.match(r"\d+(\.\d+)*", text)
    return tuple(map(int, found[0].split("."))) if found else ()
