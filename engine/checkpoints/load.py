"""Checkpoints in Hugging Face form: config.json, and tensors with the published names.

Which tensor fills which rows of which parameter is the model's own table (`models.published`).
Besides the parameters themselves, loading holds one tensor at a time.
"""

import math
from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights
from safetensors.torch import save_file
from torch import Tensor, nn

from spava_app.engine.checkpoints.files import read_object
from spava_app.engine.checkpoints.weight_files import stored_tensors, weight_files
from spava_app.engine.models.config.settings import Settings, in_file
from spava_app.engine.models.published import Rows
from spava_app.engine.models.qwen2_5_vl import VisionConfig
from spava_app.engine.models.registry import Model, make_model, model_class
from spava_app.errors import CheckpointError

LOADABLE = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
# Constants that some tools save: the model computes them from config.json.
CONSTANTS = "rotary_emb.inv_freq"
HEAD = "lm_head.weight"


def read_config(folder: Path) -> dict[str, Any]:
    """The parsed config.json of a model folder.

    Raises:
        CheckpointError: no such folder or file, not JSON, an architecture that is not supported, or
            quantized weights.
    """
    path = folder / "config.json"
    if not folder.is_dir():
        raise CheckpointError("model", str(folder), "there is no such folder")
    config = read_object(path)
    if config is None:
        raise CheckpointError("model", str(folder), "give a folder with a config.json")
    model_class(config, str(folder))
    with in_file(path):
        whole = Settings(config)
        parts = [whole.part(name) for name in ("text_config", "llm_config", "vision_config")]
        for part in (whole, *parts):
            if "quantization_config" in part:
                fix = "quantized weights are not supported: use the original checkpoint"
                part.refuse("quantization_config", fix)
    return config


def load_model(
    folder: str | Path,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    allow_pickle: bool = False,
) -> Model:
    """Load a model folder, tensor by tensor, straight into its parameters on `device`.

    Args:
        folder: with a config.json and weights.
        device: where the parameters live.
        dtype: of the parameters, whatever the files hold.
        allow_pickle: read *.bin and *.pt files too, tensors only, where there is no safetensors.

    Raises:
        CheckpointError: a missing, unexpected, truncated or wrongly shaped tensor or file. What the
            names, shapes and types tell is told before memory is taken on `device`.
    """
    folder = Path(folder)
    config = read_config(folder)
    with init_empty_weights(include_buffers=False):
        model = make_model(config, str(folder))
    files = weight_files(folder, allow_pickle=allow_pickle)
    _check(model, folder, files)
    materialise(model, device, dtype)
    _fill(model, files)
    return model.eval()


def materialise(model: nn.Module, device: torch.device | str, dtype: torch.dtype) -> None:
    """Give parameters without memory some, on `device` and not filled, and move the buffers there.

    `to_empty` would throw the buffers' values away, which no checkpoint brings back.
    """
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            empty = torch.empty(parameter.shape, device=device, dtype=dtype)
            setattr(module, name, nn.Parameter(empty, requires_grad=False))
    model.to(device)


def _check(model: Model, folder: Path, files: list[Path]) -> None:
    """Raise CheckpointError unless the files hold what `model` needs, and nothing unknown."""
    table = model.published()
    seen: set[str] = set()
    unexpected = []
    for name, tensor in stored_tensors(files):
        rows = table.get(name)
        if rows is None and _is_tied_head(model, name):
            rows = Rows("decoder.embed_tokens.weight", 0, model.decoder.config.vocab_size)
        if rows is None:
            if not name.endswith(CONSTANTS):
                unexpected.append(name)
            continue
        asked = _published_shape(model, rows)
        if name in seen:
            raise CheckpointError("model", str(folder), f"has {name} in two of its files")
        if tensor.dtype not in LOADABLE:
            fix = f"{name} is {str(tensor.dtype).removeprefix('torch.')}: only 16, 32 and 64-bit "
            raise CheckpointError("model", str(folder), fix + "floating point loads")
        if tuple(tensor.shape) != asked:
            fix = f"{name} has shape {list(tensor.shape)}, config.json asks for {list(asked)}"
            raise CheckpointError("model", str(folder), fix)
        seen.add(name)
    if unexpected:
        fix = f"has {len(unexpected)} unexpected tensors, first {min(unexpected)}"
        raise CheckpointError("model", str(folder), fix)
    if missing := table.keys() - seen:
        fix = f"lacks {len(missing)} tensors, first {min(missing)}"
        raise CheckpointError("model", str(folder), fix)


def _fill(model: Model, files: list[Path]) -> None:
    table, decoder = model.published(), model.decoder
    head = None
    for name, tensor in stored_tensors(files):
        if rows := table.get(name):
            _copy(tensor, model.get_parameter(rows.name).data[rows.start : rows.stop])
        elif _is_tied_head(model, name):
            head = tensor
    if head is not None:
        # Like transformers: what the files hold counts more than what config.json says of it.
        own = _copy(head, torch.empty_like(decoder.embed_tokens.weight))
        if not torch.equal(own, decoder.embed_tokens.weight):
            decoder.lm_head = nn.Linear(own.shape[1], own.shape[0], bias=False, device="meta")
            decoder.lm_head.weight = nn.Parameter(own, requires_grad=False)


def _copy(tensor: Tensor, target: Tensor) -> Tensor:
    """Fill `target`, sending to its device whichever form of `tensor` has fewer bytes: `copy_` by
    itself converts before it sends.
    """
    if tensor.element_size() < target.element_size():
        tensor = tensor.to(target.device)
    return target.copy_(tensor.reshape(target.shape))


def _is_tied_head(model: Model, name: str) -> bool:
    """Whether `name` is the head of a model whose config.json says that its embedding is the head.

    Some tools save it nevertheless, and some configs are wrong about it.
    """
    return model.decoder.lm_head is None and name.endswith(HEAD)


def _published_shape(model: Model, rows: Rows) -> tuple[int, ...]:
    """The shape of these rows in a checkpoint: ours, except that a patch embedding is published as
    a convolution and is a matrix product here.
    """
    rest = model.get_parameter(rows.name).shape[1:]
    if model.vision is not None and rows.name == "vision.patch_embed.weight":
        config = model.vision.config
        frames = (config.temporal_patch_size,) if isinstance(config, VisionConfig) else ()
        kernel = (*frames, config.patch_size, config.patch_size)
        rest = (rest[0] // math.prod(kernel), *kernel)
    return (rows.stop - rows.start, *rest)


def save_checkpoint(model: Model, folder: str | Path, dtype: torch.dtype = torch.bfloat16) -> None:
    """Write `folder`/model.safetensors with the published names, in `dtype`. config.json is the
    caller's.
    """
    tensors = {}
    for name, rows in model.published().items():
        tensor = model.get_parameter(rows.name).detach()[rows.start : rows.stop]
        shape = _published_shape(model, rows)
        tensors[name] = tensor.reshape(shape).to("cpu", dtype).contiguous()
    Path(folder).mkdir(parents=True, exist_ok=True)
    save_file(tensors, Path(folder) / "model.safetensors", metadata={"format": "pt"})
