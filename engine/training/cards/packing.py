"""One sequence per clip: the prompt up to its video, then several questions that do not see each
other.

B = clips, U = units of a clip, Q = questions of a clip, L = tokens of a question's tail (everything
after the video, answer included, padded), C = tokens before the tails, S = C + Q L, H = heads, D =
head dim.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from spava_app.engine.models.decoder import Attend
from spava_app.engine.synthetic.card_drawing import COLORS
from spava_app.engine.training.cards.assets import TOKEN_ID
from spava_app.engine.training.cards.clips import NUM_DIGITS, Clips, ClipSource
from spava_app.engine.training.cards.questions import ask, phrasings

VIDEO_PAD = "<|video_pad|>"
# Part of the questions put in the first, canonical form.
CANONICAL_SHARE = 0.4


@dataclass(frozen=True)
class QuestionTable:
    """Every question as token ids, P forms by 8 colours, with the places that carry a loss."""

    head: Tensor  # the prompt up to its video, [head tokens]
    tails: Tensor  # [P, 8, L], the answer's digit still padding
    color_at: Tensor  # index of the colour word in its tail, [P, 8]
    answer_at: Tensor  # index of the tail's token that predicts the digit, [P, 8]
    digit_ids: Tensor  # token of each digit, [10]
    end_id: int  # token that ends the answer

    @classmethod
    def build(
        cls, tokenizer: PreTrainedTokenizerBase, device: torch.device | str
    ) -> "QuestionTable":
        """Tokenize all questions behind the model's own chat template."""
        rows: list[list[int]] = []
        color_at, answer_at = [], []
        head = ""
        for phrasing in phrasings():
            for color in COLORS:
                question = ask(phrasing, color)
                content = [{"type": "video"}, {"type": "text", "text": question}]
                messages: list[Any] = [{"role": "user", "content": content}]
                text = tokenizer.apply_chat_template(
                    messages, tokenize=False, add_generation_prompt=True
                )
                head, tail = str(text).split(VIDEO_PAD)
                encoded = tokenizer(tail, return_offsets_mapping=True, add_special_tokens=False)
                word_end = tail.lower().index(f" {color} ") + 1 + len(color)
                color_at.append([end for _, end in encoded["offset_mapping"]].index(word_end))
                answer_at.append(len(encoded["input_ids"]) - 1)
                rows.append(encoded["input_ids"])
        length = max(map(len, rows)) + 2  # the digit and the end of the turn
        tails = torch.full((len(rows), length), TOKEN_ID["<|endoftext|>"])
        for row, ids in zip(tails, rows, strict=True):
            row[: len(ids)] = torch.tensor(ids)
            row[len(ids) + 1] = TOKEN_ID["<|im_end|>"]
        shape = (-1, len(COLORS))
        return cls(
            head=torch.tensor(
                tokenizer(head, add_special_tokens=False)["input_ids"], device=device
            ),
            tails=tails.reshape(*shape, length).to(device),
            color_at=torch.tensor(color_at, device=device).reshape(shape),
            answer_at=torch.tensor(answer_at, device=device).reshape(shape),
            digit_ids=torch.tensor(
                [tokenizer.convert_tokens_to_ids(str(digit)) for digit in range(NUM_DIGITS)],
                device=device,
            ),
            end_id=TOKEN_ID["<|im_end|>"],
        )


@dataclass(frozen=True)
class Questions:
    """Questions about the clips of a batch."""

    tails: Tensor  # [B, Q, L]
    color_at: Tensor  # [B, Q]
    answer_at: Tensor  # [B, Q]
    answers: Tensor  # token of the right digit, [B, Q]


def draw_questions(clips: Clips, table: QuestionTable, source: ClipSource, count: int) -> Questions:
    """Ask `count` questions per clip, going round its cards so that each is asked about equally
    often.
    """
    num_clips = clips.counts.shape[0]
    turn = torch.arange(count, device=source.device) + source.integers(64, num_clips, 1)
    card = turn % clips.counts[:, None]
    color, digit = clips.colors.gather(1, card), clips.digits.gather(1, card)
    form = source.integers(table.tails.shape[0], num_clips, count)
    form = form.masked_fill(source.uniform(num_clips, count) < CANONICAL_SHARE, 0)
    answers = table.digit_ids[digit]
    answer_at = table.answer_at[form, color]
    tails = table.tails[form, color].scatter(2, answer_at[..., None] + 1, answers[..., None])
    return Questions(tails, table.color_at[form, color], answer_at, answers)


