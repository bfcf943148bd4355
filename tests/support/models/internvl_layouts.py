"""InternVL3 in the layout it was published in first, and a tokenizer for a tiny one."""

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor
from transformers import PreTrainedTokenizerFast

SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<img>", "</img>", "<IMG_CONTEXT>")
# As published: a content is a text.
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def write_tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    """Bytes as tokens 0 to 255, then `SPECIAL`."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    core = Tokenizer(models.BPE({letter: i for i, letter in enumerate(letters)}, []))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    core.add_special_tokens(list(SPECIAL))
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core,
        eos_token="<|im_end|>",
        additional_special_tokens=list(SPECIAL),
        chat_template=TEMPLATE,
    )
    tokenizer.save_pretrained(folder)
    return tokenizer


def original_config(config: dict[str, Any]) -> dict[str, Any]:
    """The config.json of the same model as an InternVLChatModel."""
    vision, text = config["vision_config"], dict(config["text_config"])
    rope = text.pop("rope_parameters")
    llm = {**text, "rope_theta": rope["rope_theta"], "rope_scaling": None}
    llm["tie_word_embeddings"] = config["tie_word_embeddings"]
    same = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    return {
        "architectures": ["InternVLChatModel"],
        "llm_config": llm,
        "vision_config": {
            **{name: vision[name] for name in same},
            "image_size": 56,
            "patch_size": 14,
            "norm_type": vision["norm_type"],
            "layer_norm_eps": vision["layer_norm_eps"],
            "qkv_bias": vision["attention_bias"],
            "qk_normalization": vision["use_qk_norm"],
            "hidden_act": "gelu",
        },
        "downsample_ratio": 0.5,
        "force_image_size": 56,
        "ps_version": "v2",
        "select_layer": -1,
        # The outer model's, which the original does not read.
        "tie_word_embeddings": not config["tie_word_embeddings"],
    }


# Written from modeling_intern_vit.py, not from our table.
ORIGINAL_NAMES = (
    ("vision_tower.embeddings.cls_token", "vision_model.embeddings.class_embedding"),
    (
        "vision_tower.embeddings.patch_embeddings.projection",
        "vision_model.embeddings.patch_embedding",
    ),
    (
        "vision_tower.embeddings.position_embeddings",
        "vision_model.embeddings.position_embedding",
    ),
    ("vision_tower.encoder.layer.", "vision_model.encoder.layers."),
    ("attention.projection_layer", "attn.proj"),
    ("attention.", "attn."),
    ("layernorm_before", "norm1"),
    ("layernorm_after", "norm2"),
    ("lambda_", "ls"),
    ("multi_modal_projector.layer_norm", "mlp1.0"),
    ("multi_modal_projector.linear_1", "mlp1.1"),
    ("multi_modal_projector.linear_2", "mlp1.3"),
)


def original_tensors(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of the -hf layout under the original's names."""
    renamed: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if name.startswith("vision_tower") and ".attention.q_proj." in name:
            parts = [tensors[name.replace("q_proj", f"{part}_proj")] for part in "qkv"]
            name, tensor = name.replace("q_proj", "qkv"), torch.cat(parts)
        elif name.startswith("vision_tower") and name.split(".")[-2] in {"k_proj", "v_proj"}:
            continue
        if not name.startswith("language_model"):
            for theirs, original in ORIGINAL_NAMES:
                name = name.replace(theirs, original)
        renamed[name] = tensor
    return renamed
