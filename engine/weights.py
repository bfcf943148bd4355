"""Checkpoints in Hugging Face form: config.json and safetensors with the published tensor names.

Which tensor fills which rows of which parameter is the model's own table (`models.published`).
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from spava_app.engine.models.qwen2_5_vl import Qwen25VL
from spava_app.engine.models.registry import Model, model_class
from spava_app.errors import CheckpointError

# Written by some tools: constants, and the head of a model whose head is its embedding.
REDUNDANT = ("rotary_emb.inv_freq", "lm_head.weight")


def read_config(folder: Path) -> dict[str, Any]:
    """The parsed config.json of a model folder.

    Raises:
        CheckpointError: no such folder or file, not JSON, or an architecture that is not supported.
    """
    path = folder / "config.json"
    if not path.is_file():
        raise CheckpointError("model", str(folder), "give a folder with a config.json")
    try:
        config = json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise CheckpointError("model", str(path), "config.json is not valid JSON") from error
    if not isinstance(config, dict):
        raise CheckpointError("model", str(path), "config.json is not a JSON object")
    model_class(config, str(folder))
    return config


def load_model(
    folder: str | Path, *, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
) -> Model:
    """Load a model folder, tensor by tensor, straight into its parameters on `device`.

    Raises:
        CheckpointError: a missing, unexpected, truncated or wrongly shaped tensor or file.
    """
    folder = Path(folder)
    config = read_config(folder)
    try:
        with torch.device("meta"):
            model = model_class(config, str(folder))(config)
    except KeyError as error:
        raise CheckpointError("model", str(folder), f"config.json lacks {error}") from error
    model = model.to(dtype).to_empty(device=device)
    table = model.published()
    missing = set(table)
    for name, tensor in _tensors(folder):
        rows = table.get(name)
        if rows is None and name.endswith(REDUNDANT):
            continue
        if rows is None:
            raise CheckpointError("model", str(folder), f"has an unexpected tensor {name}")
        target = model.get_parameter(rows.name).data[rows.start : rows.stop]
        if tensor.numel() != target.numel() or tensor.shape[0] != target.shape[0]:
            raise CheckpointError(
                "model",
                str(folder),
                f"{name} has shape {list(tensor.shape)}, config.json asks for {list(target.shape)}",
            )
        target.copy_(tensor.reshape(target.shape))
        missing.discard(name)
    if missing:
        raise CheckpointError(
            "model", str(folder), f"lacks {len(missing)} tensors, first {min(missing)}"
        )
    return model.eval().requires_grad_(requires_grad=False)


def _tensors(folder: Path) -> Iterator[tuple[str, Tensor]]:
    for file in weight_files(folder):
        try:
            with safe_open(file, framework="pt") as tensors:
                for name in tensors.keys():  # noqa: SIM118 (not a mapping)
                    yield name, tensors.get_tensor(name)
        except (SafetensorError, OSError) as error:
            raise CheckpointError("model", str(file), "is truncated or not safetensors") from error


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a model folder, all that its index names."""
    files = sorted(folder.glob("*.safetensors"))
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        try:
            named = set(json.loads(index.read_text("utf-8"))["weight_map"].values())
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise CheckpointError("model", str(index), "is not a safetensors index") from error
        if missing := sorted(named - {file.name for file in files}):
            fix = f"lacks {len(missing)} of its {len(named)} files, first {missing[0]}"
            raise CheckpointError("model", str(folder), fix)
    if files:
        return files
    if any(folder.glob("*.bin")) or any(folder.glob("*.pt")):
        fix = "has only pickled weights, which can run code when loaded: convert to safetensors"
        raise CheckpointError("model", str(folder), fix)
    raise CheckpointError("model", str(folder), "give a folder with *.safetensors weights")


def save_checkpoint(
    model: Qwen25VL, folder: str | Path, dtype: torch.dtype = torch.bfloat16
) -> None:
    """Write `folder`/model.safetensors with the published names, in `dtype`. config.json is the
    caller's.
    """
    vision = model.vision.config
    kernel = (vision.in_channels, vision.temporal_patch_size, vision.patch_size, vision.patch_size)
    tensors = {}
    for published, rows in model.published().items():
        tensor = model.get_parameter(rows.name).detach()[rows.start : rows.stop]
        if published == "visual.patch_embed.proj.weight":  # published as a 3-D convolution
            tensor = tensor.unflatten(1, kernel)
        tensors[published] = tensor.to("cpu", dtype).contiguous()
    Path(folder).mkdir(parents=True, exist_ok=True)
    save_file(tensors, Path(folder) / "model.safetensors", metadata={"format": "pt"})
