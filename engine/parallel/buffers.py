"""How many bytes a method's attention holds, for predicting memory before anything runs."""

from dataclasses import dataclass

from spava_app.engine.parallel.partials import merge_step


@dataclass(frozen=True)
class HeadShape:
    """The heads of a model, and bytes of a row of what belongs to them.

    Attributes:
        element_size: bytes of an element of queries, keys and values.
    """

    num_heads: int
    num_kv_heads: int
    head_dim: int
    element_size: int

    @property
    def wide_size(self) -> int:
        """Bytes of an element where precision matters: at least float32's."""
        return max(4, self.element_size)

    @property
    def q_row(self) -> int:
        """A row's queries; also its output of attention."""
        return self.num_heads * self.head_dim * self.element_size

    @property
    def kv_row(self) -> int:
        """A row's keys and values."""
        return 2 * self.num_kv_heads * self.head_dim * self.element_size

    @property
    def wide_row(self) -> int:
        """A row's output of attention before it is cast back."""
        return self.num_heads * self.head_dim * self.wide_size

    @property
    def wide_keys(self) -> int:
        """A row's keys in full precision, written and read again."""
        return 2 * self.num_kv_heads * self.head_dim * self.wide_size

    @property
    def lse_row(self) -> int:
        """A row's log-sum-exp."""
        return self.num_heads * self.wide_size

    def merged(self, rows: int) -> int:
        """Bytes read and written by merging two parts of `rows` rows: each is cleared of NaN and
        weighted, they are added in full precision, and the sum is cast.
        """
        return rows * (7 * self.q_row + 4 * self.wide_row)

    def merge(self, rows: int) -> int:
        """Working copies of a merge of `rows` rows: a part without its NaN, the sum, weights."""
        return min(rows, merge_step(self.wide_row)) * (2 * self.wide_row + 8 * self.lse_row)


@dataclass(frozen=True)
class Buffers:
    """Bytes that `Prefill.attend` holds at its peak, besides q, k and v.

    Attributes:
        out: the output, with its log-sum-exp.
        exchange: keys and values that are sent, received or put together from other ranks'.
        partial: attention over part of the keys, until it is merged.
        merge: working copies.
    """

    out: int = 0
    exchange: int = 0
    partial: int = 0
    merge: int = 0

    @property
    def total(self) -> int:
        return self.out + self.exchange + self.partial + self.merge

    @staticmethod
    def at_peak(*moments: "Buffers") -> "Buffers":
        """The moment with the most."""
        return max(moments, key=lambda buffers: buffers.total)
