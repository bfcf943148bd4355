"""Published sizes, and random checkpoints of them that load here and in transformers."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from tiny_geometry import tiny
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText

from spava_app.engine.checkpoints.load import load_model
from spava_app.engine.checkpoints.random import (
    empty_model,
    random_model,
    write_random_checkpoint,
)
from spava_app.engine.models.geometries import GEOMETRIES
from spava_app.kernels.attention import attention

# As the models' pages give them, in billions.
PARAMETERS = {
    "Qwen2.5-VL-3B": 3.75,
    "Qwen2.5-VL-7B": 8.29,
    "Llama-3.1-8B": 8.03,
    "Qwen2.5-14B": 14.77,
    "InternVL3-2B": 2.09,
}


@pytest.mark.parametrize("name", GEOMETRIES)
def test_parameters_are_as_many_as_published(name: str) -> None:
    model = empty_model(GEOMETRIES[name], name)
    count = sum(parameter.numel() for parameter in model.parameters())
    assert count / 1e9 == pytest.approx(PARAMETERS[name], rel=0.01)


@pytest.mark.parametrize("name", GEOMETRIES)
def test_transformers_reads_the_same_sizes(name: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(GEOMETRIES[name]))
    theirs = AutoConfig.from_pretrained(tmp_path).get_text_config()
    ours = empty_model(GEOMETRIES[name], name).decoder.config
    assert theirs.hidden_size == ours.hidden_size
    assert theirs.num_hidden_layers == ours.num_layers
    assert theirs.num_key_value_heads == ours.num_kv_heads
    assert theirs.vocab_size == ours.vocab_size
    assert theirs.rope_parameters["rope_theta"] == ours.rope.theta


def logits(model: Any, ids: Tensor) -> Tensor:
    def causal(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return attention(q, k, v, causal=True, backend="reference")[0]

    decoder = model.decoder
    return decoder.logits(decoder(decoder.embed(ids), torch.arange(len(ids)), causal))


@torch.no_grad()
@pytest.mark.parametrize("name", ["Qwen2.5-VL-3B", "Llama-3.1-8B", "Qwen2.5-14B", "InternVL3-2B"])
def test_a_written_checkpoint_loads_here_and_in_transformers(name: str, tmp_path: Path) -> None:
    config = tiny(name)
    written = write_random_checkpoint(config, tmp_path, dtype=torch.float32, shard_bytes=60_000)
    assert len(written.files) > 2
    check_shards(tmp_path, written.num_bytes)
    model = load_model(tmp_path)
    assert written.num_bytes == 4 * sum(weight.numel() for weight in model.parameters())
    seen = AutoModelForImageTextToText if "vision_config" in config else AutoModelForCausalLM
    theirs, report = seen.from_pretrained(
        tmp_path, output_loading_info=True, dtype=torch.float32, attn_implementation="eager"
    )
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    ids = torch.arange(20) * 7
    expected = theirs(input_ids=ids[None]).logits[0]
    assert expected.std() > 1e-3
    torch.testing.assert_close(logits(model, ids), expected, atol=1e-4, rtol=0)


def check_shards(folder: Path, num_bytes: int) -> None:
    """The index names every tensor of every file, and no file is longer than was asked for."""
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == num_bytes
    named: dict[str, str] = {}
    for file in folder.glob("*.safetensors"):
        with safe_open(file, framework="pt") as tensors:
            named |= dict.fromkeys(tensors.keys(), file.name)
            sizes = [tensors.get_tensor(name).nbytes for name in tensors.keys()]  # noqa: SIM118
        assert len(sizes) == 1 or sum(sizes) <= 60_000
    assert index["weight_map"] == named


def test_the_same_seed_draws_the_same_values(tmp_path: Path) -> None:
    def read(seed: int, folder: Path) -> Mapping[str, Tensor]:
        write_random_checkpoint(tiny("Qwen2.5-14B"), folder, seed=seed)
        return load_model(folder).state_dict()

    first, again, other = (
        read(seed, tmp_path / name) for seed, name in ((1, "a"), (1, "b"), (2, "c"))
    )
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["decoder.lm_head.weight"], other["decoder.lm_head.weight"])


def test_a_random_model_needs_no_files() -> None:
    model = random_model(
        tiny("InternVL3-2B"), "tiny", device=torch.device("cpu"), dtype=torch.bfloat16
    )
    weights = model.state_dict()
    assert all(weight.dtype == torch.bfloat16 for weight in weights.values())
    assert (weights["decoder.norm.weight"] == 1).all()
    assert (weights["vision.projector.norm.weight"] == 1).all()
    drawn = weights["decoder.embed_tokens.weight"].float()
    assert float(drawn.std()) == pytest.approx(0.02, rel=0.05)
    assert not any(parameter.requires_grad for parameter in model.parameters())
