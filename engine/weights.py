"""Checkpoints in Hugging Face form: config.json and safetensors with the published tensor names.

Our modules fuse projections, so a published tensor is a run of rows of one of our parameters. One
table says which; loading and saving both follow it.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from spava_app.engine.models.qwen2_5_vl import Qwen25VL
from spava_app.errors import CheckpointError

ARCHITECTURES = {"Qwen2_5_VLForConditionalGeneration": Qwen25VL}


@dataclass(frozen=True)
class Rows:
    """Rows `start` to `stop` of the parameter `name`."""

    name: str
    start: int
    stop: int


def published_names(model: Qwen25VL) -> dict[str, Rows]:
    """Which rows of which parameter each published tensor fills."""
    table: dict[str, Rows] = {}

    def put(published: str, name: str, start: int = 0, size: int | None = None) -> None:
        stop = model.get_parameter(name).shape[0] if size is None else start + size
        table[published] = Rows(name, start, stop)

    decoder, vision = model.decoder.config, model.vision.config
    put("model.embed_tokens.weight", "decoder.embed_tokens.weight")
    put("model.norm.weight", "decoder.norm.weight")
    if not decoder.tie_embeddings:
        put("lm_head.weight", "decoder.lm_head.weight")
    q, kv = decoder.num_heads * decoder.head_dim, decoder.num_kv_heads * decoder.head_dim
    for i in range(decoder.num_layers):
        theirs, ours = f"model.layers.{i}", f"decoder.layers.{i}"
        for kind in ("weight", "bias"):
            put(f"{theirs}.self_attn.q_proj.{kind}", f"{ours}.qkv.{kind}", 0, q)
            put(f"{theirs}.self_attn.k_proj.{kind}", f"{ours}.qkv.{kind}", q, kv)
            put(f"{theirs}.self_attn.v_proj.{kind}", f"{ours}.qkv.{kind}", q + kv, kv)
        put(f"{theirs}.self_attn.o_proj.weight", f"{ours}.o.weight")
        put(f"{theirs}.input_layernorm.weight", f"{ours}.input_norm.weight")
        put(f"{theirs}.post_attention_layernorm.weight", f"{ours}.post_norm.weight")
        inner = decoder.intermediate_size
        put(f"{theirs}.mlp.gate_proj.weight", f"{ours}.gate_up.weight", 0, inner)
        put(f"{theirs}.mlp.up_proj.weight", f"{ours}.gate_up.weight", inner, inner)
        put(f"{theirs}.mlp.down_proj.weight", f"{ours}.down.weight")
    put("visual.patch_embed.proj.weight", "vision.patch_embed.weight")
    for i in range(vision.depth):
        theirs, ours = f"visual.blocks.{i}", f"vision.blocks.{i}"
        put(f"{theirs}.norm1.weight", f"{ours}.norm1.weight")
        put(f"{theirs}.norm2.weight", f"{ours}.norm2.weight")
        inner = vision.intermediate_size
        for kind in ("weight", "bias"):
            put(f"{theirs}.attn.qkv.{kind}", f"{ours}.qkv.{kind}")
            put(f"{theirs}.attn.proj.{kind}", f"{ours}.proj.{kind}")
            put(f"{theirs}.mlp.gate_proj.{kind}", f"{ours}.gate_up.{kind}", 0, inner)
            put(f"{theirs}.mlp.up_proj.{kind}", f"{ours}.gate_up.{kind}", inner, inner)
            put(f"{theirs}.mlp.down_proj.{kind}", f"{ours}.down.{kind}")
    put("visual.merger.ln_q.weight", "vision.merger.norm.weight")
    for kind in ("weight", "bias"):
        put(f"visual.merger.mlp.0.{kind}", f"vision.merger.up.{kind}")
        put(f"visual.merger.mlp.2.{kind}", f"vision.merger.down.{kind}")
    return table


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
    architectures = config.get("architectures") or []
    if not set(architectures) & set(ARCHITECTURES):
        known = ", ".join(sorted(ARCHITECTURES))
        raise CheckpointError(
            "model", str(folder), f"has architectures {architectures}; known: {known}"
        )
    return config


def load_model(
    folder: str | Path, *, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
) -> Qwen25VL:
    """Load a model folder, tensor by tensor, straight into its parameters on `device`.

    Raises:
        CheckpointError: a missing, unexpected, truncated or wrongly shaped tensor or file.
    """
    folder = Path(folder)
    config = read_config(folder)
    try:
        with torch.device("meta"):
            model = Qwen25VL(config)
    except KeyError as error:
        raise CheckpointError("model", str(folder), f"config.json lacks {error}") from error
    model = model.to(dtype).to_empty(device=device)
    table = published_names(model)
    missing = set(table)
    for name, tensor in _tensors(folder):
        rows = table.get(name)
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
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise CheckpointError("model", str(folder), "give a folder with *.safetensors weights")
    for file in files:
        try:
            with safe_open(file, framework="pt") as tensors:
                for name in tensors.keys():  # noqa: SIM118 (not a mapping)
                    yield name, tensors.get_tensor(name)
        except (SafetensorError, OSError) as error:
            raise CheckpointError("model", str(file), "is truncated or not safetensors") from error


def save_checkpoint(
    model: Qwen25VL, folder: str | Path, dtype: torch.dtype = torch.bfloat16
) -> None:
    """Write `folder`/model.safetensors with the published names, in `dtype`. config.json is the
    caller's.
    """
    vision = model.vision.config
    kernel = (vision.in_channels, vision.temporal_patch_size, vision.patch_size, vision.patch_size)
    tensors = {}
    for published, rows in published_names(model).items():
        tensor = model.get_parameter(rows.name).detach()[rows.start : rows.stop]
        if published == "visual.patch_embed.proj.weight":  # published as a 3-D convolution
            tensor = tensor.unflatten(1, kernel)
        tensors[published] = tensor.to("cpu", dtype).contiguous()
    Path(folder).mkdir(parents=True, exist_ok=True)
    save_file(tensors, Path(folder) / "model.safetensors", metadata={"format": "pt"})
