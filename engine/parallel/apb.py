"""APB (arXiv 2502.12085): contiguous blocks, an anchor that embeds the question, passing blocks.

V = blocks, l_a = anchor rows, l_p = keys a block passes on, s = tokens of the system prompt, L_q' =
question tokens before the first end of turn. Blocks after the first see the anchor
`ctx[0:s] + question + ctx[s : l_a - L_q']` at positions 0 .. l_a-1, the passing blocks of all
earlier blocks, and themselves causally. The question's rows see every key.

Which keys are passed is up to a retaining head's scores, or, without one, to query-aware scores.
Block 0's first l_a - L_q' tokens are never passed: exactly those the others hold as anchor. (The
released code withholds l_a, so that L_q' tokens reach no other block at all.)
"""

from dataclasses import dataclass

from spava_app.engine.layout import Layout, PromptShape, cut
from spava_app.engine.parallel.blockwise import PassingMethod
from spava_app.errors import InvalidInput

ANCHOR_SHARE, PASSING_SHARE, LONGEST = 4, 8, 8192  # of a block, for text (APB, table 8)
VIDEO_SHARE = 64  # of the prompt, for both, where APB is Spava's baseline


@dataclass(frozen=True)
class Apb(PassingMethod):
    """APB; by default one block per rank and the papers' lengths for text or for video."""

    name = "apb"

    def _layout(self, prompt: PromptShape, world_size: int) -> Layout:
        num_blocks = self.virtual_hosts or world_size
        blocks = cut(0, prompt.context_len, num_blocks)
        block_len = len(blocks[0])
        anchor = self._anchor(prompt, block_len) if num_blocks > 1 else ()
        copied = sum(len(tokens) for tokens in anchor if tokens.start < prompt.context_len)
        candidates = (blocks[0][copied:], *blocks[1:])
        default = min(block_len // PASSING_SHARE, LONGEST)
        if prompt.has_video:
            default = prompt.num_tokens // VIDEO_SHARE
        return Layout(
            num_tokens=prompt.num_tokens,
            world_size=world_size,
            blocks=blocks,
            owners=self.owners(num_blocks, world_size),
            query_owner=world_size - 1,
            query_len=prompt.query_len,
            extra_len=prompt.extra_len,
            anchor=anchor,
            share_anchor=self.share_anchor,
            first_with_anchor=1,
            candidates=candidates,
            passing=self.passing(candidates, block_len, default),
        )

    def _anchor(self, prompt: PromptShape, block_len: int) -> tuple[range, ...]:
        """System prompt, question, and the tokens after the system prompt, l_a in all."""
        context = prompt.context_len
        question_len = prompt.query_len if prompt.question_len is None else prompt.question_len
        least = prompt.system_len + question_len
        anchor_len = self.anchor_len
        if anchor_len is None:
            share = min(block_len // ANCHOR_SHARE, LONGEST)
            anchor_len = max(prompt.num_tokens // VIDEO_SHARE if prompt.has_video else share, least)
        elif anchor_len < least:
            fix = f"the system prompt and the question alone are {least} tokens: give at least that"
            raise InvalidInput("anchor_len", anchor_len, fix)
        # Beyond the first block the anchor would repeat tokens that later blocks hold themselves.
        copied = min(anchor_len - question_len, block_len)
        system = min(prompt.system_len, copied)
        return range(system), range(context, context + question_len), range(system, copied)
