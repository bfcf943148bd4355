"""Our InternVL3 against transformers' on checkpoints that transformers saved, and the same under
the original names.
"""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from internvl_layouts import original_config, original_tensors
from safetensors.torch import load_file
from torch import Tensor
from transformers import InternVLConfig, InternVLForConditionalGeneration

from spava_app.engine.checkpoints.load import save_checkpoint
from spava_app.engine.models.config.internvl import InternVisionConfig
from spava_app.engine.models.internvl3 import InternVL3
from spava_app.errors import CheckpointError
from spava_app.kernels.attention import attention

IMAGE_ID, IMAGE_START, IMAGE_END = 290, 291, 292
TOLERANCE = 1e-4
TEXT = {
    "vocab_size": 300,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e6},
    "bos_token_id": None,
    "eos_token_id": None,
}
VISION = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "image_size": 56,
    "patch_size": 14,
}
# As InternViT-300M (LayerNorm, biases) before a Qwen2, and as InternViT-6B (RMSNorm, normalised q
# and k, no biases) before a Llama with tied embeddings.
CASES: dict[str, dict[str, Any]] = {
    "300M": {
        "text_config": {**TEXT, "model_type": "qwen2"},
        "vision_config": {**VISION, "attention_bias": True},
        "tie_word_embeddings": False,
    },
    "6B": {
        "text_config": {**TEXT, "model_type": "llama", "tie_word_embeddings": True},
        "vision_config": {**VISION, "norm_type": "rms_norm", "use_qk_norm": True},
        "tie_word_embeddings": True,
    },
}
Loaded = tuple[InternVLForConditionalGeneration, InternVL3, Path]


def fill(config: dict[str, Any], tensors: dict[str, Tensor]) -> InternVL3:
    """A model with `tensors`, none of them missing, unexpected or of another size."""
    model = InternVL3(config)
    table = model.published()
    assert set(table) == set(tensors)
    counts = {name: 0 for name, _ in model.named_parameters()}
    for name, tensor in tensors.items():
        rows = table[name]
        target = model.get_parameter(rows.name).data[rows.start : rows.stop]
        assert tensor.shape[0] == target.shape[0], name
        target.copy_(tensor.reshape(target.shape))
        counts[rows.name] += len(target)
    assert counts == {name: len(parameter) for name, parameter in model.named_parameters()}
    return model.eval()


