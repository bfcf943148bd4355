"""InternVL3 in both layouts it is published in, tiny; see `published`."""

from pathlib import Path
from typing import Any

from model_files import (
    change_json,
    decoder_settings,
    decoder_shapes,
    token_id,
    write_json,
    write_tokenizer,
    write_weights,
)
from published import INTERNVL_TOKENS, QWEN_TOKENS, TEXT_TEMPLATE

TOKENS = (*QWEN_TOKENS, *INTERNVL_TOKENS, "<video>")
CODE = ("configuration_internvl_chat", "conversation", "modeling_internvl_chat")
# Of chat_template.jinja in the -hf folders.
HF_TEMPLATE = (
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n'}}"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for content in message['content'] %}{% if content['type'] == 'image' %}"
    "{{ '<IMG_CONTEXT>\n' }}{% elif content['type'] == 'video' %}{{ '<video>\n' }}"
    "{% elif content['type'] == 'text' %}{{ content['text'] }}{% endif %}{% endfor %}{% endif %}"
    "{{'<|im_end|>\n'}}{% endfor %}{% if add_generation_prompt %}"
    "{{'<|im_start|>assistant\n' }}{% endif %}"
)
PIXELS = {
    "do_normalize": True,
    "do_resize": True,
    "image_mean": [0.485, 0.456, 0.406],
    "image_std": [0.229, 0.224, 0.225],
    "resample": 3,
}
_VISION = {
    "hidden_act": "gelu",
    "hidden_size": 32,
    "intermediate_size": 48,
    "layer_norm_eps": 1e-6,
    "norm_type": "layer_norm",
    "num_attention_heads": 2,
    "num_channels": 3,
    "num_hidden_layers": 2,
}


def _decoder() -> dict[str, Any]:
    return decoder_settings(
        model_type="qwen2",
        eos_token_id=token_id("<|endoftext|>", TOKENS),
        rope_scaling={"factor": 2.0, "rope_type": "dynamic", "type": "dynamic"},
    )


def _tower_shapes(body: str, layer: str, names: dict[str, str]) -> dict[str, tuple[int, ...]]:
    """Of a tower with tiles of 56 pixels; `names` are those in which the layouts differ."""
    shapes: dict[str, tuple[int, ...]] = {
        f"{body}.embeddings.{names['class']}": (1, 1, 32),
        f"{body}.embeddings.{names['position']}": (1, 17, 32),
        f"{body}.embeddings.{names['patch']}.weight": (32, 3, 14, 14),
        f"{body}.embeddings.{names['patch']}.bias": (32,),
    }
    for index in range(2):
        at = f"{body}.{layer}.{index}"
        for name in names["attention"].split():
            rows = 96 if name.endswith("qkv") else 32
            shapes |= {f"{at}.{name}.weight": (rows, 32), f"{at}.{name}.bias": (rows,)}
        for name, rows, width in (("mlp.fc1", 48, 32), ("mlp.fc2", 32, 48)):
            shapes |= {f"{at}.{name}.weight": (rows, width), f"{at}.{name}.bias": (rows,)}
        for norm in names["norms"].split():
            shapes |= {f"{at}.{norm}.weight": (32,), f"{at}.{norm}.bias": (32,)}
        shapes |= {f"{at}.{scale}": (32,) for scale in names["scales"].split()}
    norm, up, down = names["projector"].split()
    shapes |= {f"{norm}.weight": (128,), f"{norm}.bias": (128,)}
    shapes |= {f"{up}.weight": (64, 128), f"{up}.bias": (64,)}
    return shapes | {f"{down}.weight": (64, 64), f"{down}.bias": (64,)}


