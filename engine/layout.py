"""Where every token of a prompt lives: plain integers, no tensors, no communication.

n = prompt tokens, V = blocks (virtual hosts), W = ranks. A prompt is [context | query]; a blockwise
method cuts the context into blocks, some of which see an anchor. A rank computes the rows
[its anchor rows | its blocks | query | extra] and caches a disjoint part of the prompt.
"""

from collections.abc import Iterable, Iterator
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
        system_len: tokens before the user's content, kept at the front of an anchor that embeds
            the question.
        question_len: leading tokens of the tail that are the question itself, without the template
            after it; None for the whole tail.
        extra_len: rows of an extra query, computed like the question but never cached.
        has_video: most of the context is video.
    """

    num_tokens: int
    query_len: int
    system_len: int = 0
    question_len: int | None = None
    extra_len: int = 0
    has_video: bool = False

    def __post_init__(self) -> None:
        if not 1 <= self.query_len <= self.num_tokens:
            fix = f"must be 1 to num_tokens={self.num_tokens}"
            raise InvalidInput("query_len", self.query_len, fix)
        if not 0 <= self.system_len <= self.context_len:
            fix = f"must be 0 to the context's {self.context_len} tokens"
            raise InvalidInput("system_len", self.system_len, fix)
        if self.question_len is not None and not 0 <= self.question_len <= self.query_len:
            fix = f"must be 0 to query_len={self.query_len}"
            raise InvalidInput("question_len", self.question_len, fix)
        if self.extra_len < 0:
            raise InvalidInput("extra_len", self.extra_len, "must be at least 0")

    @property
    def context_len(self) -> int:
        return self.num_tokens - self.query_len


@dataclass(frozen=True)
class Layout:
    """Which rank computes and which rank caches each token, and what each block sees and passes on.

    Attributes:
        num_tokens: n.
        world_size: W.
        blocks: token ranges, in order and disjoint; with a cached anchor they cover the context
            after it, with a query the context, otherwise all of the prompt.
        owners: the rank of each block.
        query_owner: the rank that caches the query's keys, computes the last row and samples.
        query_len: rows of the query block, computed on every rank; 0 where the question is an
            ordinary part of the last block.
        extra_len: rows of an extra query (token indices n and up), on every rank, never cached.
        anchor: the token ranges whose rows are the anchor, in order; row i of it has position i.
        anchor_cached: whether the anchor's keys are kept, a shard on each rank; if not, its tokens
            also stand in a block and the anchor is dropped after the prefill.
        share_anchor: each rank computes its shard of the anchor and receives the rest, instead of
            computing all of it.
        first_with_anchor: blocks from this one on see the anchor.
        candidates: per block, the tokens that may be selected for passing.
        passing: how many selected keys each block passes to all blocks after it.
    """

    num_tokens: int
    world_size: int
    blocks: tuple[range, ...]
    owners: tuple[int, ...]
    query_owner: int
    query_len: int = 0
    extra_len: int = 0
    anchor: tuple[range, ...] = ()
    anchor_cached: bool = False
    share_anchor: bool = False
    first_with_anchor: int = 0
    candidates: tuple[range, ...] = ()
    passing: tuple[int, ...] = ()

    @property
    def query(self) -> range:
        """The query's token indices."""
        return range(self.num_tokens - self.query_len, self.num_tokens)

    @property
    def anchor_len(self) -> int:
        """Rows of the anchor."""
        return sum(map(len, self.anchor))

    def anchor_shard(self, rank: int) -> range:
        """The rows of the anchor that fall to `rank` where the anchor is spread."""
        return shard(self.anchor_len, rank, self.world_size)

    def anchor_rows(self, rank: int) -> range:
        """The rows of the anchor that `rank` computes."""
        if self.share_anchor:
            return self.anchor_shard(rank)
        needed = self.anchor_cached or any(j >= self.first_with_anchor for j in self.own(rank))
        return range(self.anchor_len if needed else 0)

    def own(self, rank: int) -> tuple[int, ...]:
        """Indices of the blocks that `rank` owns, ascending."""
        return tuple(j for j, owner in enumerate(self.owners) if owner == rank)

    def rows(self, rank: int) -> list[range]:
        """Token indices of the rows that `rank` computes, in their local order."""
        return [*_part(self.anchor, self.anchor_rows(rank)), *self._after_anchor(rank)]

    def num_rows(self, rank: int) -> int:
        """How many rows `rank` computes."""
        blocks = sum(len(self.blocks[j]) for j in self.own(rank))
        return len(self.anchor_rows(rank)) + blocks + self.query_len + self.extra_len

    def last_row(self, rank: int) -> int:
        """Which of the query owner's rows is the prompt's last token."""
        return self.num_rows(rank) - self.extra_len - 1

    def num_cached(self, rank: int) -> int:
        """How many tokens `rank` keeps."""
        anchor = len(self.anchor_shard(rank)) if self.anchor_cached else 0
        blocks = sum(len(self.blocks[j]) for j in self.own(rank))
        return anchor + blocks + (self.query_len if rank == self.query_owner else 0)

    def positions(self, rank: int) -> list[range]:
        """Where in the prompt those rows stand: their token indices, but for an anchor's rows."""
        return [self.anchor_rows(rank), *self._after_anchor(rank)]

    def _after_anchor(self, rank: int) -> list[range]:
        extra = range(self.num_tokens, self.num_tokens + self.extra_len)
        return [*(self.blocks[j] for j in self.own(rank)), self.query, extra]

    def cached(self, rank: int) -> list[range]:
        """Token indices whose keys and values `rank` keeps, in the order it caches them."""
        anchor = self.anchor_shard(rank) if self.anchor_cached else range(0)
        query = self.query if rank == self.query_owner else range(0)
        return [anchor, *(self.blocks[j] for j in self.own(rank)), query]

    def sees_anchor(self, block: int) -> bool:
        """Whether the rows of `block` see the anchor."""
        return block >= self.first_with_anchor

    def passed_before(self, block: int) -> int:
        """How many passed keys `block` sees: all that the earlier blocks pass."""
        return self._passed_before[block] if self.passing else 0

    @cached_property
    def _passed_before(self) -> tuple[int, ...]:
        return tuple(accumulate(self.passing, initial=0))

    def local_blocks(self, rank: int) -> Iterator[tuple[int, slice]]:
        """(block index, its local rows) for each block of `rank`."""
        start = len(self.anchor_rows(rank))
        for j in self.own(rank):
            stop = start + len(self.blocks[j])
            yield j, slice(start, stop)
            start = stop


