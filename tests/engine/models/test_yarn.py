"""YaRN against transformers': frequencies, tables, and answers to long prompts."""

from pathlib import Path
from typing import Any

import pytest
import torch
from published import qwen_vl, text_model
from published_oracle import generated, request_of, tokens_of
from transformers import AutoModelForCausalLM, Qwen2_5_VLTextConfig, Qwen2Config
from transformers.models.qwen2.modeling_qwen2 import Qwen2RotaryEmbedding
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VLRotaryEmbedding

from spava_app import TextQA
from spava_app.engine.checkpoints.load import read_config
from spava_app.engine.models.config.decoder import DecoderConfig
from spava_app.engine.models.decoder import Decoder
from spava_app.engine.sampling import GREEDY
from spava_app.errors import CheckpointError
from spava_app.requests.media_input import Question

PUBLISHED = {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}
SCALINGS: dict[str, dict[str, Any]] = {
    "published": {},
    "attention factor": {"attention_factor": 1.25},
    "mscale": {"mscale": 0.707, "mscale_all_dim": 1.0},
    "mscale alone": {"mscale": 0.707},
    "not rounded": {"truncate": False},
    "borders": {"beta_fast": 16, "beta_slow": 2},
    "narrow borders": {"beta_fast": 2, "beta_slow": 2},
    "factor": {"factor": 8.5, "original_max_position_embeddings": 4096},
    "factor from the lengths": {"factor": None, "original_max_position_embeddings": 8192},
}


def settings(scaling: dict[str, Any], **change: Any) -> dict[str, Any]:
    """Of Qwen2.5-7B, the heads and base of its published config.json."""
    return {
        "model_type": "qwen2",
        "vocab_size": 64,
        "hidden_size": 3584,
        "intermediate_size": 64,
        "num_hidden_layers": 1,
        "num_attention_heads": 28,
        "num_key_value_heads": 4,
        "max_position_embeddings": 32768,
        "rope_theta": 1e6,
        "rope_scaling": {**PUBLISHED, **scaling},
        **change,
    }


@pytest.mark.parametrize("scaling", SCALINGS.values(), ids=SCALINGS)
def test_tables(scaling: dict[str, Any]) -> None:
    config = settings(scaling)
    theirs = Qwen2RotaryEmbedding(Qwen2Config(**config))
    with torch.device("meta"):
        ours = Decoder(DecoderConfig.from_hf(config))
    rope = ours.config.rope
    expected = theirs.inv_freq.double()
    torch.testing.assert_close(rope.frequencies(128), expected, rtol=1e-6, atol=0)
    assert rope.attention_factor == pytest.approx(theirs.attention_scaling, rel=1e-9)
    # transformers forms angles in float32, which are as good as this near the beginning only.
    positions = torch.arange(16)
    cos, sin = theirs(torch.empty(0), positions[None])
    for table, own in zip(ours.rotary(positions), (cos, sin), strict=True):
        torch.testing.assert_close(table, own[0, :, :64], rtol=0, atol=2e-6)