def internvl(folder: Path, **change: Any) -> Path:
    """InternVL3-8B as first published: code files, a conversation template of that code, and in the
    tokenizer the template of Qwen2.5.
    """
    folder.mkdir(parents=True, exist_ok=True)
    config = {
        "architectures": ["InternVLChatModel"],
        "auto_map": {"AutoConfig": "configuration_internvl_chat.InternVLChatConfig"},
        "downsample_ratio": 0.5,
        "dynamic_image_size": True,
        "force_image_size": 56,
        "llm_config": {"architectures": ["Qwen2ForCausalLM"], **_decoder()},
        "max_dynamic_patch": 3,
        "min_dynamic_patch": 1,
        "model_type": "internvl_chat",
        "pad2square": False,
        "ps_version": "v2",
        "select_layer": -1,
        "system_message": None,
        "template": "internvl2_5",
        "tie_word_embeddings": False,
        "use_backbone_lora": 0,
        "use_llm_lora": 0,
        "use_thumbnail": True,
        "vision_config": {
            **_VISION,
            "image_size": 56,
            "patch_size": 14,
            "qk_normalization": False,
            "qkv_bias": True,
        },
        **change,
    }
    names = {
        "class": "class_embedding",
        "position": "position_embedding",
        "patch": "patch_embedding",
        "attention": "attn.qkv attn.proj",
        "norms": "norm1 norm2",
        "scales": "ls1 ls2",
        "projector": "mlp1.0 mlp1.1 mlp1.3",
    }
    shapes = decoder_shapes(config["llm_config"], bias=True, body="language_model.")
    write_weights(folder, shapes | _tower_shapes("vision_model", "encoder.layers", names))
    write_json(folder, "config.json", config)
    write_tokenizer(folder, TOKENS, kind="Qwen2Tokenizer", end="<|im_end|>", template=TEXT_TEMPLATE)
    pixels = {**PIXELS, "crop_size": 56, "do_center_crop": True, "size": 56}
    write_json(folder, "preprocessor_config.json", pixels)
    ends = [token_id(it, TOKENS) for it in ("<|endoftext|>", "<|im_end|>")]
    write_json(folder, "generation_config.json", {"eos_token_id": ends})
    for name in CODE:
        code = f"open({str(folder / 'ran')!r}, 'w').write('ran')\n"
        (folder / f"{name}.py").write_text(code)
    return folder


def internvl_hf(folder: Path, **change: Any) -> Path:
    """InternVL3-8B-hf, as the conversion script of transformers 4.52 wrote it."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {
        "architectures": ["InternVLForConditionalGeneration"],
        "downsample_ratio": 0.5,
        "image_seq_length": 4,
        "image_token_id": token_id("<IMG_CONTEXT>", TOKENS),
        "model_type": "internvl",
        "projector_hidden_act": "gelu",
        "text_config": _decoder(),
        # The root's counts in transformers, and its default is true.
        "tie_word_embeddings": False,
        "vision_config": {
            **_VISION,
            "model_type": "internvl_vision",
            "attention_bias": True,
            "image_size": [56, 56],
            "patch_size": [14, 14],
            "use_absolute_position_embeddings": True,
            "use_mask_token": False,
            "use_mean_pooling": True,
            "use_qk_norm": False,
        },
        "vision_feature_layer": -1,
        "vision_feature_select_strategy": "default",
        **change,
    }
    names = {
        "class": "cls_token",
        "position": "position_embeddings",
        "patch": "patch_embeddings.projection",
        "attention": " ".join(
            f"attention.{it}" for it in ("q_proj", "k_proj", "v_proj", "projection_layer")
        ),
        "norms": "layernorm_before layernorm_after",
        "scales": "lambda_1 lambda_2",
        "projector": " ".join(
            f"multi_modal_projector.{it}" for it in ("layer_norm", "linear_1", "linear_2")
        ),
    }
    shapes = decoder_shapes(config["text_config"], bias=True, body="language_model.")
    write_weights(folder, shapes | _tower_shapes("vision_tower", "encoder.layer", names))
    write_json(folder, "config.json", config)
    write_tokenizer(folder, TOKENS, kind="Qwen2Tokenizer", end="<|im_end|>")
    roles = {
        "context_image_token": "<IMG_CONTEXT>",
        "end_image_token": "</img>",
        "start_image_token": "<img>",
        "video_token": "<video>",
    }
    change_json(folder, "tokenizer_config.json", **roles, extra_special_tokens=roles)
    (folder / "chat_template.jinja").write_text(HF_TEMPLATE, "utf-8")
    size = {"size": {"height": 56, "width": 56}}
    pixels = {**PIXELS, **size, "crop_to_patches": False, "max_patches": 3, "min_patches": 1}
    write_json(folder, "preprocessor_config.json", pixels)
    write_json(folder, "video_preprocessor_config.json", {**PIXELS, **size})
    write_json(folder, "processor_config.json", {"image_seq_length": 4})
    end = token_id("<|im_end|>", TOKENS)
    write_json(folder, "generation_config.json", {"eos_token_id": end})
    return folder
