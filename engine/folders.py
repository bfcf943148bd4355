"""The cache folder, private files in folders that other users of the machine may reach, and
temporary folders, of which a forked child removes none: they are its parent's.

What another may have put in place of a file or folder of ours is neither followed nor waited for:
a folder counts only if it belongs to this user or to root, who can do anything anyhow, and nobody
else may write to it; a file only if it is a regular one. All is done in the folder that was looked
opened, by its descriptor.
"""

import errno
import os
import shutil
import stat
import tempfile
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from spava_app.errors import InvalidInput
from spava_app.forked import is_forked

_OF_OTHERS = stat.S_IWGRP | stat.S_IWOTH


@contextmanager
def private_folder(path: Path, *, make: bool = False) -> Iterator[int]:
    """A descriptor of a private folder, for the `with` block.

    Args:
        make: make it, and what is missing of the way to it, for this user alone.

    Raises:
        FileNotFoundError: there is none.
        OSError: it cannot be opened or made, is a link or no folder, belongs to another user, or
            others may write to it or to the folder it is in.
    """
    if make:
        _make(path)
    if path.is_symlink():
        raise OSError(errno.ELOOP, "it is a link")
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    folder = os.open(path, flags)
    try:
        _check_folder(os.fstat(folder), "it")
        parent = os.stat("..", dir_fd=folder)
        if not parent.st_mode & stat.S_ISVTX:  # as /tmp: nobody moves what is another's
            _check_folder(parent, "the folder it is in")
        yield folder
    finally:
        os.close(folder)


def open_regular(name: str, flags: int, folder: int) -> int:
    """A descriptor of a regular file in a private folder; one that is made is for this user alone.

    Raises:
        FileNotFoundError: there is none, and `flags` make none.
        OSError: it cannot be opened, or is something else than a regular file.
    """
    # A pipe that nobody writes to would be waited for without O_NONBLOCK.
    flags |= os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
    try:
        file = os.open(name, flags, 0o600, dir_fd=folder)
    except OSError as error:
        if error.errno in {errno.ELOOP, errno.EMLINK}:  # EMLINK on FreeBSD
            raise OSError(error.errno, f"{name} is a link") from None
        raise
    status = os.fstat(file)
    if stat.S_ISREG(status.st_mode) and status.st_uid in _trusted():
        return file
    os.close(file)
    raise OSError(errno.EINVAL, f"{name} is not a regular file of this user")


def read_private(path: Path, most: int) -> bytes:
    """What a regular file in a private folder holds, `most` bytes of it at most.

    Raises:
        FileNotFoundError: there is none.
        OSError: as `private_folder` and `open_regular`.
    """
    with private_folder(path.parent) as folder:
        file = open_regular(path.name, os.O_RDONLY, folder)
        with open(file, "rb") as opened:
            return opened.read(most)


def _make(path: Path) -> None:
    for folder in (*reversed(path.parents), path):
        # Asked first: of a folder on the way that is there nobody need be allowed to make it.
        if not os.path.lexists(folder):
            with suppress(FileExistsError):
                os.mkdir(folder, 0o700)


def _trusted() -> tuple[int, int]:
    return os.geteuid(), 0


def _check_folder(status: os.stat_result, name: str) -> None:
    if status.st_uid not in _trusted():
        raise OSError(errno.EPERM, f"{name} belongs to another user")
    if status.st_mode & _OF_OTHERS:
        raise OSError(errno.EPERM, f"others may write to {name} (chmod go-w keeps them out)")


def cache_folder() -> Path:
    """Where visual embeddings and measured rates are kept: SPAVA_CACHE, else ~/.cache/spava."""
    return Path(os.environ.get("SPAVA_CACHE") or Path.home() / ".cache" / "spava").absolute()


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
