"""The models this engine runs, by the `architectures` of their config.json."""

from collections.abc import Mapping
from typing import Any

import torch

from spava_app.engine.models.causal_lm import CausalLM
from spava_app.engine.models.config.settings import in_file
from spava_app.engine.models.internvl3 import InternVL3
from spava_app.engine.models.qwen2_5_vl import Qwen25VL
from spava_app.errors import CheckpointError

Model = Qwen25VL | InternVL3 | CausalLM

ARCHITECTURES: dict[str, type[Model]] = {
    "InternVLChatModel": InternVL3,
    "InternVLForConditionalGeneration": InternVL3,
    "LlamaForCausalLM": CausalLM,
    "Qwen2ForCausalLM": CausalLM,
    "Qwen2_5_VLForConditionalGeneration": Qwen25VL,
}


def model_class(config: Mapping[str, Any], folder: str) -> type[Model]:
    """The class for the parsed config.json of `folder`.

    Raises:
        CheckpointError: an architecture that is not supported; the message lists those that are.
    """
    named = config.get("architectures")
    if isinstance(named, list):
        for name in named:
            if isinstance(name, str) and name in ARCHITECTURES:
                return ARCHITECTURES[name]
    supported = ", ".join(sorted(ARCHITECTURES))
    fix = f"architectures={named!r} is not supported; supported: {supported}"
    raise CheckpointError("model", f"{folder}/config.json", fix)


def make_model(config: Mapping[str, Any], folder: str) -> Model:
    """The model that the parsed config.json of `folder` describes, on torch's default device.

    Raises:
        CheckpointError: an architecture or a setting that is missing, wrong or not supported; the
            message names the file and the key.
    """
    kind = model_class(config, folder)
    with in_file(f"{folder}/config.json"):
        return kind(config)


def empty_model(config: Mapping[str, Any], folder: str) -> Model:
    """As `make_model`, with sizes and no memory."""
    with torch.device("meta"):
        return make_model(config, folder)
