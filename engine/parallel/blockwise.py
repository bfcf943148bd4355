"""Attention over [anchor | passing | block] with the query riding along: what star, apb and spava
share.

H = query heads, Hkv = KV heads, D = head dim, W = ranks. Order of work in a layer: score and
select, launch the gather of what the blocks pass, all attention inside blocks and of the query,
then anchor and passing blocks, merge. The gather so travels while the local attention computes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

import torch
from torch import Tensor

from spava_app.engine.comm import Comm, Pending
from spava_app.engine.kv_cache import KVCache
from spava_app.engine.layout import Layout, contiguous_owners, zigzag_owners
from spava_app.engine.parallel.base import Method, Prefill
from spava_app.engine.parallel.blockwise_work import (
    blockwise_steps,
    seen_by,
    sent_anchor,
    sent_rows,
)
from spava_app.engine.parallel.buffers import Buffers, HeadShape
from spava_app.engine.parallel.partials import merge_into, merge_packed, pack_partial
from spava_app.engine.parallel.work import Step
from spava_app.errors import InvalidInput, as_written, check_count, plain_number
from spava_app.kernels.lse import merge
from spava_app.kernels.select import gather_packed, query_scores, select

MOST_BLOCKS = 4096
PLACEMENTS = {"contiguous": contiguous_owners, "zigzag": zigzag_owners}


@dataclass(frozen=True)
class BlockwiseMethod(Method):
    """Options that star, apb and spava share; None takes the method's default.

    Attributes:
        virtual_hosts: V, blocks of the context. For a fixed V the result does not depend on the
            number of ranks.
        anchor_len: rows of the anchor block.
        share_anchor: compute each anchor row on one rank instead of on all.
        placement: which rank owns which block, "contiguous" or "zigzag".
        overlap: compute while passing blocks travel; off only to measure what hiding them is worth.
    """

    virtual_hosts: int | None = None
    anchor_len: int | None = None
    share_anchor: bool = False
    placement: str = "contiguous"
    overlap: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        hosts = check_count("virtual_hosts", self.virtual_hosts, least=1, most=MOST_BLOCKS)
        object.__setattr__(self, "virtual_hosts", hosts)
        object.__setattr__(self, "anchor_len", check_count("anchor_len", self.anchor_len, least=0))
        for field in ("share_anchor", "overlap"):
            if not isinstance(getattr(self, field), bool):
                raise InvalidInput(field, getattr(self, field), "must be true or false")
        if self.placement not in PLACEMENTS:
            fix = f"choose one of {', '.join(PLACEMENTS)}"
            raise InvalidInput("placement", self.placement, fix)

    def owners(self, num_blocks: int, world_size: int) -> tuple[int, ...]:
        """The rank of each block."""
        return PLACEMENTS[self.placement](num_blocks, world_size)

    def prefill(self, layout: Layout, comm: Comm, cache: KVCache) -> "BlockwisePrefill":
        return BlockwisePrefill(self, layout, comm, cache)

    def steps(self, layout: Layout, rank: int, heads: HeadShape) -> Sequence[Step]:
        return blockwise_steps(layout, rank, heads, overlap=self.overlap)

    def buffers(self, layout: Layout, rank: int, heads: HeadShape) -> Buffers:
        ranks, questions = range(layout.world_size), layout.query_len + layout.extra_len
        # What all ranks sent, and of that the anchor and passing blocks in order.
        sent = len(ranks) * max(sent_rows(layout, other) for other in ranks)
        seen = layout.anchor_len + sum(layout.passing)
        answers = (len(ranks) + 1) * questions * (heads.wide_row + heads.lse_row)
        own = layout.own(rank)
        merged = max((len(layout.blocks[j]) for j in own if seen_by(layout, j)), default=0)
        longest = max([len(layout.anchor_rows(rank)), *(len(layout.blocks[j]) for j in own)])
        return Buffers(
            out=layout.num_rows(rank) * (heads.q_row + heads.lse_row),
            exchange=(sent + seen) * heads.kv_row + answers,
            partial=longest * (heads.q_row + 2 * heads.lse_row),
            merge=heads.merge(merged),
        )


@dataclass(frozen=True)
class PassingMethod(BlockwiseMethod):
    """Options of the methods whose blocks pass selected keys on.

    Attributes:
        passing_len: keys a block passes on.
        passing_fraction: the same as a fraction of the block, 0 to 1, rounded up to whole keys.
    """

    passing_len: int | None = None
    passing_fraction: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        passing = check_count("passing_len", self.passing_len, least=0)
        object.__setattr__(self, "passing_len", passing)
        given = self.passing_fraction
        if given is None:
            return
        if passing is not None:
            raise InvalidInput("passing_fraction", given, "give it or passing_len, not both")
        fraction = plain_number(given)
        if fraction is None:
            raise InvalidInput("passing_fraction", given, "must be a number")
        if not 0 <= fraction <= 1:
            raise InvalidInput("passing_fraction", given, "must be 0 to 1")
        object.__setattr__(self, "passing_fraction", fraction)

    def passing(
        self, candidates: tuple[range, ...], block_len: int, default: int
    ) -> tuple[int, ...]:
        """How many keys each block passes on; the last one passes none, nobody comes after it."""
        limit = default if self.passing_len is None else self.passing_len
        if self.passing_fraction is not None:
            limit = ceil(as_written(self.passing_fraction) * block_len)
        return (*(min(limit, len(tokens)) for tokens in candidates[:-1]), 0)


class BlockwisePrefill(Prefill):
    """See the module."""

    def __init__(self, method: BlockwiseMethod, layout: Layout, comm: Comm, cache: KVCache) -> None:
        super().__init__(method, layout, comm, cache)
        self.overlap = method.overlap
        self.blocks = tuple(layout.local_blocks(comm.rank))
        self.num_anchor = len(layout.anchor_rows(comm.rank))
        self.query_at = self.num_anchor + sum(len(layout.blocks[j]) for j, _ in self.blocks)
        self.extra_at = self.query_at + layout.query_len
        self._sent_rows = max(sent_rows(layout, rank) for rank in range(layout.world_size))
        self._arrived = torch.tensor(self._arrival_order(), dtype=torch.int64, device=cache.device)

    def attend(
        self, layer: int, q: Tensor, k: Tensor, v: Tensor, key_scores: Tensor | None = None
    ) -> Tensor:
        passed = self._launch(self._to_send(q, k, v, key_scores))
        out = q.new_empty(q.shape)
        inside = []  # log-sum-exps of the blocks
        for _, rows in self.blocks:
            out[rows], lse = self._attention(q[rows], k[rows], v[rows], causal=True)
            inside.append(lse)
        answered = self._launch(self._query_stage(q, k, v))

        seen_k, seen_v = self._anchor_and_passing(k, v, passed())
        out[: self.num_anchor] = self._anchor_stage(q[: self.num_anchor], seen_k, seen_v)
        for (block, rows), lse in zip(self.blocks, inside, strict=True):
            if seen := seen_by(self.layout, block):
                before_k, before_v = seen_k[seen.start : seen.stop], seen_v[seen.start : seen.stop]
                before = self._attention(q[rows], before_k, before_v, causal=False)
                merge_into(out[rows], ((out[rows], lse), before))
                del before  # as large as the block: not beside the next one
        out[self.query_at :] = merge_packed(answered())[0]
        self._keep(layer, k, v)
        return out

    def _launch(self, x: Tensor) -> Pending:
        pending = self.comm.all_gather(x)
        if self.overlap:
            return pending
        done = pending()
        return lambda: done

    def _arrival_order(self) -> list[int]:
        """Where [anchor | passing of block 0 | passing of block 1 | ...] lie among what arrives.

        Rank r's contribution starts at r * `_sent_rows`: its anchor shard, then its blocks.
        """
        order: list[int] = []
        starts = [rank * self._sent_rows for rank in range(self.layout.world_size)]

        def take(rank: int, count: int) -> None:
            order.extend(range(starts[rank], starts[rank] + count))
            starts[rank] += count

        for rank in range(self.layout.world_size):
            take(rank, sent_anchor(self.layout, rank))
        for owner, count in zip(self.layout.owners, self.layout.passing, strict=False):
            take(owner, count)
        return order

    def _to_send(self, q: Tensor, k: Tensor, v: Tensor, key_scores: Tensor | None) -> Tensor:
        """This rank's contribution `[_sent_rows, Hkv, 2 D]`, padded to the longest."""
        parts = []
        if self.layout.share_anchor:
            parts.append(torch.cat((k[: self.num_anchor], v[: self.num_anchor]), dim=-1))
        for block, rows in self.blocks:
            count = self.layout.passing[block] if self.layout.passing else 0
            if count:
                # Rows that may not be selected lie at the front of their block.
                skip = len(self.layout.blocks[block]) - len(self.layout.candidates[block])
                scores = (
                    query_scores(q[self.query_at : self.extra_at], k[rows])
                    if key_scores is None
                    else key_scores[:, rows]
                )
                parts.append(gather_packed(k[rows], v[rows], select(scores, count, skip=skip)))
        padding = self._sent_rows - sum(map(len, parts))
        parts.append(k.new_zeros(padding, k.shape[1], 2 * k.shape[2]))
        return torch.cat(parts)

    def _anchor_and_passing(self, k: Tensor, v: Tensor, gathered: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of [anchor | passing blocks in order]; a block sees a stretch of it."""
        seen_k, seen_v = gathered.flatten(0, 1)[self._arrived].chunk(2, dim=-1)
        if self.layout.share_anchor:
            return seen_k, seen_v
        anchor = self.layout.anchor_len
        if self.num_anchor < anchor:  # none of this rank's blocks sees it
            missing = k.new_zeros(anchor, *k.shape[1:])
            return torch.cat((missing, seen_k)), torch.cat((missing, seen_v))
        return torch.cat((k[:anchor], seen_k)), torch.cat((v[:anchor], seen_v))

    def _anchor_stage(self, q_anchor: Tensor, seen_k: Tensor, seen_v: Tensor) -> Tensor:
        """Anchor rows see the anchor causally; a shard's last row is not the anchor's last."""
        stop = self.layout.anchor_rows(self.comm.rank).stop
        return self._attention(q_anchor, seen_k[:stop], seen_v[:stop], causal=True)[0]

    def _query_stage(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """The query's rows over every cached key, and extra rows over every key before the query.

        Each rank attends its shard in full, since all context precedes the query; the query's own
        keys are added, causally, on the one rank that keeps them.

        Returns:
            This rank's packed partial of [query | extra].
        """
        shard_k, shard_v = self._context_shard(k), self._context_shard(v)
        part = self._attention(q[self.query_at :], shard_k, shard_v, causal=False)
        if self.comm.rank == self.layout.query_owner:
            inside = [
                self._attention(q[rows], k[rows], v[rows], causal=True)
                for rows in (slice(self.query_at, self.extra_at), slice(self.extra_at, None))
            ]
            outs, lses = zip(*inside, strict=True)
            part = merge((part, (torch.cat(outs), torch.cat(lses, dim=1))))
        return pack_partial(part)

    def _context_shard(self, x: Tensor) -> Tensor:
        """The context rows of `x` that this rank caches."""
        if not self.layout.anchor_cached:
            return x[self.num_anchor : self.query_at]
        if self.layout.share_anchor:
            return x[: self.query_at]
        shard = self.layout.anchor_shard(self.comm.rank)
        return torch.cat((x[shard.start : shard.stop], x[self.num_anchor : self.query_at]))

    def _keep(self, layer: int, k: Tensor, v: Tensor) -> None:
        """Cache this rank's part; passed keys, a repeated anchor and extra rows are dropped."""
        self.cache.append(layer, self._context_shard(k), self._context_shard(v))
        if self.comm.rank == self.layout.query_owner:
            query = slice(self.query_at, self.extra_at)
            self.cache.append(layer, k[query], v[query])
