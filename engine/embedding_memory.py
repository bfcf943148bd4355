"""Visual embeddings in the memory of one process, bounded in bytes."""

from collections import OrderedDict
from collections.abc import Mapping

import numpy as np


class EmbeddingMemory:
    """Units as bytes; of too many, those used longest ago go first."""

    def __init__(self, limit: int) -> None:
        self._limit, self.held = limit, 0
        self._units: OrderedDict[tuple[str, int], np.ndarray] = OrderedDict()

    def get(self, key: str, units: range) -> dict[int, np.ndarray]:
        """Those of the units that are here."""
        found = {unit: self._units[key, unit] for unit in units if (key, unit) in self._units}
        for unit in found:
            self._units.move_to_end((key, unit))
        return found

    def put(self, key: str, rows: Mapping[int, np.ndarray]) -> None:
        """Keep copies: a view would hold on to all that it was cut from."""
        for unit, row in rows.items():
            if row.nbytes > self._limit:
                continue
            if (old := self._units.pop((key, unit), None)) is not None:
                self.held -= old.nbytes
            self._units[key, unit] = row.copy()
            self.held += row.nbytes
            while self.held > self._limit:
                self.held -= self._units.popitem(last=False)[1].nbytes