def packed_positions(
    head_len: int,
    seconds_per_unit: Tensor,
    units: int,
    tails: Sequence[int],
    *,
    rows: int,
    cols: int,
    tokens_per_second: float,
) -> Tensor:
    """Multimodal rotary positions of packed sequences (Qwen2.5-VL, arXiv 2502.13923, section
    2.1.2).

    Args:
        head_len: tokens before the video, counted 0, 1, ... on all axes.
        seconds_per_unit: float64 `[B]`.
        units: U.
        tails: (Q, L); every tail starts one after the largest position so far.
        rows, cols: merged tokens of a unit.
        tokens_per_second: temporal positions per second of video.

    Returns:
        int64 `[3, B, S]`.
    """
    device, num_clips = seconds_per_unit.device, seconds_per_unit.shape[0]
    num_tails, tail_len = tails
    unit = torch.arange(units, device=device, dtype=torch.float64)
    time = (unit * seconds_per_unit[:, None] * tokens_per_second).floor().long()
    row = torch.arange(rows, device=device).repeat_interleave(cols).repeat(units)
    col = torch.arange(cols, device=device).repeat(rows * units)
    time = time.repeat_interleave(rows * cols, dim=1)
    video = head_len + torch.stack((time, row.expand_as(time), col.expand_as(time)))
    head = torch.arange(head_len, device=device).expand(3, num_clips, head_len)
    after = video.amax(dim=(0, 2))[:, None] + 1
    tail = after + torch.arange(tail_len, device=device).repeat(num_tails)
    return torch.cat((head, video, tail.expand(3, -1, -1)), dim=2)


@dataclass(frozen=True)
class Blocks:
    """Approximate prefill of the context: a token sees the anchor, its own block and some selected
    tokens.
    """

    anchor: int
    block: int
    selected_share: float

    @classmethod
    def random(cls, context: int, random: Random) -> "Blocks":
        """Blocks as a run on a few GPUs would make them."""
        return cls(
            anchor=min(random.choice((32, 64, 128, 128, 256)), context // 2),
            block=random.randint(max(16, context // 16), max(16, context // 2)),
            selected_share=random.choice((0.0, 0.03, 0.1)),
        )

    def mask(self, context: int, source: ClipSource) -> Tensor:
        """Which key (column) each row of the context sees, bool `[C, C]`."""
        index = torch.arange(context, device=source.device)
        block = (index - self.anchor).div(self.block, rounding_mode="floor")
        selected = source.uniform(context) < self.selected_share
        visible = (index < self.anchor) | (block == block[:, None]) | selected
        return visible & (index <= index[:, None])


def packed_attend(
    num_clips: int,
    context: int,
    tails: Sequence[int],
    context_mask: Tensor | None,
    device: torch.device,
) -> Attend:
    """Attention of packed sequences: `context` rows causally (or under `context_mask` `[C, C]`); a
    tail's rows see the whole context and, causally, their own tail.
    """
    num_tails, tail_len = tails
    row = torch.arange(num_tails * tail_len, device=device)
    own = (row // tail_len == (row // tail_len)[:, None]) & (row <= row[:, None])
    tail_mask = torch.cat((own.new_ones(row.numel(), context), own), dim=1)

    def attend(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        # Heads are repeated by hand: not every fused kernel takes a mask and grouped heads
        # together.
        group = q.shape[1] // k.shape[1]
        k, v = k.repeat_interleave(group, dim=1), v.repeat_interleave(group, dim=1)
        q, k, v = (part.unflatten(0, (num_clips, -1)).transpose(1, 2) for part in (q, k, v))
        first = F.scaled_dot_product_attention(
            q[:, :, :context],
            k[:, :, :context],
            v[:, :, :context],
            attn_mask=context_mask,
            is_causal=context_mask is None,
        )
        rest = F.scaled_dot_product_attention(q[:, :, context:], k, v, attn_mask=tail_mask)
        return torch.cat((first, rest), dim=2).transpose(1, 2).flatten(0, 1)

    return attend
