"""What a file leaves out has the default of transformers' own classes, for all that is read."""

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import (
    InternVLConfig,
    InternVLVisionConfig,
    LlamaConfig,
    PreTrainedConfig,
    Qwen2_5_VLConfig,
    Qwen2_5_VLTextConfig,
    Qwen2_5_VLVisionConfig,
    Qwen2Config,
    Qwen2VLImageProcessorPil,
)

from spava_app.engine.models.config import internvl as internvl_config
from spava_app.engine.models.config.decoder import DEFAULTS, DecoderConfig
from spava_app.engine.models.config.internvl import InternVisionConfig
from spava_app.engine.models.qwen2_5_vl import VISION_DEFAULTS, VisionConfig
from spava_app.engine.multimodal.pixels.config import PixelConfig
from spava_app.engine.multimodal.processors import _QWEN_TOKENS

TEXTS: dict[str, type[PreTrainedConfig]] = {
    "llama": LlamaConfig,
    "qwen2": Qwen2Config,
    "qwen2_5_vl_text": Qwen2_5_VLTextConfig,
}
# Read of all families, and not in the classes of those whose code does nothing of the kind.
NOT_IN_CLASSES = {"mlp_bias", "attention_bias", "use_sliding_window", "tie_word_embeddings"}


def same(ours: Any, theirs: Any) -> bool:
    """A side may be a number or a pair of equal ones."""
    if isinstance(theirs, list | tuple) and isinstance(ours, int):
        return set(theirs) == {ours}
    return ours == (tuple(theirs) if isinstance(theirs, list) else theirs)


@pytest.mark.parametrize("kind", TEXTS)
def test_decoders(kind: str) -> None:
    theirs = TEXTS[kind]()
    for name, value in DEFAULTS[kind].items():
        if name == "rope_theta":
            assert theirs.rope_parameters["rope_theta"] == value
        elif hasattr(theirs, name):
            assert same(value, getattr(theirs, name)), name
        else:
            assert name in NOT_IN_CLASSES, name
            assert value is False, name


@pytest.mark.parametrize("kind", TEXTS)
@pytest.mark.parametrize("given", [{}, {"num_key_value_heads": None}])
def test_an_empty_decoder_is_that_of_transformers(kind: str, given: dict[str, Any]) -> None:
    theirs = TEXTS[kind](**given)
    ours = DecoderConfig.from_hf({"model_type": kind, **given})
    assert (ours.num_layers, ours.num_heads) == (
        theirs.num_hidden_layers,
        theirs.num_attention_heads,
    )
    assert ours.num_kv_heads == theirs.num_key_value_heads
    assert ours.head_dim == theirs.hidden_size // theirs.num_attention_heads
    assert (ours.hidden_size, ours.intermediate_size, ours.vocab_size) == (
        theirs.hidden_size,
        theirs.intermediate_size,
        theirs.vocab_size,
    )
    assert (ours.norm_eps, ours.max_positions) == (
        theirs.rms_norm_eps,
        theirs.max_position_embeddings,
    )
    assert ours.tie_embeddings == getattr(theirs, "tie_word_embeddings", False)
    assert ours.rope.theta == theirs.rope_parameters["rope_theta"]
    # `rope_parameters.get("mrope_section", [16, 24, 24])` in the model's code.
    assert ours.mrope_section == ((16, 24, 24) if "vl" in kind else None)


def test_a_flat_config_is_that_of_transformers() -> None:
    theirs = Qwen2_5_VLConfig()
    ours = DecoderConfig.from_hf({"model_type": "qwen2_5_vl"})
    assert ours == DecoderConfig.from_hf({"model_type": "qwen2_5_vl_text"})
    assert ours.num_kv_heads == theirs.text_config.num_key_value_heads
    assert {name: getattr(theirs, name) for name in _QWEN_TOKENS} == _QWEN_TOKENS


def test_the_vision_tower_of_qwen() -> None:
    theirs = Qwen2_5_VLVisionConfig()
    for name, value in VISION_DEFAULTS.items():
        assert same(value, getattr(theirs, name)), name
    ours = VisionConfig.from_hf({})
    assert ours.full_attention_layers == frozenset(theirs.fullatt_block_indexes)
    assert ours.tokens_per_second == theirs.tokens_per_second


def test_internvl_of_transformers() -> None:
    theirs, tower = InternVLConfig(), InternVLVisionConfig()
    read = {**internvl_config._HF_DEFAULTS, **internvl_config._HF_MODEL}
    for name, value in read.items():
        assert same(value, getattr(theirs, name)), name
    read = {**internvl_config._HF_VISION_DEFAULTS, **internvl_config._HF_VISION}
    for name, value in read.items():
        assert same(value, getattr(tower, name)), name
    ours = InternVisionConfig.from_hf({})
    assert ours.image_token_id == theirs.image_token_id
    assert ours.tokens_per_tile == theirs.image_seq_length
    # A decoder that is not named, and whose embeddings are tied, where the file says nothing.
    assert internvl_config.decoder_kind({}) == theirs.text_config.model_type
    decoder = DecoderConfig.from_hf({}, kind="qwen2", part="text_config", tied=True)
    assert decoder.tie_embeddings == theirs.tie_word_embeddings


@pytest.mark.parametrize("size", [{}, {"min_pixels": 784}, {"max_pixels": 100_352}])
def test_pixels_of_pictures(
    tmp_path: Path, size: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    # transformers 5.17 writes the settings of a folder into this dictionary of the class.
    monkeypatch.setattr(Qwen2VLImageProcessorPil, "size", dict(Qwen2VLImageProcessorPil.size))
    settings = {"image_processor_type": "Qwen2VLImageProcessor", **size}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(settings))
    theirs = Qwen2VLImageProcessorPil.from_pretrained(tmp_path)
    ours = PixelConfig.from_folder(tmp_path, picture=True)
    assert (ours.min_pixels, ours.max_pixels) == (
        theirs.size["shortest_edge"],
        theirs.size["longest_edge"],
    )
    assert (ours.mean, ours.std) == (tuple(theirs.image_mean), tuple(theirs.image_std))
    assert (ours.patch_size, ours.temporal_patch_size, ours.merge_size) == (
        theirs.patch_size,
        theirs.temporal_patch_size,
        theirs.merge_size,
    )