@pytest.fixture(scope="module", params=CASES)
def loaded(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Loaded:
    """transformers' model with weights large enough that every part matters, ours, the folder."""
    architectures = ["InternVLForConditionalGeneration"]
    config = InternVLConfig(
        **CASES[request.param], image_token_id=IMAGE_ID, architectures=architectures
    )
    torch.manual_seed(0)
    oracle = InternVLForConditionalGeneration._from_config(config, attn_implementation="sdpa")
    with torch.no_grad():
        for parameter in oracle.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    folder = tmp_path_factory.mktemp("internvl")
    oracle.save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    return oracle.eval(), fill(config, load_file(folder / "model.safetensors")), folder


def causal(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return attention(q, k, v, causal=True, backend="reference")[0]


def tiles(count: int) -> Tensor:
    return torch.randn(count, 3, 56, 56, generator=torch.Generator().manual_seed(2))


@torch.no_grad()
def test_text_logits(loaded: Loaded) -> None:
    oracle, model, _ = loaded
    ids = torch.randint(0, 290, (40,), generator=torch.Generator().manual_seed(1))
    theirs = oracle(input_ids=ids[None]).logits[0]
    decoder = model.decoder
    ours = decoder.logits(decoder(decoder.embed(ids), torch.arange(40), causal))
    torch.testing.assert_close(ours, theirs, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("frames", [1, 5])
@torch.no_grad()
def test_vision_and_video_logits(loaded: Loaded, frames: int) -> None:
    oracle, model, _ = loaded
    pixels = tiles(frames)
    theirs = oracle.model.get_image_features(pixels).pooler_output.flatten(0, 1)
    ours = model.vision(pixels)
    per_tile = model.vision.config.tokens_per_tile
    assert (len(ours), per_tile) == (frames * 4, 4)
    assert ours.std() > 0.1  # far above the tolerance
    torch.testing.assert_close(ours, theirs, atol=TOLERANCE, rtol=0)

    frame = [5, IMAGE_START, *[IMAGE_ID] * per_tile, IMAGE_END, 6]
    ids = torch.tensor([1, 2, *frame * frames, 7, 8, 9])
    theirs = oracle(input_ids=ids[None], pixel_values=pixels).logits[0]
    hidden = model.decoder.embed(ids)
    hidden[ids == model.vision.config.image_token_id] = ours
    logits = model.decoder.logits(model.decoder(hidden, torch.arange(len(ids)), causal))
    torch.testing.assert_close(logits, theirs, atol=TOLERANCE, rtol=0)


@torch.no_grad()
def test_tiles_never_mix(loaded: Loaded) -> None:
    _, model, _ = loaded
    pixels = tiles(4)
    single = torch.cat([model.vision(pixels[i : i + 1]) for i in range(4)])
    torch.testing.assert_close(model.vision(pixels), single, atol=1e-5, rtol=0)
    assert model.vision(pixels[:0]).shape == (0, 64)


def test_tokens_hold_neighbouring_patches(loaded: Loaded) -> None:
    """A patch reaches the token that covers its place in the picture, and no other."""
    projector = loaded[1].vision.projector
    patches = torch.randn(1, 16, 32, requires_grad=True)
    tokens = projector(patches)
    for row in range(2):
        for column in range(2):
            (gradient,) = torch.autograd.grad(
                tokens[2 * row + column].sum(), patches, retain_graph=True
            )
            touched = gradient[0].abs().sum(-1).reshape(4, 4) > 0
            expected = torch.zeros(4, 4, dtype=torch.bool)
            expected[2 * row : 2 * row + 2, 2 * column : 2 * column + 2] = True
            assert torch.equal(touched, expected)


def test_wrong_tiles(loaded: Loaded) -> None:
    for shape in ((1, 3, 70, 70), (3, 56, 56), (1, 1, 56, 56)):
        with pytest.raises(ValueError, match="give"):
            loaded[1].vision(torch.zeros(shape))


def test_original_layout_gives_identical_weights(loaded: Loaded) -> None:
    _, model, folder = loaded
    config = original_config(json.loads((folder / "config.json").read_text()))
    tensors = original_tensors(load_file(folder / "model.safetensors"))
    assert "vision_model.encoder.layers.2.ls1" in tensors
    assert tensors["vision_model.encoder.layers.0.attn.qkv.weight"].shape == (96, 32)
    ours = fill(config, tensors)
    assert ours.decoder.config == model.decoder.config
    for name, parameter in model.named_parameters():
        assert torch.equal(ours.get_parameter(name), parameter), name
    torch.testing.assert_close(ours.vision(tiles(2)), model.vision(tiles(2)), atol=0, rtol=0)


def test_saved_checkpoint_is_read_by_transformers(loaded: Loaded, tmp_path: Path) -> None:
    oracle, model, folder = loaded
    save_checkpoint(model, tmp_path, torch.float32)
    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    theirs = InternVLForConditionalGeneration.from_pretrained(tmp_path)
    for name, parameter in oracle.named_parameters():
        assert torch.equal(theirs.get_parameter(name), parameter), name
    assert {
        name: tensor.shape for name, tensor in load_file(tmp_path / "model.safetensors").items()
    } == {name: tensor.shape for name, tensor in load_file(folder / "model.safetensors").items()}


def test_geometry_of_internvl3_2b() -> None:
    """Sizes of InternViT-300M and Qwen2.5-1.5B; nothing but shapes is made."""
    vision = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24}
    text = {**TEXT, "hidden_size": 1536, "num_attention_heads": 12, "rms_norm_eps": 1e-6}
    config = {
        "text_config": {**text, "model_type": "qwen2"},
        "vision_config": {**vision, "num_attention_heads": 16, "attention_bias": True},
    }
    with torch.device("meta"):
        model = InternVL3(config)
        assert model.vision(torch.empty(2, 3, 448, 448)).shape == (512, 1536)
    assert model.vision.config.tokens_per_tile == 256
    assert 0.30e9 < sum(p.numel() for p in model.vision.blocks.parameters()) < 0.31e9


BROKEN_HF: list[tuple[dict[str, Any], str]] = [
    ({"projector_hidden_act": "relu"}, "projector_hidden_act"),
    ({"vision_feature_layer": -2}, "vision_feature_layer"),
    ({"vision_feature_layer": [-1, -2]}, "vision_feature_layer"),
    ({"vision_feature_select_strategy": "full"}, "vision_feature_select_strategy"),
    ({"downsample_ratio": 0.4}, "downsample_ratio"),
    ({"downsample_ratio": 0}, "downsample_ratio"),
    ({"downsample_ratio": 0.125}, "image_size"),
    ({"vision_config": {"hidden_act": "gelu_new"}}, "hidden_act"),
    ({"vision_config": {"norm_type": "batch_norm"}}, "norm_type"),
    ({"vision_config": {"num_channels": 1}}, "num_channels"),
    ({"vision_config": {"use_mask_token": True}}, "use_mask_token"),
    ({"vision_config": {"use_mean_pooling": False}}, "use_mean_pooling"),
    ({"vision_config": {"use_absolute_position_embeddings": False}}, "use_absolute_position"),
    ({"vision_config": {"image_size": [56, 84]}}, "image_size"),
    ({"vision_config": {"image_size": 57}}, "image_size"),
    ({"vision_config": {"num_attention_heads": 3}}, "num_attention_heads"),
    ({"text_config": {"model_type": "qwen3"}}, "model_type"),
    ({"text_config": {"hidden_act": "relu"}}, "hidden_act"),
]
BROKEN_ORIGINAL: list[tuple[dict[str, Any], str]] = [
    ({"ps_version": "v1"}, "ps_version"),
    ({"select_layer": -4}, "select_layer"),
    ({"force_image_size": 448}, "force_image_size"),
    ({"use_llm_lora": 16}, "use_llm_lora"),
    ({"vision_config": {"hidden_act": "relu"}}, "hidden_act"),
    ({"vision_config": {"norm_type": "other"}}, "norm_type"),
    ({"llm_config": {"model_type": "internlm2"}}, "model_type"),
]


def changed(config: dict[str, Any], change: dict[str, Any]) -> dict[str, Any]:
    """`config` with settings replaced, nested ones one by one."""
    new = dict(config)
    for name, value in change.items():
        new[name] = {**config[name], **value} if isinstance(value, dict) else value
    return new


def refused(config: dict[str, Any], change: dict[str, Any], setting: str) -> None:
    with torch.device("meta"):
        InternVL3(config)
        with pytest.raises(CheckpointError, match=setting):
            InternVL3(changed(config, change))


@pytest.mark.parametrize(("change", "setting"), BROKEN_HF)
def test_settings_not_computed_are_refused(
    loaded: Loaded, change: dict[str, Any], setting: str
) -> None:
    refused(json.loads((loaded[2] / "config.json").read_text()), change, setting)


@pytest.mark.parametrize(("change", "setting"), BROKEN_ORIGINAL)
def test_original_settings_not_computed_are_refused(
    loaded: Loaded, change: dict[str, Any], setting: str
) -> None:
    config = original_config(json.loads((loaded[2] / "config.json").read_text()))
    refused(config, change, setting)


def test_what_the_original_leaves_out_has_its_own_defaults(loaded: Loaded) -> None:
    """The original's class wants ps_version v1 and InternViT-6B's norms unless told otherwise."""
    config = original_config(json.loads((loaded[2] / "config.json").read_text()))
    del config["ps_version"]
    with pytest.raises(CheckpointError, match="ps_version='v1'"):
        InternVisionConfig.from_hf(config)
    config["ps_version"] = "v2"
    for name in ("norm_type", "qk_normalization", "qkv_bias", "layer_norm_eps"):
        del config["vision_config"][name]
    read = InternVisionConfig.from_hf(config)
    assert (read.norm_type, read.qk_norm_eps, read.qkv_bias) == ("rms_norm", 1e-6, False)
    assert read.image_token_id is None
    del config["vision_config"]["hidden_size"]
    del config["vision_config"]["num_attention_heads"]
    read = InternVisionConfig.from_hf(config)
    assert (read.hidden_size, read.num_heads) == (3200, 25)  # of InternViT-6B