@pytest.mark.parametrize("scaling", SCALINGS.values(), ids=SCALINGS)
def test_multimodal_tables(scaling: dict[str, Any]) -> None:
    config = settings({**scaling, "mrope_section": [16, 24, 24]}, model_type="qwen2_5_vl")
    scaling = {name: it for name, it in config["rope_scaling"].items() if name != "type"}
    text = {**config, "rope_scaling": {**scaling, "rope_type": "yarn"}}
    del text["model_type"]
    theirs = Qwen2_5_VLRotaryEmbedding(Qwen2_5_VLTextConfig(**text))
    with torch.device("meta"):
        ours = Decoder(DecoderConfig.from_hf(config))
    positions = torch.stack([torch.arange(16), torch.arange(16) // 4, torch.arange(16) % 4])
    cos, sin = theirs(torch.empty(0), positions[:, None])
    for table, own in zip(ours.rotary(positions), (cos, sin), strict=True):
        torch.testing.assert_close(table, own[0, :, :64], rtol=0, atol=2e-6)


@pytest.mark.parametrize("kind", ["yarn", "llama3"])
def test_an_original_length_beside_the_scaling_counts_more(kind: str) -> None:
    scaling = {"rope_type": kind, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    inside = settings({**scaling, "original_max_position_embeddings": 8192})
    beside = settings(scaling, original_max_position_embeddings=8192)
    assert DecoderConfig.from_hf(beside).rope == DecoderConfig.from_hf(inside).rope


@pytest.mark.parametrize(
    ("scaling", "change", "expected"),
    [
        ({}, {}, 131_072),
        ({}, {"max_position_embeddings": 131_072}, 131_072),
        ({"rope_type": "yarn", "type": None}, {}, 131_072),
        ({"factor": 2.0}, {"max_position_embeddings": 131_072}, 65_536),
        ({"factor": None}, {"max_position_embeddings": 131_072}, 131_072),
    ],
)
def test_how_long_a_prompt_may_be(
    scaling: dict[str, Any], change: dict[str, Any], expected: int
) -> None:
    """As vLLM derives it: the original length times the factor."""
    assert DecoderConfig.from_hf(settings(scaling, **change)).max_positions == expected


def test_dual_chunk_attention_ends_where_it_begins() -> None:
    config = settings({}, max_position_embeddings=1_010_000, rope_scaling=None)
    config["dual_chunk_attention_config"] = {"chunk_size": 262_144, "local_size": 8192}
    assert DecoderConfig.from_hf(config).max_positions == 262_144
    config["dual_chunk_attention_config"] = {}
    assert DecoderConfig.from_hf(config).max_positions == 262_144


@pytest.mark.parametrize(
    ("scaling", "message"),
    [
        ({"factor": 0.5}, "factor=0.5: must be at least 1"),
        ({"factor": "4"}, "factor='4': must be a number"),
        ({"factor": 1e30}, "factor=1e\\+30: must be a number"),
        ({"beta_fast": 1, "beta_slow": 2}, "beta_fast=1: must not be below"),
        ({"original_max_position_embeddings": 0}, "original_max_position_embeddings=0"),
        ({"truncate": 1}, "truncate=1: must be true or false"),
        ({"attention_factor": -1}, "attention_factor=-1"),
        ({"type": "longrope"}, "type='longrope': supported: "),
    ],
)
def test_settings_that_are_wrong(scaling: dict[str, Any], message: str) -> None:
    with pytest.raises(CheckpointError, match=f"rope_scaling.{message}"):
        DecoderConfig.from_hf(settings(scaling))


def test_the_published_recipe_for_a_model_that_sees(tmp_path: Path) -> None:
    def stretch(config: dict[str, Any]) -> None:
        config["rope_scaling"] = {**PUBLISHED, "mrope_section": [2, 3, 3]}

    config = DecoderConfig.from_hf(read_config(qwen_vl(tmp_path / "qwen", stretch)))
    assert (config.mrope_section, config.max_positions) == ((2, 3, 3), 131_072)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_prompt_of_60_thousand_tokens(tmp_path: Path) -> None:
    """Beyond the original 32,768: the tokens of transformers, by every exact method."""
    folder = text_model(tmp_path / "yarn", max_position_embeddings=32768, rope_scaling=PUBLISHED)
    book = "".join(f"{i} and {i * i % 97}, " for i in range(4_900))
    asked = Question("", "Which one?", text=book, max_new_tokens=16, sampling=GREEDY)
    expected = None
    for method, options in (
        ("full", {}),
        ("zigzag_ring", {}),
        ("spava", {"passing_fraction": 1.0}),
    ):
        with TextQA(folder, gpus=0, cpu_ranks=2, method=method, method_options=options) as qa:
            request = request_of(qa, asked)
            assert len(request.token_ids) > 60_000
            if expected is None:
                model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
                expected = generated(model, request, do_sample=False)
                assert len(set(expected)) > 4
            assert tokens_of(qa, request) == expected, method
