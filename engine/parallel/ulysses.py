"""DeepSpeed-Ulysses (arXiv 2309.14509): from sequence shards to head shards and back.

n = tokens, W = ranks, T = local rows, H = query heads, Hkv = KV heads, D = head dim. A rank attends
H / W query heads over the whole sequence. With fewer KV heads than ranks a KV head is sent to each
rank that has query heads of its group.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from spava_app.engine.comm import Comm
from spava_app.engine.kv_cache import KVCache
from spava_app.engine.layout import Layout
from spava_app.engine.parallel.base import Prefill
from spava_app.engine.parallel.buffers import Buffers, HeadShape
from spava_app.engine.parallel.exact import ExactMethod
from spava_app.engine.parallel.work import Call, Step
from spava_app.errors import InvalidInput


@dataclass(frozen=True)
class Ulysses(ExactMethod):
    """One contiguous block per rank between the layers, a share of the heads inside attention."""

    name = "ulysses"

    def check_heads(self, num_heads: int, num_kv_heads: int, world_size: int) -> None:
        super().check_heads(num_heads, num_kv_heads, world_size)
        if num_heads % world_size or (num_kv_heads % world_size and world_size % num_kv_heads):
            fix = (
                f"ulysses cannot spread {num_heads} query and {num_kv_heads} KV heads evenly: "
                "choose ranks that divide both, or another method"
            )
            raise InvalidInput("ranks", world_size, fix)

    def prefill(self, layout: Layout, comm: Comm, cache: KVCache) -> Prefill:
        return UlyssesPrefill(self, layout, comm, cache)

    def steps(self, layout: Layout, rank: int, heads: HeadShape) -> Sequence[Step]:
        ranks, rows, n = layout.world_size, layout.num_rows(rank), layout.num_tokens
        attend = Step((Call(n, n, causal=True, share=ranks),))
        if ranks == 1:
            return [attend]
        sent = ranks * rows * self._share(heads, ranks)
        comes = (n - rows) * self._share(heads, ranks)
        there = Step(received=comes, copied=2 * sent, launches=3 * ranks)
        out = rows * heads.q_row
        back = Step(received=out * (ranks - 1) // ranks, copied=2 * out, launches=2)
        return [there, attend, back]

    @staticmethod
    def _share(heads: HeadShape, ranks: int) -> int:
        """Bytes of a row's queries, keys and values that one rank attends."""
        kv_share = max(1, heads.num_kv_heads // ranks) * heads.kv_row // heads.num_kv_heads
        return heads.q_row // ranks + kv_share

    def buffers(self, layout: Layout, rank: int, heads: HeadShape) -> Buffers:
        ranks, rows, n = layout.world_size, layout.num_rows(rank), layout.num_tokens
        share = self._share(heads, ranks)
        # What is sent and what comes; what came and its output; the output on its way back.
        there = Buffers(exchange=(ranks * rows + n) * share if ranks > 1 else 0)
        attention = Buffers(n * (heads.q_row + heads.lse_row) // ranks, exchange=n * share)
        back = Buffers((n // ranks + rows if ranks > 1 else n) * heads.q_row)
        return Buffers.at_peak(there, attention, back)


class UlyssesPrefill(Prefill):
    """Two all-to-all exchanges around one causal call."""

    def attend(
        self, layer: int, q: Tensor, k: Tensor, v: Tensor, key_scores: Tensor | None = None
    ) -> Tensor:
        self.cache.append(layer, k, v)
        world_size = self.comm.world_size
        share, kv_share = q.shape[1] // world_size, max(1, k.shape[1] // world_size)
        lengths = [len(block) for block in self.layout.blocks]
        mine = [q.shape[0]] * world_size
        # Temporaries without names: each is as large as all of q, k and v.
        whole = self.comm.all_to_all(self._by_rank(q, k, v, share, kv_share), mine, lengths)
        all_q, all_k, all_v = whole.split((share, kv_share, kv_share), dim=1)
        out = self._attention(all_q, all_k, all_v, causal=True)[0]
        del whole, all_q, all_k, all_v
        back = self.comm.all_to_all(out, lengths, mine)
        del out
        return torch.cat(back.chunk(world_size), dim=1) if len(q) else torch.zeros_like(q)

    def _by_rank(self, q: Tensor, k: Tensor, v: Tensor, share: int, kv_share: int) -> Tensor:
        """What each rank gets of the local rows, one after the other:
        `[W * T, H / W + 2 Hkv / W, D]`.
        """
        world_size = self.comm.world_size
        sent = q.new_empty(world_size, q.shape[0], share + 2 * kv_share, q.shape[2])
        for rank in range(world_size):
            first = rank * k.shape[1] // world_size
            heads = slice(first, first + kv_share)
            own_q = q[:, rank * share : (rank + 1) * share]
            torch.cat((own_q, k[:, heads], v[:, heads]), dim=1, out=sent[rank])
        return sent.flatten(0, 1)
