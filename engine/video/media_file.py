"""An open media file. Who asks the decoder process opens it; that process never opens a path."""

import io
import os
import stat
from typing import Any, NoReturn

from spava_app.engine.media import Stamp, stamp
from spava_app.errors import VideoError

_BUFFER = 2**16
_CHANGED = "the file was changed while it was looked at; ask again"
# A pipe, a device or a file on a tape may not make the open wait; nor may a terminal become ours.
_FLAGS = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY


class MediaFile:
    """A regular file that is open for reading, and what it was then.

    Args:
        path: for messages.
        descriptor: owned from here on.

    Attributes:
        stamp: of the file at this moment.
    """

    def __init__(self, path: str, descriptor: int) -> None:
        self.path, self.descriptor = path, descriptor
        self.stamp = stamp(os.fstat(descriptor))

    def open(self) -> io.BufferedReader:
        """A new file object at the file's start; its place is its own."""
        return io.BufferedReader(_Reader(self.descriptor), _BUFFER)

    def check_still(self) -> None:
        """Raise `VideoError` if the file was written while it was read. One that was removed or
        replaced meanwhile was read as it was.
        """
        found = os.fstat(self.descriptor)
        now = stamp(found)
        # To lose its name changes the time of change.
        removed = found.st_nlink == 0 and now[:2] == self.stamp[:2]
        if now != self.stamp and not removed:
            fail(self.path, _CHANGED)

    def close(self) -> None:
        """Give the descriptor back; once is enough."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1


class _Reader(io.RawIOBase):
    """Reads at a place of its own: all that share a descriptor share the system's.

    It tells no descriptor, so that no library maps the file: pages of one that gets shorter are
    no error but the end of the process.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor, self._place = descriptor, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:
        count = os.preadv(self._descriptor, [buffer], self._place)
        self._place += count
        return count

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        match whence:
            case io.SEEK_CUR:
                offset += self._place
            case io.SEEK_END:
                offset += os.fstat(self._descriptor).st_size
        if offset < 0:
            raise OSError("a place before the file's start")
        self._place = offset
        return offset

    def tell(self) -> int:
        return self._place


def fail(path: str, fix: str) -> NoReturn:
    """Raise the `VideoError` that names the field, the path and the fix, and nothing else."""
    raise VideoError("video", path, fix) from None


def is_folder(path: str) -> bool:
    """Whether there is a folder at `path`.

    Raises:
        VideoError: nothing is there.
    """
    return stat.S_ISDIR(_look(path).st_mode)


def open_media(path: str, expected: Stamp | None = None) -> MediaFile:
    """Open a file that is to be decoded; never waits for what is no file.

    Args:
        expected: what it was when it was looked at before.

    Raises:
        VideoError: nothing there, not a regular file, empty, not readable, or changed since.
    """
    _check(path, _look(path), expected)  # before: even to open a device can do something
    try:
        descriptor = os.open(path, _FLAGS)
    except PermissionError:
        fail(path, "the file may not be read; change its permissions")
    except FileNotFoundError:
        fail(path, _CHANGED)
    except OSError as error:
        fail(path, f"it cannot be opened ({error.strerror}); ask again")
    try:
        _check(path, os.fstat(descriptor), expected)
        return MediaFile(path, descriptor)
    except BaseException:
        os.close(descriptor)
        raise


def _look(path: str) -> os.stat_result:
    try:
        return os.stat(path)
    except PermissionError:
        fail(path, "its folder may not be read; change the permissions")
    except (OSError, ValueError):
        fail(path, "there is no such file; give the path of a video or picture")


def _check(path: str, found: os.stat_result, expected: Stamp | None) -> None:
    if stat.S_ISDIR(found.st_mode):
        fail(path, "this is a folder; give the path of one file")
    # Neither a pipe nor a device: those could be read for ever.
    if not stat.S_ISREG(found.st_mode):
        fail(path, "this is not a regular file; copy it to disk first")
    if expected is not None and stamp(found) != expected:
        fail(path, _CHANGED)
    if found.st_size == 0:
        fail(path, "the file is empty; copy or download it again")
