"""The models this engine runs, by the `architectures` of their config.json."""

from collections.abc import Mapping
from typing import Any

from spava_app.engine.models.causal_lm import CausalLM
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
        CheckpointError: an architecture that is not known; the message lists those that are.
    """
    named = config.get("architectures") or []
    for name in named:
        if name in ARCHITECTURES:
            return ARCHITECTURES[name]
    known = ", ".join(sorted(ARCHITECTURES))
    raise CheckpointError("model", folder, f"has architectures {named}; known: {known}")
