"""What a method's attention does in one layer, step by step, for predicting how long it takes.

A method says this next to the code that does it; what a FLOP or a byte takes is the machine's.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from spava_app.kernels.attention import visible_pairs

# Kernels that the host launches for an attention call, a collective, a merge of two parts, and for
# scoring, choosing and packing what a block passes on.
CALL, COLLECTIVE, MERGE, SELECT = 2, 3, 14, 14


@dataclass(frozen=True)
class Call:
    """One call of attention.

    Attributes:
        rows, keys: queries, and keys they are held against.
        causal: the mask is aligned to the bottom right.
        share: of the heads, only one in so many is attended on this rank.
    """

    rows: int
    keys: int
    causal: bool = False
    share: int = 1

    @property
    def pairs(self) -> int:
        """Query-key pairs that the mask leaves, as if all heads shared in them."""
        return visible_pairs(self.rows, self.keys, causal=self.causal) // self.share


@dataclass(frozen=True)
class Step:
    """What a rank computes while something travels; steps follow each other.

    Attributes:
        calls: of attention.
        received: bytes that come from other ranks meanwhile.
        copied: bytes that are read and written to pack, put together and merge.
        launches: of kernels for that; those of calls and collectives come on top.
    """

    calls: tuple[Call, ...] = ()
    received: int = 0
    copied: int = 0
    launches: int = 0

    @property
    def all_launches(self) -> int:
        """Kernels that the host launches in this step."""
        calls = sum(call.rows > 0 and call.keys > 0 for call in self.calls)
        return CALL * calls + COLLECTIVE * (self.received > 0) + self.launches


def num_pairs(steps: Sequence[Step]) -> int:
    """Query-key pairs of all calls."""
    return sum(call.pairs for step in steps for call in step.calls)