def _part(ranges: Iterable[range], part: range) -> Iterator[range]:
    """Items `part` of the concatenation of `ranges`."""
    start = 0
    for tokens in ranges:
        inside = tokens[max(part.start - start, 0) : max(part.stop - start, 0)]
        if inside:
            yield inside
        start += len(tokens)


def shard(length: int, part: int, num_parts: int) -> range:
    """Part `part` of `length` items cut evenly, the last one never shorter than others."""
    return range(part * length // num_parts, (part + 1) * length // num_parts)


def cut(start: int, stop: int, num_blocks: int) -> tuple[range, ...]:
    """Consecutive ranges of ceil(length / num_blocks); the last ones may be short or empty."""
    size = -(-(stop - start) // num_blocks)
    edges = [min(start + j * size, stop) for j in range(num_blocks + 1)]
    return tuple(range(a, b) for a, b in pairwise(edges))


def zigzag_owners(num_blocks: int, world_size: int) -> tuple[int, ...]:
    """0 .. W-1, W-1 .. 0, repeated: early and late blocks even out on every rank."""
    period = [*range(world_size), *reversed(range(world_size))]
    return tuple(period[j % len(period)] for j in range(num_blocks))


def contiguous_owners(num_blocks: int, world_size: int) -> tuple[int, ...]:
    """Neighbouring blocks on the same rank."""
    return tuple(j * world_size // num_blocks for j in range(num_blocks))
