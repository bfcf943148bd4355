"""Our decoder and vision tower against transformers' on a checkpoint that transformers saved."""

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import LlamaConfig, Qwen2_5_VLForConditionalGeneration
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from spava_app.engine.checkpoints.load import load_model
from spava_app.engine.models.config.decoder import DEFAULTS, DecoderConfig
from spava_app.engine.models.config.rope import RopeConfig
from spava_app.engine.models.config.settings import Settings
from spava_app.engine.models.qwen2_5_vl import Qwen25VL, window_order
from spava_app.errors import CheckpointError
from spava_app.kernels.attention import attention

VIDEO_ID, VISION_START, VISION_END = 290, 292, 293
TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def model(checkpoint: Path) -> Qwen25VL:
    return load_model(checkpoint)


def causal(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return attention(q, k, v, causal=True, backend="reference")[0]


@torch.no_grad()
def test_text_logits(oracle: Qwen2_5_VLForConditionalGeneration, model: Qwen25VL) -> None:
    ids = torch.randint(0, 290, (40,), generator=torch.Generator().manual_seed(1))
    positions = torch.arange(40).expand(3, -1)
    theirs = oracle(input_ids=ids[None], position_ids=positions[:, None]).logits[0]
    decoder = model.decoder
    ours = decoder.logits(decoder(decoder.embed(ids), positions, causal))
    torch.testing.assert_close(ours, theirs, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("grid", [(1, 4, 4), (3, 10, 14), (2, 6, 2)])
@torch.no_grad()
def test_vision_and_video_logits(
    oracle: Qwen2_5_VLForConditionalGeneration, model: Qwen25VL, grid: tuple[int, int, int]
) -> None:
    generator = torch.Generator().manual_seed(2)
    patches = torch.randn(grid[0] * grid[1] * grid[2], 1176, generator=generator)
    theirs = oracle.model.get_video_features(patches, torch.tensor([grid])).pooler_output[0]
    ours = model.vision(patches, grid)
    torch.testing.assert_close(ours, theirs, atol=TOLERANCE, rtol=0)

    visual = [VIDEO_ID] * len(ours)
    ids = torch.tensor([1, 2, VISION_START, *visual, VISION_END, 7, 8, 9])
    # Any positions serve: they are passed to both, because transformers places text after a video
    # wrongly.
    positions = torch.randint(0, 300, (3, len(ids)), generator=generator).sort(dim=-1).values
    theirs = oracle(
        input_ids=ids[None],
        position_ids=positions[:, None],
        mm_token_type_ids=(ids == VIDEO_ID).long()[None] * 2,
        pixel_values_videos=patches,
        video_grid_thw=torch.tensor([grid]),
    ).logits[0]
    hidden = model.decoder.embed(ids)
    hidden[ids == VIDEO_ID] = ours
    logits = model.decoder.logits(model.decoder(hidden, positions, causal))
    torch.testing.assert_close(logits, theirs, atol=TOLERANCE, rtol=0)


@torch.no_grad()
def test_units_never_mix(model: Qwen25VL) -> None:
    patches = torch.randn(3 * 10 * 6, 1176, generator=torch.Generator().manual_seed(3))
    whole = model.vision(patches, (3, 10, 6))
    single = torch.cat([model.vision(unit, (1, 10, 6)) for unit in patches.chunk(3)])
    torch.testing.assert_close(whole, single, atol=1e-5, rtol=0)


def test_windows_cover_every_token_once() -> None:
    order = window_order(5, 7, 4)
    assert sorted(order.order) == list(range(35))
    assert sum(count * size for count, size in order.classes) == 35
    assert {size for _, size in order.classes} == {16, 12, 4, 3}


def test_hub_layout_of_config_is_read_too(checkpoint: Path) -> None:
    """The hub's older flat config.json gives the same geometry as the nested one transformers 5
    saves.
    """
    nested = json.loads((checkpoint / "config.json").read_text())
    text = nested.pop("text_config")
    rope = text.pop("rope_parameters")
    flat = {
        **nested,
        **text,
        "rope_theta": rope["rope_theta"],
        "rope_scaling": {"type": "mrope", "mrope_section": rope["mrope_section"]},
    }
    nested["text_config"] = {**text, "rope_parameters": rope}
    assert DecoderConfig.from_hf(flat) == DecoderConfig.from_hf(nested)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"hidden_act": "gelu"}, "hidden_act='gelu': only 'silu' is supported"),
        ({"mlp_bias": True}, "mlp_bias=True"),
        ({"model_type": "mistral"}, "model_type='mistral': supported decoders: llama, qwen2, "),
        ({"model_type": None}, "model_type=None: supported decoders"),
        (
            {"use_sliding_window": True, "layer_types": None, "max_window_layers": 1},
            "use_sliding_window=True",
        ),
        (
            {"layer_types": ["full_attention", "sliding_attention"]},
            "layer_types=['full_attention', 'sliding_attention']",
        ),
        ({"rope_parameters": {"rope_type": "longrope", "rope_theta": 1e4}}, "rope_type='longrope'"),
        ({"rope_parameters": {"rope_type": "linear", "rope_theta": 1e4}}, "rope_type='linear'"),
    ],
)
def test_settings_the_decoder_does_not_compute_are_refused(
    checkpoint: Path, settings: dict[str, object], message: str
) -> None:
    config = json.loads((checkpoint / "config.json").read_text())
    config["text_config"] |= settings
    with pytest.raises(CheckpointError) as caught:
        DecoderConfig.from_hf(config)
    assert message in str(caught.value)


def test_windows_that_no_layer_has_are_accepted(checkpoint: Path) -> None:
    config = json.loads((checkpoint / "config.json").read_text())
    before = DecoderConfig.from_hf(config)
    config["text_config"] |= {"use_sliding_window": True, "sliding_window": 8}
    assert set(config["text_config"]["layer_types"]) == {"full_attention"}
    assert DecoderConfig.from_hf(config) == before


def test_dynamic_scaling_is_the_default_up_to_the_trained_length() -> None:
    """Transformers' dynamic NTK on the longest prompt that is not refused."""
    rope = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}
    config = LlamaConfig(
        hidden_size=64, num_attention_heads=4, max_position_embeddings=50, rope_parameters=rope
    )
    text = config.to_dict() | {"rope_parameters": rope}
    frequencies = RopeConfig.read(Settings(text, DEFAULTS["llama"])).frequencies(16)
    theirs, scale = ROPE_INIT_FUNCTIONS["dynamic"](config, torch.device("cpu"), seq_len=50)
    assert scale == 1
    torch.testing.assert_close(frequencies.float(), theirs)
    longer, _ = ROPE_INIT_FUNCTIONS["dynamic"](config, torch.device("cpu"), seq_len=51)
    assert not torch.equal(longer, theirs)
