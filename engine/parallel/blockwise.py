"""Attention over [anchor | passing | block] with the query riding along: one step that serves every
blockwise method.

H = query heads, Hkv = KV heads, D = head dim, W = ranks. Order of work in a layer: score and
select, launch the gather of what the blocks pass, all attention inside blocks and of the query,
then anchor and passing blocks, merge. The gather so travels while the local attention computes.
"""

import torch
from torch import Tensor

from spava_app.engine.comm import Comm, Pending
from spava_app.engine.kv_cache import KVCache
from spava_app.engine.layout import Layout
from spava_app.engine.parallel.base import Prefill, merge_packed, pack_partial
from spava_app.kernels.attention import attention
from spava_app.kernels.lse import merge
from spava_app.kernels.select import gather_packed, query_scores, select


class BlockwisePrefill(Prefill):
    """See the module. `overlap=False` waits for each gather where it is launched; the numbers are
    the same.
    """

    def __init__(self, layout: Layout, comm: Comm, cache: KVCache, *, overlap: bool = True) -> None:
        super().__init__(layout, comm, cache)
        self.overlap = overlap
        self.blocks = tuple(layout.local_slices(comm.rank))
        self.num_anchor = len(layout.anchor_rows(comm.rank))
        self.num_context = self.num_anchor + sum(len(layout.blocks[j]) for j, _ in self.blocks)
        self._sent_rows = max(sum(self._rows_sent(rank)) for rank in range(layout.world_size))
        self._arrived = torch.tensor(self._arrival_order(), dtype=torch.int64, device=cache.device)

    def attend(
        self, layer: int, q: Tensor, k: Tensor, v: Tensor, key_scores: Tensor | None = None
    ) -> Tensor:
        q_query = q[self.num_context :]
        passed = self._launch(self.comm.all_gather(self._to_send(q_query, k, v, key_scores)))
        local = [attention(q[rows], k[rows], v[rows], causal=True) for _, rows in self.blocks]
        answered = self._launch(self.comm.all_gather(self._query_stage(q_query, k, v)))

        seen_k, seen_v = self._anchor_and_passing(k, v, passed())
        outs = [self._anchor_rows(q[: self.num_anchor], seen_k, seen_v)]
        for (block, rows), own in zip(self.blocks, local, strict=True):
            visible = self.layout.anchor_len + self.layout.passed_before(block)
            before = attention(q[rows], seen_k[:visible], seen_v[:visible], causal=False)
            outs.append(merge((own, before))[0].to(q.dtype))
        outs.append(merge_packed(answered())[0].to(q.dtype))
        self._cache_rows(layer, k, v)
        return torch.cat(outs)

    def _rows_sent(self, rank: int) -> tuple[int, int]:
        """How many anchor rows and how many passed rows `rank` contributes to the gather."""
        anchor = len(self.layout.anchor_rows(rank)) if self.layout.share_anchor else 0
        return anchor, sum(self.layout.passing[j] for j in self.layout.blocks_of(rank))

    def _arrival_order(self) -> list[int]:
        """Where [anchor | passing of block 0 | passing of block 1 | ...] lie among the gathered
        rows.

        Rank r's contribution starts at r * `_sent_rows` and holds its anchor shard, then its blocks
        in order.
        """
        order: list[int] = []
        starts = [rank * self._sent_rows for rank in range(self.layout.world_size)]

        def take(rank: int, count: int) -> None:
            order.extend(range(starts[rank], starts[rank] + count))
            starts[rank] += count

        for rank in range(self.layout.world_size):
            take(rank, self._rows_sent(rank)[0])
        for owner, count in zip(self.layout.owners, self.layout.passing, strict=True):
            take(owner, count)
        return order

    def _to_send(self, q_query: Tensor, k: Tensor, v: Tensor, key_scores: Tensor | None) -> Tensor:
        """This rank's contribution `[_sent_rows, Hkv, 2 D]`, padded to the longest."""
        parts = []
        if self.layout.share_anchor:
            parts.append(torch.cat((k[: self.num_anchor], v[: self.num_anchor]), dim=-1))
        for block, rows in self.blocks:
            if count := self.layout.passing[block]:
                scores = (
                    query_scores(q_query, k[rows]) if key_scores is None else key_scores[:, rows]
                )
                parts.append(gather_packed(k[rows], v[rows], select(scores, count)))
        padding = self._sent_rows - sum(self._rows_sent(self.comm.rank))
        parts.append(k.new_zeros(padding, k.shape[1], 2 * k.shape[2]))
        return torch.cat(parts)

    def _launch(self, pending: Pending) -> Pending:
        if self.overlap:
            return pending
        done = pending()
        return lambda: done

    def _query_stage(self, q_query: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """The query's rows over every cached key: each rank its shard, in full, since all context
        precedes them.

        Returns:
            The packed partial over this rank's shard.
        """
        shard_k, shard_v = self._context_shard(k), self._context_shard(v)
        part = attention(q_query, shard_k, shard_v, causal=False)
        if self.comm.rank == self.layout.query_owner:
            own = attention(q_query, k[self.num_context :], v[self.num_context :], causal=True)
            part = merge((part, own))
        return pack_partial(part)

    def _context_shard(self, x: Tensor) -> Tensor:
        """The context rows of `x` that this rank caches."""
        if self.layout.share_anchor:
            return x[: self.num_context]
        shard = self.layout.anchor_shard(self.comm.rank)
        return torch.cat((x[shard.start : shard.stop], x[self.num_anchor : self.num_context]))

    def _anchor_and_passing(self, k: Tensor, v: Tensor, gathered: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of [anchor | passing blocks in order]; a block sees a prefix of it."""
        seen_k, seen_v = gathered.flatten(0, 1)[self._arrived].chunk(2, dim=-1)
        if self.layout.share_anchor:
            return seen_k, seen_v
        return torch.cat((k[: self.num_anchor], seen_k)), torch.cat((v[: self.num_anchor], seen_v))

    def _anchor_rows(self, q_anchor: Tensor, seen_k: Tensor, seen_v: Tensor) -> Tensor:
        """Anchor rows see the anchor causally; a shard's last row is not the anchor's last."""
        stop = self.layout.anchor_rows(self.comm.rank).stop
        return attention(q_anchor, seen_k[:stop], seen_v[:stop], causal=True)[0]

    def _cache_rows(self, layer: int, k: Tensor, v: Tensor) -> None:
        self.cache.append(layer, self._context_shard(k), self._context_shard(v))
        if self.comm.rank == self.layout.query_owner:
            self.cache.append(layer, k[self.num_context :], v[self.num_context :])
