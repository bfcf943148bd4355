"""The model on a packed batch: what it predicts at the places that count, and the losses there.

B = clips, U = units of a clip, Q = questions of a clip, C = tokens before the questions, S = tokens
of a sequence.
"""

from dataclasses import dataclass
from random import Random

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spava_app.engine.models.qwen2_5_vl import Qwen25VL
from spava_app.engine.training.cards.clips import (
    GRID_SIDE,
    IGNORE,
    NO_COLOR,
    NO_DIGIT,
    TOKENS_PER_UNIT,
    Clips,
    ClipSizes,
    ClipSource,
)
from spava_app.engine.training.cards.packing import (
    Blocks,
    Questions,
    QuestionTable,
    draw_questions,
    packed_attend,
    packed_positions,
)

# A long clip shows mostly noise: its label weighs little, or the cards would hardly count.
NOISE_WEIGHT = 0.15


class CardHeads(nn.Module):
    """Colour and digit of every visual token, read from a hidden state. Used in training only."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.color = nn.Linear(hidden, NO_COLOR + 1)
        self.digit = nn.Linear(hidden, NO_DIGIT + 1)

    def loss(self, hidden: Tensor, clips: Clips) -> Tensor:
        """Mean cross entropy of hidden states `[B, U * tokens, hidden]` against what their unit
        shows.
        """
        total = hidden.new_zeros(())
        for head, labels in ((self.color, clips.unit_color), (self.digit, clips.unit_digit)):
            logits = head(hidden).flatten(0, 1).float()
            weight = torch.ones(logits.shape[1], device=logits.device)
            weight[-1] = NOISE_WEIGHT
            target = labels.repeat_interleave(TOKENS_PER_UNIT, dim=1).flatten()
            total = total + F.cross_entropy(logits, target, weight=weight, ignore_index=IGNORE)
        return total


@dataclass(frozen=True)
class Predictions:
    """Logits at the places that count, and the visual tokens' hidden states."""

    at_color: Tensor  # [B * Q, vocabulary]
    at_answer: Tensor  # [B * Q, vocabulary]
    after_answer: Tensor  # [B * Q, vocabulary]
    visual: Tensor  # tower's output, [B, U * tokens, hidden]
    contextual: Tensor  # decoder's output there, [B, U * tokens, hidden]


def predict(
    model: Qwen25VL,
    clips: Clips,
    questions: Questions,
    table: QuestionTable,
    context_mask: Tensor | None,
) -> Predictions:
    """One forward pass; `context_mask` `[C, C]` is None for exact causal attention."""
    num_clips, units = clips.unit_color.shape
    tails = questions.tails.shape[1:]
    decoder, device = model.decoder, questions.tails.device
    side = GRID_SIDE // model.vision.config.merge_size
    visual = model.vision(clips.patches, (num_clips * units, GRID_SIDE, GRID_SIDE))
    visual = visual.unflatten(0, (num_clips, -1))
    head = decoder.embed(table.head).expand(num_clips, -1, -1)
    asked = decoder.embed(questions.tails.flatten(1))
    sequence = torch.cat((head, visual.to(head.dtype), asked), dim=1)
    positions = packed_positions(
        table.head.numel(),
        clips.seconds_per_unit,
        units,
        tails,
        rows=side,
        cols=side,
        tokens_per_second=model.vision.config.tokens_per_second,
    )
    context = head.shape[1] + visual.shape[1]
    attend = packed_attend(num_clips, context, tails, context_mask, device)
    hidden = decoder(sequence.flatten(0, 1), positions.flatten(1), attend)
    hidden = hidden.unflatten(0, (num_clips, -1))
    first = context + torch.arange(tails[0], device=device) * tails[1]
    places = torch.stack((questions.color_at, questions.answer_at, questions.answer_at + 1))
    rows = (places + first).transpose(0, 1).flatten(1)
    picked = hidden.gather(1, rows[..., None].expand(-1, -1, hidden.shape[2]))
    picked = picked.unflatten(1, (3, -1)).transpose(0, 1).flatten(1, 2)
    logits = decoder.logits(picked.flatten(0, 1)).float().unflatten(0, (3, -1))
    at_color, at_answer, after_answer = logits.unbind(0)
    contextual = hidden[:, head.shape[1] : context]
    return Predictions(at_color, at_answer, after_answer, visual, contextual)


@dataclass(frozen=True)
class Outcome:
    """What one batch gave; all scalars on the device."""

    loss: Tensor
    seen_loss: Tensor
    lookup_accuracy: Tensor  # the digit, at the colour word
    answer_accuracy: Tensor  # the digit where the answer is generated


def run_batch(
    model: Qwen25VL,
    heads: CardHeads,
    table: QuestionTable,
    source: ClipSource,
    sizes: ClipSizes,
    *,
    questions: int,
    answer: bool,
    blocks: Random | None,
) -> Outcome:
    """Draw a batch, run the model on it and sum the losses.

    Args:
        questions: per clip.
        answer: whether the answer behind the chat template carries a loss.
        blocks: where to draw the sizes of approximate attention from; None for exact attention.
    """
    clips = source.draw(sizes)
    asked = draw_questions(clips, table, source, questions)
    mask = None
    if blocks is not None:
        context = table.head.numel() + sizes.units * TOKENS_PER_UNIT
        mask = Blocks.random(context, blocks).mask(context, source)
    on_gpu = source.device.type == "cuda"
    with torch.autocast(source.device.type, torch.bfloat16, enabled=on_gpu):
        out = predict(model, clips, asked, table, mask)
        seen = heads.loss(out.visual, clips) + heads.loss(out.contextual, clips)
    right = asked.answers.flatten()
    loss = 0.5 * seen + F.cross_entropy(out.at_color, right)
    if answer:
        end = torch.full_like(right, table.end_id)
        loss = loss + F.cross_entropy(out.at_answer, right)
        loss = loss + 0.2 * F.cross_entropy(out.after_answer, end)
    return Outcome(
        loss=loss,
        seen_loss=seen.detach(),
        lookup_accuracy=(out.at_color.argmax(1) == right).float().mean(),
        answer_accuracy=(out.at_answer.argmax(1) == right).float().mean(),
    )
