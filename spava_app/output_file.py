"""Files that a user names for results: one that is there already is replaced only with `--force`. A
leaf, because benchmarks of every layer write such files.
"""

import argparse
import errno
import json
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from secrets import token_hex
from typing import Any

from spava_app.errors import InvalidInput

EXISTS = "exists; use --force to overwrite it"
# What file systems without hard links answer.
_NO_LINKS = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK}


def check_output(field: str, path: str | Path, *, force: bool) -> None:
    """Raise InvalidInput, before any work is done, for a file that is there and must not be
    overwritten.

    Args:
        field: what the user calls the path.
        force: whether it may be overwritten.
    """
    if not force and os.path.exists(path):
        raise InvalidInput(field, str(path), EXISTS)


@contextmanager
def output_file(path: str | Path, *, force: bool) -> Iterator[Path]:
    """The path of a new file beside `path`, to write to. It gets the name `path` at the end of the
    `with` block; when that raises, it is removed and `path` is as it was.

    Args:
        path: a link stays one: what it leads to is written.
        force: whether a file may be overwritten.

    Raises:
        FileExistsError: it exists, also one that appeared meanwhile.
        OSError: it cannot be written.
    """
    path = Path(path).resolve()
    if path.exists():
        if not force and not path.is_dir():
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path))
        # A device or a pipe would be replaced by a file.
        if not path.is_file() and not path.is_dir():
            raise OSError(errno.EINVAL, "is not a regular file", str(path))
        path.open("r+b").close()  # raises for a folder, and for a file that may not be written
    beside = path.with_name(f".spava-{token_hex(4)}{path.suffix}")
    try:
        yield beside
        if force:
            beside.replace(path)
        else:
            _rename_to_new(beside, path)
    finally:
        beside.unlink(missing_ok=True)


def _rename_to_new(old: Path, new: Path) -> None:
    """Rename; raise FileExistsError, whenever the other file appeared, instead of replacing it."""
    try:
        os.link(old, new)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        new.open("xb").close()  # the name is taken before it is replaced
        old.replace(new)


def add_json_option(parser: argparse.ArgumentParser) -> None:
    """The options `--json FILE` and `--force` of a benchmark."""
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the results there")
    parser.add_argument("--force", action="store_true", help="overwrite FILE if it exists")


class JsonFile:
    """Where a benchmark writes its results, if `--json` was given.

    Args:
        parser, given: of the command line. A file that must not be overwritten ends the program
            with code 2 here, before anything is measured.
    """

    def __init__(self, parser: argparse.ArgumentParser, given: argparse.Namespace) -> None:
        self.path: Path | None = given.json
        self._force: bool = given.force
        if self.path is not None and not self._force and self.path.exists():
            parser.error(f"{self.path} {EXISTS}")

    def save(self, results: Mapping[str, Any]) -> int:
        """Write all results so far. Returns the exit code: 2 if they cannot be written, with a line
        on stderr.
        """
        if self.path is None:
            return 0
        try:
            with output_file(self.path, force=self._force) as beside:
                beside.write_text(json.dumps(results, indent=1) + "\n")
        except FileExistsError:
            sys.stderr.write(f"{self.path} {EXISTS}\n")
            return 2
        except OSError as error:
            sys.stderr.write(f"{self.path} cannot be written: {error.strerror}\n")
            return 2
        self._force = True  # from now on it is this program's own
        return 0
