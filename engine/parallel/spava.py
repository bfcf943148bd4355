"""Spava: query-aware approximate prefill over virtual hosts (arXiv 2601.21444).

n_c = context tokens (prompt without the question tail), V = virtual hosts, b = block length. Every
context row sees the anchor, the passing blocks of all earlier blocks, and its own block causally.
The question's rows see every key.
"""

from dataclasses import dataclass
from math import ceil

from spava_app.engine.comm import Comm
from spava_app.engine.kv_cache import KVCache
from spava_app.engine.layout import Layout, PromptShape, cut, zigzag_owners
from spava_app.engine.parallel.base import Method
from spava_app.engine.parallel.blockwise import BlockwisePrefill
from spava_app.errors import InvalidInput

ANCHOR_SHARE, PASSING_SHARE, ROUND_TO = 64, 128, 128


@dataclass(frozen=True)
class Spava(Method):
    """Options of Spava; None takes the paper's default.

    Attributes:
        virtual_hosts: V, blocks of the context; default 2 per rank. For a fixed V the result does
            not depend on the number of ranks.
        anchor_len: tokens of the anchor block; default n_c / 64 rounded up to 128.
        passing_len: tokens a block passes on; default n_c / 128 rounded up to 128.
        passing_fraction: the same as a fraction of the block: 0 passes nothing, 1 is exact
            attention.
        share_anchor: compute each anchor row on one rank instead of on all.
        overlap: compute while passing blocks travel; off only to measure what hiding them is worth.
    """

    name = "spava"

    virtual_hosts: int | None = None
    anchor_len: int | None = None
    passing_len: int | None = None
    passing_fraction: float | None = None
    share_anchor: bool = True
    overlap: bool = True

    def __post_init__(self) -> None:
        if self.passing_len is not None and self.passing_fraction is not None:
            raise InvalidInput(
                "passing_fraction", self.passing_fraction, "give it or passing_len, not both"
            )
        for field, least in (("virtual_hosts", 1), ("anchor_len", 0), ("passing_len", 0)):
            value = getattr(self, field)
            if value is not None and (not isinstance(value, int) or value < least):
                raise InvalidInput(field, value, f"must be an integer of at least {least}")
        if self.passing_fraction is not None and not 0 <= self.passing_fraction <= 1:
            raise InvalidInput("passing_fraction", self.passing_fraction, "must be 0 to 1")

    def layout(self, prompt: PromptShape, world_size: int) -> Layout:
        context = prompt.context_len
        num_blocks = self.virtual_hosts or 2 * world_size
        anchor = (
            _rounded_up(context // ANCHOR_SHARE) if self.anchor_len is None else self.anchor_len
        )
        anchor = min(anchor, context)
        blocks = cut(anchor, context, num_blocks)
        limit = self._passing_limit(context, len(blocks[0]))
        passing = [min(limit, len(block)) for block in blocks]
        return Layout(
            num_tokens=prompt.num_tokens,
            query_len=prompt.query_len,
            anchor_len=anchor,
            share_anchor=self.share_anchor,
            blocks=blocks,
            owners=zigzag_owners(num_blocks, world_size),
            passing=(*passing[:-1], 0),  # nobody comes after the last block
            world_size=world_size,
            query_owner=0,
        )

    def _passing_limit(self, context: int, block_len: int) -> int:
        if self.passing_fraction is not None:
            return ceil(self.passing_fraction * block_len)
        if self.passing_len is not None:
            return self.passing_len
        return _rounded_up(context // PASSING_SHARE)

    def prefill(self, layout: Layout, comm: Comm, cache: KVCache) -> BlockwisePrefill:
        return BlockwisePrefill(layout, comm, cache, overlap=self.overlap)


def _rounded_up(length: int) -> int:
    return -(-length // ROUND_TO) * ROUND_TO
