"""Visual embeddings on disk: a folder of files, one per medium, bounded in bytes.

A file holds a record per unit, each at its own place: the embeddings and a checksum of key, unit
and embeddings. What is not there, half written, damaged or mixed from two writers does not match
its checksum, and counts as missing; so ranks and processes write without asking each other, and a
killed one leaves nothing wrong behind. Files are private to the user, and nothing is taken from a
folder that others could have filled.

Room is made before a file grows, under a lock that all processes share: the files that were not
used for longest are removed. Whoever has one open still reads it to its end.
"""

import fcntl
import os
import stat
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from hashlib import blake2b
from pathlib import Path
from typing import Self

import numpy as np

from spava_app.engine.folders import open_regular, private_folder

_SUFFIX = ".units"
_CHECKSUM = 16
# How long to wait for another process that makes room; it lists a folder and removes files.
LOCK_SECONDS = 5.0


class EmbeddingStore:
    """A folder of files. Every method may raise OSError: no rights, no space, a broken disk, a
    folder that is not private, something else in place of a file.

    Args:
        folder: made when it is needed; only files made here are ever removed from it.
        limit: bytes of all files together.
    """

    def __init__(self, folder: Path, limit: int) -> None:
        self._folder, self._limit = folder, limit

    def open(self, key: str, num_units: int, unit_bytes: int) -> "StoredUnits":
        """The file of a medium, which need not exist."""
        return StoredUnits(self, key, num_units, unit_bytes)

    def path(self, key: str) -> Path:
        """Where the file of a key is."""
        return self._folder / f"{key}{_SUFFIX}"

    def create(self, key: str, size: int) -> int | None:
        """A descriptor to write the file of a key, which others may write at the same time, with
        room for `size` bytes; None if there never is.
        """
        if size > self._limit:
            return None
        name = self.path(key).name
        with self._locked() as folder:
            file = open_regular(name, os.O_RDWR | os.O_CREAT, folder)
            try:
                self._make_room(folder, size, besides=name)
                # At its full size from the start, holes included, so that others count it.
                os.ftruncate(file, size)
            except OSError:
                os.close(file)
                raise
        return file

    def read_only(self, key: str) -> int | None:
        """A descriptor to read the file of a key; None if there is none."""
        try:
            with private_folder(self._folder) as folder:
                return open_regular(self.path(key).name, os.O_RDONLY, folder)
        except FileNotFoundError:
            return None

    def _make_room(self, folder: int, size: int, besides: str) -> None:
        """Remove files until `size` more bytes are within the limit."""
        found = []
        for name in os.listdir(folder):
            if not name.endswith(_SUFFIX) or name == besides:
                continue
            with suppress(FileNotFoundError):  # users may empty the folder at any time
                status = os.stat(name, dir_fd=folder, follow_symlinks=False)
                if stat.S_ISREG(status.st_mode):
                    found.append((status.st_mtime_ns, name, status.st_size))
        used = size + sum(held for _, _, held in found)
        for _, name, held in sorted(found):
            if used <= self._limit:
                break
            with suppress(FileNotFoundError):
                os.unlink(name, dir_fd=folder)
            used -= held

    @contextmanager
    def _locked(self) -> Iterator[int]:
        """The folder, which is made when there is none, with nobody else in it who makes room."""
        with private_folder(self._folder, make=True) as folder:
            lock = open_regular("lock", os.O_RDWR | os.O_CREAT, folder)
            try:
                until = time.monotonic() + LOCK_SECONDS
                while True:
                    try:
                        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                        break
                    except BlockingIOError:
                        if time.monotonic() > until:
                            raise
                    time.sleep(0.005)
                yield folder
            finally:
                os.close(lock)  # this also gives the lock back


class StoredUnits:
    """The units of one medium; close it after use."""

    def __init__(self, store: EmbeddingStore, key: str, num_units: int, unit_bytes: int) -> None:
        self._store, self._key = store, key
        self._unit_bytes, self._record = unit_bytes, unit_bytes + _CHECKSUM
        self._size = num_units * self._record
        self._reading: int | None = None
        self._writing: int | None = None
        self._refused = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        for file in (self._reading, self._writing):
            if file is not None:
                os.close(file)
        self._reading = self._writing = None

    def read(self, units: Sequence[int], into: np.ndarray) -> np.ndarray:
        """Read the units into `[n, unit_bytes]` uint8; which of them are there, `[n]` bool. The
        others' rows are left undefined.
        """
        there = np.zeros(len(units), bool)
        if self._reading is None:
            self._reading = self._store.read_only(self._key)
            if self._reading is None:
                return there
            with suppress(OSError):  # a cache that may only be read is read
                os.utime(self._reading)  # used now: the last to be removed
        found = np.empty((len(units), _CHECKSUM), np.uint8)
        for i, unit in enumerate(units):
            buffers = [into[i].data, found[i].data]
            count = os.preadv(self._reading, buffers, unit * self._record)
            whole = count == self._record
            there[i] = whole and found[i].tobytes() == self._checksum(unit, into[i])
        return there

    def write(self, units: Sequence[int], rows: np.ndarray) -> None:
        """Keep the units' bytes `[n, unit_bytes]` uint8, unless they exceed the limit."""
        if self._refused:
            return
        if self._writing is None:
            self._refused = True  # tried once, also if it fails
            self._writing = self._store.create(self._key, self._size)
            self._refused = self._writing is None
        if self._writing is None:
            return
        for unit, row in zip(units, rows, strict=True):
            left, place = [row.data, self._checksum(unit, row)], unit * self._record
            count = os.pwritev(self._writing, left, place)
            while count < self._record:  # no more space: the next call says why
                rest = (row.tobytes() + left[1])[count:]
                count += os.pwrite(self._writing, rest, place + count)

    def _checksum(self, unit: int, rows: np.ndarray) -> bytes:
        digest = blake2b(f"{self._key} {unit} ".encode(), digest_size=_CHECKSUM)
        digest.update(rows.data)
        return digest.digest()
