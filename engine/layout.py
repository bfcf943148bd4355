"""Where every token of a prompt lives: plain integers, no tensors, no communication.

n = prompt tokens, V = blocks (virtual hosts), W = ranks. A prompt is [context | query]; a blockwise
method cuts the context into [anchor | block 0 | ... | block V-1]. A rank computes the rows [its
anchor rows | its blocks | the query] and caches a disjoint part of them.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, pairwise

from spava_app.errors import InvalidInput


@dataclass(frozen=True)
class PromptShape:
    """What a method needs to know of a prompt to lay it out.

    Attributes:
        num_tokens: n, all tokens.
        query_len: tokens of the question tail, the last ones of the prompt.
    """

    num_tokens: int
    query_len: int

    def __post_init__(self) -> None:
        if not 1 <= self.query_len <= self.num_tokens:
            raise InvalidInput(
                "query_len", self.query_len, f"must be 1 to num_tokens={self.num_tokens}"
            )

    @property
    def context_len(self) -> int:
        return self.num_tokens - self.query_len


@dataclass(frozen=True)
class Layout:
    """Which rank computes and which rank caches each token, and what each block passes on.

    Attributes:
        num_tokens: n.
        query_len: rows of the query block, computed on every rank; 0 where the question is part of
            the last block.
        anchor_len: rows of the anchor block, tokens 0 .. anchor_len - 1.
        share_anchor: each rank computes its shard of the anchor (and receives the rest) instead of
            all of it.
        blocks: token ranges, in order, disjoint, covering the context after the anchor.
        owners: the rank of each block.
        passing: how many selected keys each block passes to the blocks after it.
        world_size: W.
        query_owner: the rank that caches the query's keys and samples tokens.
    """

    num_tokens: int
    query_len: int
    anchor_len: int
    share_anchor: bool
    blocks: tuple[range, ...]
    owners: tuple[int, ...]
    passing: tuple[int, ...]
    world_size: int
    query_owner: int

    @property
    def query(self) -> range:
        """The query's token indices."""
        return range(self.num_tokens - self.query_len, self.num_tokens)

    def anchor_shard(self, rank: int) -> range:
        """The part of the anchor that `rank` caches."""
        return shard(self.anchor_len, rank, self.world_size)

    def anchor_rows(self, rank: int) -> range:
        """The part of the anchor that `rank` computes."""
        return self.anchor_shard(rank) if self.share_anchor else range(self.anchor_len)

    def blocks_of(self, rank: int) -> tuple[int, ...]:
        """Indices of the blocks that `rank` owns, ascending."""
        return tuple(j for j, owner in enumerate(self.owners) if owner == rank)

    def rows(self, rank: int) -> list[int]:
        """Token indices of the rows that `rank` computes, in their local order."""
        own = (self.blocks[j] for j in self.blocks_of(rank))
        return [*self.anchor_rows(rank), *(token for block in own for token in block), *self.query]

    def cached(self, rank: int) -> list[int]:
        """Token indices whose keys and values `rank` keeps, in the order it caches them."""
        own = (self.blocks[j] for j in self.blocks_of(rank))
        context = [*self.anchor_shard(rank), *(token for block in own for token in block)]
        return [*context, *self.query] if rank == self.query_owner else context

    def passed_before(self, block: int) -> int:
        """How many passed keys `block` sees: all that the earlier blocks pass."""
        return self._passed_before[block]

    @cached_property
    def _passed_before(self) -> tuple[int, ...]:
        return tuple(accumulate(self.passing, initial=0))

    def local_slices(self, rank: int) -> Iterator[tuple[int, slice]]:
        """(block index, its local rows) for each block of `rank`."""
        start = len(self.anchor_rows(rank))
        for j in self.blocks_of(rank):
            stop = start + len(self.blocks[j])
            yield j, slice(start, stop)
            start = stop


def shard(length: int, rank: int, world_size: int) -> range:
    """The contiguous share of `length` items that falls to `rank`: sizes differ by at most one."""
    return range(rank * length // world_size, (rank + 1) * length // world_size)


def cut(start: int, stop: int, num_blocks: int) -> tuple[range, ...]:
    """`num_blocks` consecutive ranges of ceil(length / num_blocks); the last ones may be short or
    empty.
    """
    size = -(-(stop - start) // num_blocks)
    edges = [min(start + j * size, stop) for j in range(num_blocks + 1)]
    return tuple(range(a, b) for a, b in pairwise(edges))


def zigzag_owners(num_blocks: int, world_size: int) -> tuple[int, ...]:
    """Ranks in the order 0 .. W-1, W-1 .. 0, repeated, so that early and late blocks even out on
    every rank.
    """
    period = [*range(world_size), *reversed(range(world_size))]
    return tuple(period[j % len(period)] for j in range(num_blocks))


def contiguous_owners(num_blocks: int, world_size: int) -> tuple[int, ...]:
    """Neighbouring blocks on the same rank."""
    return tuple(j * world_size // num_blocks for j in range(num_blocks))
