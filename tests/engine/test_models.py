"""Our decoder and vision tower against transformers' on a checkpoint that transformers saved."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import Qwen2_5_VLForConditionalGeneration

from spava_app.engine.models.decoder import DecoderConfig
from spava_app.engine.models.qwen2_5_vl import Qwen25VL, window_order
from spava_app.engine.weights import load_model, save_checkpoint
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


def test_saved_checkpoint_is_read_by_transformers(
    oracle: Qwen2_5_VLForConditionalGeneration, model: Qwen25VL, checkpoint: Path, tmp_path: Path
) -> None:
    save_checkpoint(model, tmp_path, torch.float32)
    shutil.copy(checkpoint / "config.json", tmp_path)
    theirs = Qwen2_5_VLForConditionalGeneration.from_pretrained(tmp_path)
    for name, parameter in oracle.named_parameters():
        assert torch.equal(theirs.get_parameter(name), parameter), name


@pytest.mark.parametrize(
    ("settings", "field"),
    [
        ({"hidden_act": "gelu"}, "hidden_act"),
        ({"use_sliding_window": True}, "use_sliding_window"),
        ({"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4}}, "rope_type"),
    ],
)
def test_settings_the_decoder_does_not_compute_are_refused(
    checkpoint: Path, settings: dict[str, object], field: str
) -> None:
    config = json.loads((checkpoint / "config.json").read_text())
    config["text_config"] |= settings
    with pytest.raises(CheckpointError, match=field):
        DecoderConfig.from_hf(config)


@pytest.fixture
def broken(checkpoint: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(checkpoint, tmp_path / "model"))


def rewrite(folder: Path, change: dict[str, Tensor | None]) -> None:
    tensors = load_file(folder / "model.safetensors")
    for name, tensor in change.items():
        tensors.pop(name, None)
        if tensor is not None:
            tensors[name] = tensor
    save_file(tensors, folder / "model.safetensors")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model.norm.weight": None}, "lacks 1 tensors, first model.norm.weight"),
        ({"model.extra": torch.zeros(1)}, "unexpected tensor model.extra"),
        ({"model.norm.weight": torch.zeros(63)}, "model.norm.weight has shape [63]"),
    ],
)
def test_wrong_tensors(broken: Path, change: dict[str, Tensor | None], message: str) -> None:
    rewrite(broken, change)
    with pytest.raises(CheckpointError) as caught:
        load_model(broken)
    assert message in str(caught.value)


def test_broken_files(broken: Path) -> None:
    weights = broken / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="truncated"):
        load_model(broken)
    weights.unlink()
    with pytest.raises(CheckpointError, match="safetensors weights"):
        load_model(broken)
    config = broken / "config.json"
    config.write_text(json.dumps({"architectures": ["Other"]}))
    with pytest.raises(
        CheckpointError, match=r"\['Other'\]; known: .*Qwen2_5_VLForConditionalGeneration"
    ):
        load_model(broken)
    config.write_text("[]")
    with pytest.raises(CheckpointError, match="not a JSON object"):
        load_model(broken)
    config.write_text("{")
    with pytest.raises(CheckpointError, match="not valid JSON"):
        load_model(broken)
    config.unlink()
    with pytest.raises(CheckpointError, match=r"config\.json"):
        load_model(broken)


def test_shards_and_what_other_tools_add(
    oracle: Qwen2_5_VLForConditionalGeneration, model: Qwen25VL, tmp_path: Path
) -> None:
    oracle.save_pretrained(tmp_path, max_shard_size="100KB")
    shards = sorted(tmp_path.glob("*.safetensors"))
    assert len(shards) > 3
    save_file({"model.rotary_emb.inv_freq": torch.zeros(4)}, tmp_path / "zz.safetensors")
    ours = load_model(tmp_path)
    assert all(
        torch.equal(a, b) for a, b in zip(ours.parameters(), model.parameters(), strict=True)
    )
    shards[1].unlink()
    with pytest.raises(CheckpointError, match=f"lacks 1 of its {len(shards)} files"):
        load_model(tmp_path)
    (tmp_path / "model.safetensors.index.json").write_text("[]")
    with pytest.raises(CheckpointError, match="not a safetensors index"):
        load_model(tmp_path)


def test_pickled_weights_are_refused(broken: Path) -> None:
    (broken / "model.safetensors").rename(broken / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="convert to safetensors"):
        load_model(broken)
