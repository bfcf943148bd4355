"""The small files of a model folder, which strangers wrote: regular files of bounded size only.

A device or a pipe under such a name would be read for ever, and a file of gigabytes fills memory.
"""

import json
import os
import stat
from pathlib import Path
from typing import Any

from spava_app.errors import CheckpointError

# The largest published tokenizer.json has 35 MB, the largest index of a sharded checkpoint 10 MB.
MOST_BYTES = 2**28


def read_text(file: Path, *, most: int = MOST_BYTES) -> str | None:
    """The text of `file`, None where there is no such file.

    Raises:
        CheckpointError: it is not a regular file, too large, not UTF-8, or cannot be read.
    """
    try:
        # Opening a pipe that nobody writes to would wait without O_NONBLOCK.
        descriptor = os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise _error(file, f"cannot be read: {error.strerror}") from None
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise _error(file, "is not a regular file")
        with open(descriptor, "rb", closefd=False) as opened:  # it refuses a directory by itself
            content = opened.read(most + 1)
    finally:
        os.close(descriptor)
    if len(content) > most:
        raise _error(file, f"is larger than {most / 2**20:.0f} MiB")
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError:
        raise _error(file, "is not valid UTF-8") from None


def read_object(file: Path) -> dict[str, Any] | None:
    """The JSON object in `file`, None where there is no such file.

    Raises:
        CheckpointError: as `read_text`, or it is not a JSON object.
    """
    if (text := read_text(file)) is None:
        return None
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _error(file, "is not valid JSON") from error
    if not isinstance(found, dict):
        raise _error(file, "is not a JSON object")
    return found


def check_readable(folder: Path) -> None:
    """Raise CheckpointError for a small file in `folder` that another library would read without
    end: not a regular file, or too large.
    """
    for file in sorted(folder.iterdir()):
        if file.suffix not in {".json", ".jinja", ".txt", ".model"}:
            continue
        try:
            found = file.stat()
        except OSError:
            continue  # a link that leads nowhere is no file to anybody
        if stat.S_ISDIR(found.st_mode):
            continue
        if not stat.S_ISREG(found.st_mode):
            raise _error(file, "is not a regular file")
        if found.st_size > MOST_BYTES:
            raise _error(file, f"is larger than {MOST_BYTES / 2**20:.0f} MiB")


def _error(file: Path, fix: str) -> CheckpointError:
    return CheckpointError("model", str(file), fix)
