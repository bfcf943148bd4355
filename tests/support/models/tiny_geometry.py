"""Published models in miniature."""

from typing import Any

from spava_app.engine.models.geometries import GEOMETRIES

SMALLER = {
    "vocab_size": 300,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
SMALLER_VISION = {
    "Qwen2.5-VL-3B": {"depth": 2, "hidden_size": 32, "num_heads": 2, "intermediate_size": 48},
    "InternVL3-2B": {
        "hidden_size": 32,
        "num_attention_heads": 2,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "image_size": [56, 56],
    },
}


def tiny(name: str) -> dict[str, Any]:
    """A geometry with all its settings but its sizes."""
    config = dict(GEOMETRIES[name])
    text = "text_config" if "text_config" in config else None
    if text is not None:
        config[text] = {**config[text], **SMALLER}
    else:
        config |= SMALLER
    if name == "Qwen2.5-VL-3B":
        config["rope_scaling"] = {"type": "mrope", "mrope_section": [2, 3, 3]}
        extra = {"out_hidden_size": 64, "fullatt_block_indexes": [1]}
        config["vision_config"] = {**config["vision_config"], **SMALLER_VISION[name], **extra}
    elif name in SMALLER_VISION:
        config["vision_config"] = {**config["vision_config"], **SMALLER_VISION[name]}
    return config
