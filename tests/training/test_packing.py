"""A packed sequence gives each question what a plain prompt gives it, at the positions the paper
says.
"""

import math
from itertools import product
from random import Random

import pytest
import torch
import torch.nn.functional as F
from transformers import AutoTokenizer

from spava_app.engine.checkpoints.hub import EMBEDDED
from spava_app.engine.models.config.decoder import DecoderConfig
from spava_app.engine.models.decoder import Decoder
from spava_app.engine.training.cards.assets import model_config
from spava_app.engine.training.cards.clips import ClipSizes, ClipSource
from spava_app.engine.training.cards.packing import (
    Blocks,
    QuestionTable,
    draw_questions,
    packed_attend,
    packed_positions,
)


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(EMBEDDED)


@pytest.fixture(scope="module")
def table(tokenizer):
    return QuestionTable.build(tokenizer, "cpu")


def prompt_positions(
    head_len: int, units: int, rows: int, cols: int, seconds: float, tail_len: int
) -> list[tuple[int, int, int]]:
    """The rule of arXiv 2502.13923, one token at a time."""
    places = [(i, i, i) for i in range(head_len)]
    places += [
        (head_len + math.floor(unit * seconds * 2), head_len + row, head_len + col)
        for unit, row, col in product(range(units), range(rows), range(cols))
    ]
    after = max(max(place) for place in places) + 1
    return places + [(after + i,) * 3 for i in range(tail_len)]


@pytest.mark.parametrize("seconds", [0.25, 0.3, 1.0, 4.7])
@pytest.mark.parametrize(("units", "rows", "cols"), [(1, 2, 2), (9, 2, 2), (5, 1, 3)])
def test_positions_follow_the_rule(seconds, units, rows, cols):
    packed = packed_positions(
        3,
        torch.tensor([seconds, 2.0], dtype=torch.float64),
        units,
        (2, 4),
        rows=rows,
        cols=cols,
        tokens_per_second=2,
    )
    for clip, rate in enumerate((seconds, 2.0)):
        plain = torch.tensor(prompt_positions(3, units, rows, cols, rate, 4)).T
        assert torch.equal(packed[:, clip, : plain.shape[1]], plain)
        assert torch.equal(packed[:, clip, plain.shape[1] :], plain[:, -4:])


def test_a_packed_question_equals_its_plain_prompt():
    """Float64, so that only a wrong mask or position can tell them apart."""
    torch.manual_seed(0)
    config = model_config()
    config["text_config"] |= {"num_hidden_layers": 2}
    decoder = Decoder(DecoderConfig.from_hf(config)).double()
    clips, units, tails, head = 2, 5, (3, 4), 6
    seconds = torch.tensor([0.5, 3.0], dtype=torch.float64)
    positions = packed_positions(head, seconds, units, tails, rows=2, cols=2, tokens_per_second=2)
    context = head + 4 * units
    hidden = torch.randn(clips, context + 12, 256, dtype=torch.float64)
    attend = packed_attend(clips, context, tails, None, torch.device("cpu"))
    packed = decoder(hidden.flatten(0, 1), positions.flatten(1), attend).unflatten(0, (clips, -1))

    def causal(layer, q, k, v):
        q, k, v = (part.transpose(0, 1) for part in (q, k, v))
        out = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        return out.transpose(0, 1)

    for clip, tail in product(range(clips), range(tails[0])):
        own = range(context + tail * tails[1], context + (tail + 1) * tails[1])
        rows = torch.tensor([*range(context), *own])
        plain = decoder(hidden[clip, rows], positions[:, clip, rows], causal)
        torch.testing.assert_close(packed[clip, rows], plain, rtol=0, atol=1e-12)


def test_blocks_see_the_anchor_themselves_and_what_is_selected():
    source = ClipSource(0, "cpu")
    mask = Blocks(anchor=4, block=3, selected_share=0.0).mask(12, source)
    for row, column in product(range(12), range(12)):
        same = (row - 4) // 3 == (column - 4) // 3
        assert mask[row, column] == (column <= row and (column < 4 or same))
    everything = Blocks(anchor=4, block=3, selected_share=1.0).mask(12, source)
    assert torch.equal(everything, torch.ones(12, 12, dtype=torch.bool).tril())


@pytest.mark.parametrize("context", [60, 300, 2600])
def test_random_blocks_fit_their_context(context):
    random = Random(0)
    for _ in range(50):
        blocks = Blocks.random(context, random)
        assert 0 < blocks.anchor <= context // 2
        assert 16 <= blocks.block <= context


def test_head_and_tail_are_the_tokens_of_the_whole_prompt(tokenizer, table):
    content = [{"type": "video"}, {"type": "text", "text": "What digit is on the cyan card?"}]
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
    )
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    tail = table.tails[0, 6, : table.answer_at[0, 6] + 1].tolist()
    assert ids == [*table.head.tolist(), tokenizer.convert_tokens_to_ids("<|video_pad|>"), *tail]


def test_questions_name_a_card_and_answer_with_its_digit(tokenizer, table):
    source = ClipSource(3, "cpu")
    clips = source.draw(ClipSizes(4, 12))
    questions = draw_questions(clips, table, source, 5)
    colors = [*map(str, ("red", "green", "blue", "yellow", "orange", "purple", "cyan", "white"))]
    for clip, number in product(range(4), range(5)):
        tail = questions.tails[clip, number]
        word = tokenizer.decode(tail[questions.color_at[clip, number]]).strip().lower()
        slot = clips.colors[clip, : clips.counts[clip]].tolist().index(colors.index(word))
        digit = str(clips.digits[clip, slot].item())
        at = questions.answer_at[clip, number]
        assert tokenizer.decode(tail[: at + 1]).endswith("<|im_start|>assistant\n")
        assert tokenizer.decode(tail[at + 1]) == digit
        assert tail[at + 2] == tokenizer.eos_token_id
        assert questions.answers[clip, number] == tail[at + 1]
