"""The embedded model's folder loads in transformers, and its tokenizer knows the words that
matter.
"""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoConfig, AutoTokenizer

from spava_app.engine.checkpoints.hub import EMBEDDED
from spava_app.engine.synthetic.card_drawing import COLORS
from spava_app.engine.training.cards.assets import SPECIAL_TOKENS, TOKEN_ID, write_assets
from spava_app.engine.training.cards.questions import ask, phrasings

TOKENIZER = AutoTokenizer.from_pretrained(EMBEDDED)


def encode(text: str) -> list[int]:
    return TOKENIZER(text, add_special_tokens=False)["input_ids"]


@given(st.text())
def test_any_text_round_trips(text):
    if not any(token in text for token in SPECIAL_TOKENS):
        assert TOKENIZER.decode(encode(text), clean_up_tokenization_spaces=False) == text


@pytest.mark.parametrize("color", COLORS)
@pytest.mark.parametrize("space", ["", " "])
def test_colour_words_are_single_tokens(color, space):
    for form in (color, color.capitalize(), color.upper()):
        assert len(encode(space + form)) == 1


def test_digits_are_single_tokens_of_their_own():
    ids = encode("0123456789")
    assert len(set(ids)) == len(ids) == 10
    assert encode("12") == encode("1") + encode("2")


def test_special_tokens_have_the_ids_the_configuration_names():
    config = AutoConfig.from_pretrained(EMBEDDED)
    assert len(TOKENIZER) == config.text_config.vocab_size
    for token, number in TOKEN_ID.items():
        assert encode(token) == [number]
    assert config.video_token_id == TOKEN_ID["<|video_pad|>"]
    assert config.image_token_id == TOKEN_ID["<|image_pad|>"]
    assert config.vision_start_token_id == TOKEN_ID["<|vision_start|>"]
    assert config.vision_end_token_id == TOKEN_ID["<|vision_end|>"]
    assert TOKENIZER.eos_token_id == config.text_config.eos_token_id == TOKEN_ID["<|im_end|>"]
    generation = json.loads((EMBEDDED / "generation_config.json").read_text())
    assert TOKENIZER.eos_token_id in generation["eos_token_id"]


def test_configuration_is_the_stated_model():
    config = AutoConfig.from_pretrained(EMBEDDED)
    assert config.architectures == ["Qwen2_5_VLForConditionalGeneration"]
    assert config.tie_word_embeddings
    assert config.text_config.rope_parameters["mrope_section"] == [16, 8, 8]
    assert config.vision_config.fullatt_block_indexes == [1]


@pytest.mark.parametrize(
    ("messages", "expected"),
    [
        (
            [{"role": "user", "content": "hi"}],
            "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
            "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n",
        ),
        (
            [
                {"role": "system", "content": "Be brief."},
                {
                    "role": "user",
                    "content": [
                        {"type": "video", "video": "a.mp4"},
                        {"type": "image"},
                        {"type": "text", "text": "What?"},
                    ],
                },
            ],
            "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n"
            "<|vision_start|><|video_pad|><|vision_end|>"
            "<|vision_start|><|image_pad|><|vision_end|>What?<|im_end|>\n<|im_start|>assistant\n",
        ),
    ],
)
def test_chat_template(messages, expected):
    text = TOKENIZER.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert text == expected


def test_committed_files_are_what_the_code_writes(tmp_path):
    write_assets(tmp_path)
    for made in tmp_path.iterdir():
        assert made.read_text("utf-8") == (EMBEDDED / made.name).read_text("utf-8"), made.name


def test_phrasings():
    forms = phrasings()
    assert forms[0] == "What digit is on the {color} card?"
    assert len(set(forms)) == len(forms)
    for form in forms:
        assert " red " in ask(form, "red").lower()
