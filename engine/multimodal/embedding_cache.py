"""Visual embeddings are kept, in memory and on disk, so that the next question about the same
frames skips decoding and the vision tower.

The key is what the embeddings follow from: the bytes of the file, the frames, their size, the
processor, the model, the precision and the kind of device. Units are kept one by one, since ranks
are dealt others when there are more or fewer of them. Without a cache, or when the disk fails,
everything is as if nothing had been kept.
"""

import warnings
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Self

import numpy as np
import torch
from torch import Tensor

from spava_app.engine.media import Media, stamp_of
from spava_app.engine.multimodal.embedding_store import EmbeddingStore
from spava_app.engine.multimodal.fingerprint import model_identity
from spava_app.engine.multimodal.processors import Processor
from spava_app.errors import SpavaWarning


class EmbeddingMemory:
    """Units as bytes; of too many, those used longest ago go first."""

    def __init__(self, limit: int) -> None:
        self._limit, self.held = limit, 0
        self._units: OrderedDict[tuple[str, int], np.ndarray] = OrderedDict()

    def get(self, key: str, unit: int) -> np.ndarray | None:
        """The bytes of a unit, if they are here."""
        row = self._units.get((key, unit))
        if row is not None:
            self._units.move_to_end((key, unit))
        return row

    def put(self, key: str, units: Iterable[int], rows: np.ndarray) -> None:
        """Keep copies of the rows of `[n, bytes]`: a view would hold on to what it is cut from."""
        for unit, row in zip(units, rows, strict=True):
            if row.nbytes > self._limit:
                continue
            if (old := self._units.pop((key, unit), None)) is not None:
                self.held -= old.nbytes
            self._units[key, unit] = row.copy()
            self.held += row.nbytes
            while self.held > self._limit:
                self.held -= self._units.popitem(last=False)[1].nbytes


# Changed with whatever makes other embeddings of the same frames: decoding, resizing, the towers.
_VERSION = 1
# Units read at a time, so that what is read is not held twice.
_STEP = 64


@dataclass(frozen=True)
class Kind:
    """What all embeddings of a worker have in common.

    Attributes:
        identity: of the model and its processor.
        hidden: size of an embedding.
        dtype, device: its precision, and the type of device it is made on.
    """

    identity: str
    hidden: int
    dtype: torch.dtype
    device: str

    @classmethod
    def of(cls, folder: Path, processor: Processor, hidden: int, like: Tensor) -> "Kind":
        """Of the model in `folder` whose weights are like this one.

        Raises:
            CheckpointError: the folder holds no weights.
        """
        identity = f"{model_identity(folder)} {processor!r}"
        return cls(identity, hidden, like.dtype, like.device.type)


class EmbeddingCache:
    """The cache of one worker.

    Args:
        kind: None keeps nothing.
        folder: of the disk level; None for none.
        disk_bytes, memory_bytes: bounds; that of the disk is for all processes together.
    """

    def __init__(
        self,
        kind: Kind | None = None,
        *,
        folder: Path | None = None,
        disk_bytes: int = 0,
        memory_bytes: int = 0,
    ) -> None:
        self.kind, self.memory = kind, EmbeddingMemory(memory_bytes)
        self.store = EmbeddingStore(folder, disk_bytes) if folder else None
        self._folder, self._told = folder, False

    def entry(self, media: Media) -> "Entry":
        """What is kept of a medium; use it in a `with` block."""
        return Entry(self, media)

    def tell(self, error: OSError) -> None:
        """Warn, once, that the disk level does not work."""
        if not self._told:
            self._told = True
            why = error.strerror or type(error).__name__
            message = f"visual embeddings are not kept: {why} in {self._folder}; answers go on"
            warnings.warn(message, SpavaWarning, stacklevel=2)


