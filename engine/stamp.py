"""What changes when a file is written or replaced: one answer to "is it still the same?"."""

import os
import stat
from pathlib import Path

# Bytes, time of last modification and of last change in nanoseconds, device and number of a file.
# The time of change can be set by nobody, unlike that of modification.
Stamp = tuple[int, ...]


def stamp(found: os.stat_result) -> Stamp:
    """Of what the system says of a file."""
    return (found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_dev, found.st_ino)


def stamp_of(path: str | Path) -> Stamp:
    """Of what is at `path` now; empty for what is no regular file, or not there."""
    try:
        found = os.stat(path)
    except (OSError, ValueError):
        return ()
    return stamp(found) if stat.S_ISREG(found.st_mode) else ()
