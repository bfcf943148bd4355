"""A file's bytes by their place, and no more of them than it takes."""

from collections.abc import Iterator
from typing import BinaryIO, TypeAlias

# The places up to which a file says that it goes, in any order, whether it does or not; None where
# it breaks off and nothing says how much would follow.
Ends: TypeAlias = Iterator[int | None]

# Two hours of fragments or frames, a fraction of a second; a hostile file gets no more.
_MOST_READS, _MOST_BYTES = 2**18, 2**23


class Exhausted(Exception):
    """As much was read as may be."""


class Parts:
    """Reads a file here and there; `size` is its length in bytes.

    Every read raises `Exhausted` when there were too many.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file, self._reads, self._bytes = file, 0, 0
        self.size = file.seek(0, 2)

    def read(self, at: int, count: int) -> bytes:
        """The bytes at a place, fewer where the file ends."""
        count = max(min(count, self.size - at), 0) if at >= 0 else 0
        self._reads += 1
        self._bytes += count
        if self._reads > _MOST_READS or self._bytes > _MOST_BYTES:
            raise Exhausted
        if not count:
            return b""
        self._file.seek(at)
        return self._file.read(count)

    def big(self, at: int, count: int) -> int:
        """A big-endian number; 0 where the file ends before it does."""
        found = self.read(at, count)
        return int.from_bytes(found, "big") if len(found) == count else 0

    def little(self, at: int, count: int) -> int:
        """A little-endian number; 0 where the file ends before it does."""
        found = self.read(at, count)
        return int.from_bytes(found, "little") if len(found) == count else 0
