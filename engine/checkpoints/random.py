"""Checkpoints with random weights: a model of any published size, in any form, without a download.

What speed and memory are measured with. Values are small enough for every layer to stay finite in
bfloat16: drawn with a standard deviation of 0.02, the norms' weights 1.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from spava_app.engine.models.published import Rows
from spava_app.engine.models.qwen2_5_vl import VisionConfig
from spava_app.engine.models.registry import Model, empty_model
from spava_app.errors import CheckpointError

STD = 0.02
SHARD_BYTES = 5 * 2**30


@dataclass(frozen=True)
class WrittenCheckpoint:
    """What was written: bytes of all tensors, and the files that hold them."""

    num_bytes: int
    files: tuple[Path, ...]


@torch.no_grad()
def random_model(
    config: Mapping[str, Any],
    name: str,
    *,
    device: torch.device,
    dtype: torch.dtype,
    seed: int = 0,
) -> Model:
    """A model with random weights, made on `device`; the same on every rank."""
    model = empty_model(config, name).to(dtype).to_empty(device=device)
    generator = torch.Generator(device).manual_seed(seed)
    for parameter, tensor in model.named_parameters():
        _fill(tensor, model, parameter, generator)
    return model.eval().requires_grad_(requires_grad=False)


def check_empty(folder: Path) -> None:
    """Raise CheckpointError for a folder with something in it, which might be a real model."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        fix = "is not empty; name a new folder for the random weights"
        raise CheckpointError("checkpoint", str(folder), fix)


def write_random_checkpoint(
    config: Mapping[str, Any],
    folder: Path,
    *,
    dtype: torch.dtype = torch.bfloat16,
    device: torch.device | str = "cpu",
    shard_bytes: int = SHARD_BYTES,
    seed: int = 0,
) -> WrittenCheckpoint:
    """Write config.json, model-0000x-of-0000y.safetensors and their index to `folder`.

    Args:
        device: where values are drawn; a GPU does it a hundred times faster.
        shard_bytes: size of a file, and what is held in memory at a time.

    Raises:
        CheckpointError: an architecture that is not known, settings that are not supported, or a
            folder with something in it.
    """
    device = torch.device(device)
    check_empty(folder)
    model = empty_model(config, str(folder)).to(dtype)
    generator = torch.Generator(device).manual_seed(seed)
    table = model.published()
    shards = _shards({name: _num_bytes(model, rows) for name, rows in table.items()}, shard_bytes)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n")
    index: dict[str, str] = {}
    for number, names in enumerate(shards):
        file = f"model-{number + 1:05}-of-{len(shards):05}.safetensors"
        tensors = {}
        for name in names:
            value = torch.empty(_shape(model, table[name]), dtype=dtype, device=device)
            _fill(value, model, table[name].name, generator)
            tensors[name] = value.cpu()
        save_file(tensors, folder / file, metadata={"format": "pt"})
        index |= dict.fromkeys(names, file)
    total = sum(_num_bytes(model, rows) for rows in table.values())
    listed = {"metadata": {"total_size": total}, "weight_map": index}
    (folder / "model.safetensors.index.json").write_text(json.dumps(listed, indent=1) + "\n")
    return WrittenCheckpoint(total, tuple(folder / file for file in sorted(set(index.values()))))


def _shards(sizes: Mapping[str, int], most: int) -> list[list[str]]:
    """Tensor names in their order, cut where a shard would exceed `most` bytes."""
    shards: list[list[str]] = [[]]
    filled = 0
    for name, size in sizes.items():
        if shards[-1] and filled + size > most:
            shards.append([])
            filled = 0
        shards[-1].append(name)
        filled += size
    return shards


def _num_bytes(model: Model, rows: Rows) -> int:
    parameter = model.get_parameter(rows.name)
    return parameter[rows.start : rows.stop].numel() * parameter.element_size()


def _shape(model: Model, rows: Rows) -> tuple[int, ...]:
    """The published shape: patch embeddings, which are matrices here, are convolutions there."""
    shape = model.get_parameter(rows.name)[rows.start : rows.stop].shape
    if model.vision is None or rows.name != "vision.patch_embed.weight":
        return tuple(shape)
    config = model.vision.config
    frames = (config.temporal_patch_size,) if isinstance(config, VisionConfig) else ()
    return (shape[0], 3, *frames, config.patch_size, config.patch_size)


def _fill(tensor: Tensor, model: Model, parameter: str, generator: torch.Generator) -> None:
    """Draw the values of `tensor`, which is (a part of) the model's `parameter`."""
    owner, _, kind = parameter.rpartition(".")
    if kind == "weight" and isinstance(model.get_submodule(owner), nn.RMSNorm | nn.LayerNorm):
        tensor.fill_(1)
    else:
        tensor.normal_(0, STD, generator=generator)
