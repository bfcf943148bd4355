"""Which rows of which parameter each tensor of a published checkpoint fills.

Our modules fuse projections, so a published tensor is a run of rows of one of our parameters. A
model states its table once; loading and saving both follow it.
"""

from dataclasses import dataclass, field

from torch import nn


@dataclass(frozen=True)
class Rows:
    """Rows `start` to `stop` of the parameter `name`."""

    name: str
    start: int
    stop: int


@dataclass
class Table:
    """Published tensor name to rows of our parameters, filled piece by piece.

    Args:
        model: whose parameters are named.
    """

    model: nn.Module
    rows: dict[str, Rows] = field(default_factory=dict)

    def whole(self, published: str, name: str) -> None:
        """`published` is all of the parameter `name`."""
        self.rows[published] = Rows(name, 0, self.model.get_parameter(name).shape[0])

    def stacked(self, published: dict[str, int], name: str) -> None:
        """The parameter `name` is these tensors on top of each other, with so many rows each."""
        start = 0
        for tensor, size in published.items():
            self.rows[tensor] = Rows(name, start, start + size)
            start += size
        total = self.model.get_parameter(name).shape[0]
        if start != total:
            raise ValueError(f"{name} has {total} rows, the table names {start}")
