"""Texts that users name: read whole, but no more than is of use, and not waited for in vain."""

import os
import select
import stat
import time
from pathlib import Path

from spava_app.errors import InvalidInput

# Larger than any text that a model takes.
MOST_BYTES = 2**28
# How long a pipe may be silent before its end, in seconds.
SILENCE_SECONDS = 60.0


def read_text_file(field: str, path: str | Path, most: int = MOST_BYTES) -> str:
    """The UTF-8 text of a regular file, or of what is piped into a path such as `/dev/fd/63`.

    Args:
        field: what the path was given as, for errors.
        most: bytes that are read of it.

    Raises:
        InvalidInput: it cannot be read, is not UTF-8, larger than `most`, neither a file nor a
            pipe, or a pipe that nobody writes to.
    """
    try:
        # Without O_NONBLOCK a pipe that nobody writes to is not even opened.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise InvalidInput(field, str(path), f"cannot be read: {why}") from None
    try:
        return _text(field, str(path), _content(field, str(path), descriptor, most))
    finally:
        os.close(descriptor)


def read_standard_input(field: str, descriptor: int, most: int = MOST_BYTES) -> str:
    """The UTF-8 text that is piped in, or typed in on a terminal, which may take any time.

    Raises:
        InvalidInput: as `read_text_file`.
    """
    seconds = None if os.isatty(descriptor) else SILENCE_SECONDS
    return _text(field, "-", _stream(field, "-", descriptor, most, seconds))


def _content(field: str, path: str, descriptor: int, most: int) -> bytes:
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISDIR(mode):
        raise InvalidInput(field, path, "cannot be read: Is a directory")
    if stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode):
        return _stream(field, path, descriptor, most, SILENCE_SECONDS)
    if not stat.S_ISREG(mode):
        raise InvalidInput(field, path, "is neither a file nor a pipe")
    return _stream(field, path, descriptor, most, None)


def _stream(field: str, path: str, descriptor: int, most: int, seconds: float | None) -> bytes:
    """What comes until the end, with at most so many seconds between two pieces."""
    parts: list[bytes] = []
    size, heard = 0, time.monotonic()
    while True:
        wait = 1.0 if seconds is None else min(1.0, seconds)
        watched = select.poll()
        watched.register(descriptor, select.POLLIN)
        part = None
        if watched.poll(wait * 1000):
            try:
                part = os.read(descriptor, min(2**20, most + 1 - size))
            except BlockingIOError:
                part = None
        if part:
            parts.append(part)
            size, heard = size + len(part), time.monotonic()
            if size > most:
                fix = f"is larger than {most} bytes, more than can be used: shorten it"
                raise InvalidInput(field, path, fix)
        # A named pipe that nobody has opened for writing yet ends at once.
        elif part is not None and (parts or seconds is None or path == "-"):
            return b"".join(parts)
        elif part is not None:
            time.sleep(0.05)
        if seconds is not None and time.monotonic() - heard > seconds:
            fix = f"nothing was written to it for {seconds:.0f} s"
            raise InvalidInput(field, path, fix)


def _text(field: str, path: str, content: bytes) -> str:
    try:
        # Lines end as in every text file that Python reads.
        return content.decode("utf-8").replace("\r\n", "\n").replace("\r", "\n")
    except UnicodeDecodeError:
        raise InvalidInput(field, path, "is not valid UTF-8") from None
