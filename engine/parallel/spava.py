"""Spava: query-aware approximate prefill over virtual hosts (arXiv 2601.21444).

n_c = context tokens (prompt without the question tail), V = virtual hosts, b = block length. Every
context row sees the anchor, the passing blocks of all earlier blocks, and its own block causally.
The question's rows see every key. With everything passed it is exact causal attention.
"""

from dataclasses import dataclass

from spava_app.engine.layout import Layout, PromptShape, cut
from spava_app.engine.parallel.blockwise import PassingMethod

ANCHOR_SHARE, PASSING_SHARE, ROUND_TO = 64, 128, 128


@dataclass(frozen=True)
class Spava(PassingMethod):
    """Spava; by default V = 2 per rank in zigzag, l_a = n_c / 64 and l_p = n_c / 128, rounded up to
    multiples of 128. Of a context below 64 or 128 tokens these would be 0, as by the paper's
    division; here they are 128, or as many as there are, so that a short prompt loses nothing.
    """

    name = "spava"

    share_anchor: bool = True
    placement: str = "zigzag"

    def _layout(self, prompt: PromptShape, world_size: int) -> Layout:
        context = prompt.context_len
        num_blocks = self.virtual_hosts or 2 * world_size
        anchor = self.anchor_len
        if anchor is None:
            anchor = _share(context, ANCHOR_SHARE)
        anchor = min(anchor, context)
        blocks = cut(anchor, context, num_blocks)
        return Layout(
            num_tokens=prompt.num_tokens,
            world_size=world_size,
            blocks=blocks,
            owners=self.owners(num_blocks, world_size),
            query_owner=0,
            query_len=prompt.query_len,
            extra_len=prompt.extra_len,
            anchor=(range(anchor),),
            anchor_cached=True,
            share_anchor=self.share_anchor,
            candidates=blocks,
            passing=self.passing(blocks, len(blocks[0]), _share(context, PASSING_SHARE)),
        )


def _share(context: int, part: int) -> int:
    """1 / `part` of the context, rounded up to a multiple of `ROUND_TO`, at least that."""
    return -(-max(context // part, 1) // ROUND_TO) * ROUND_TO
