"""Visual embeddings in the memory of one process, bounded in bytes."""

from collections import OrderedDict
from collections.abc import Iterable

import numpy as np


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
