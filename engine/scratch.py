"""Folders for what lives as long as a group of workers, or one question."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

from spava_app.errors import InvalidInput


def scratch_folder(purpose: str) -> tempfile.TemporaryDirectory[str]:
    """A new private folder; it is removed by `cleanup`.

    Args:
        purpose: a word for its name.

    Raises:
        InvalidInput: there is no place for one.
    """
    try:
        return tempfile.TemporaryDirectory(prefix=f"spava-{purpose}-", ignore_cleanup_errors=True)
    except OSError as error:
        raise _no_place(error) from error


@contextmanager
def scratch_path(purpose: str) -> Iterator[Path]:
    """The path of a folder that whoever needs it makes; it is removed after the `with` block. Most
    questions need none, and a process that is killed then leaves none behind.

    Raises:
        InvalidInput: there is no place for one.
    """
    try:
        path = Path(tempfile.gettempdir(), f"spava-{purpose}-{uuid4().hex}")
    except OSError as error:
        raise _no_place(error) from error
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def _no_place(error: OSError) -> InvalidInput:
    value = tempfile.tempdir or "/tmp"
    fix = f"temporary files cannot be made ({error.strerror}): set it to a folder with space"
    return InvalidInput("TMPDIR", value, fix)