class Entry:
    """The kept units of one medium."""

    def __init__(self, cache: EmbeddingCache, media: Media) -> None:
        self._cache, self._media, self._kind = cache, media, cache.kind
        self._key, self._stored, self._unit_bytes = "", None, 0
        if self._kind is None or not media.content:
            return
        self._key = _key(media, self._kind)
        self._unit_bytes = media.unit_tokens * self._kind.hidden * self._kind.dtype.itemsize
        if cache.store is not None:
            self._stored = cache.store.open(self._key, media.num_units, self._unit_bytes)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._stored is not None:
            self._stored.close()

    def read(self, units: Sequence[int]) -> Iterator[tuple[Sequence[int], Tensor | None]]:
        """`units` as runs, in order: each with its embeddings `[n * unit_tokens, hidden]` on the
        CPU, or None where they have to be made.
        """
        missing: list[int] = []
        for first in range(0, len(units), _STEP):
            for run, rows in self._step(units[first : first + _STEP]):
                if rows is None:
                    missing += run
                    continue
                if missing:
                    yield missing, None
                    missing = []
                yield run, rows
        if missing:
            yield missing, None

    def write(self, units: Sequence[int], embeddings: Tensor) -> None:
        """Keep the embeddings of `units`, `[n * unit_tokens, hidden]` on any device."""
        source = self._media.source
        # The decoder read files that were the ones that were hashed. One that is gone since may be
        # the last trace of a change.
        changed = [*map(stamp_of, source.paths)] != [*source.stamps]
        # A sum is finite when all that it is made of is.
        broken = not torch.isfinite(embeddings.sum(dtype=torch.float32))
        if not self._key or changed or broken:
            return
        flat = embeddings.detach().reshape(len(units), -1).cpu().contiguous()
        rows = flat.view(torch.uint8).numpy()
        self._cache.memory.put(self._key, units, rows)
        if self._stored is not None:
            try:
                self._stored.write(units, rows)
            except OSError as error:
                self._cache.tell(error)

    def _step(self, units: Sequence[int]) -> list[tuple[Sequence[int], Tensor | None]]:
        """`units` as runs that are kept and that are not."""
        kind = self._kind
        if kind is None or not self._key:
            return [(units, None)]
        rows = np.empty((len(units), self._unit_bytes), np.uint8)
        kept = np.zeros(len(units), bool)
        for i, unit in enumerate(units):
            row = self._cache.memory.get(self._key, unit)
            if row is not None:
                rows[i], kept[i] = row, True
        self._read_missing(units, rows, kept)
        tensor = torch.from_numpy(rows).view(kind.dtype).view(len(units), -1, kind.hidden)
        return [
            (units[part], tensor[part].flatten(0, 1) if there else None)
            for part, there in _runs(kept)
        ]

    def _read_missing(self, units: Sequence[int], rows: np.ndarray, kept: np.ndarray) -> None:
        """Fill in from the disk what the memory has not."""
        if self._stored is None:
            return
        for part, there in _runs(kept):
            if there:
                continue
            try:
                found = self._stored.read(units[part], rows[part])
            except OSError as error:
                self._cache.tell(error)
                continue
            kept[part] = found
            read = [unit for unit, own in zip(units[part], found, strict=True) if own]
            self._cache.memory.put(self._key, read, rows[part][found])


def _key(media: Media, kind: Kind) -> str:
    """A hash of everything that the embeddings follow from."""
    parts = (
        _VERSION,
        *(media.content, media.picture, media.frames, media.size, media.grid, media.unit_tokens),
        *(kind.identity, kind.hidden, kind.dtype, kind.device),
    )
    return blake2b(repr(parts).encode(), digest_size=20).hexdigest()


def _runs(kept: np.ndarray) -> list[tuple[slice, bool]]:
    """Where the same value stands in a row, in order."""
    ends = [*(np.flatnonzero(np.diff(kept)) + 1).tolist(), len(kept)]
    return [
        (slice(start, stop), bool(kept[start]))
        for start, stop in zip([0, *ends[:-1]], ends, strict=True)
    ]
