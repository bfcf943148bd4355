"""Star Attention (arXiv 2411.17116): blocks that see the first one as anchor and nothing else.

V = blocks. Blocks after the first see the anchor, which is the start of block 0 at its original
positions, and themselves; the anchor's copies are dropped after the prefill. The question's rows
see every key.
"""

from dataclasses import dataclass

from spava_app.engine.layout import Layout, PromptShape, cut
from spava_app.engine.parallel.blockwise import BlockwiseMethod


@dataclass(frozen=True)
class Star(BlockwiseMethod):
    """Star Attention; by default one block per rank, and all of the first as anchor."""

    name = "star"

    def _layout(self, prompt: PromptShape, world_size: int) -> Layout:
        num_blocks = self.virtual_hosts or world_size
        blocks = cut(0, prompt.context_len, num_blocks)
        anchor = len(blocks[0]) if self.anchor_len is None else self.anchor_len
        return Layout(
            num_tokens=prompt.num_tokens,
            world_size=world_size,
            blocks=blocks,
            owners=self.owners(num_blocks, world_size),
            query_owner=world_size - 1,
            query_len=prompt.query_len,
            extra_len=prompt.extra_len,
            anchor=(range(min(anchor, len(blocks[0])) if num_blocks > 1 else 0),),
            share_anchor=self.share_anchor,
            first_with_anchor=1,
        )
