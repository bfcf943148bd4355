"""Folders for what lives as long as a group of workers. A forked child removes none: they are its
parent's.
"""

import shutil
import tempfile
import weakref
from pathlib import Path

from spava_app.errors import InvalidInput
from spava_app.forked import is_forked


class ScratchFolder:
    """A new private folder; it is removed by `cleanup`, else with the object or the process.

    Args:
        purpose: a word for its name.
        within: the folder it is made in; by default that of temporary files.

    Attributes:
        name: its path.

    Raises:
        InvalidInput: there is no place for one.
    """

    def __init__(self, purpose: str, within: str | None = None) -> None:
        try:
            self.name = tempfile.mkdtemp(prefix=f"spava-{purpose}-", dir=within)
        except OSError as error:
            raise _no_place(error) from error
        self.cleanup = weakref.finalize(self, _remove, Path(self.name))


def _remove(path: Path) -> None:
    if not is_forked():
        shutil.rmtree(path, ignore_errors=True)


def _no_place(error: OSError) -> InvalidInput:
    value = tempfile.tempdir or "/tmp"
    fix = f"temporary files cannot be made ({error.strerror}): set it to a folder with space"
    return InvalidInput("TMPDIR", value, fix)
