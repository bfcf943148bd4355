"""Model folders in the forms they are published in, tiny: files, key names and special tokens as on
the hub, random weights. What transformers saves has other names and places for many settings.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from model_files import (
    decoder_settings,
    decoder_shapes,
    token_id,
    write_json,
    write_tokenizer,
    write_weights,
)

QWEN_TOKENS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|object_ref_start|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
LLAMA_TOKENS = (
    "<|begin_of_text|>",
    "<|end_of_text|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eom_id|>",
    "<|eot_id|>",
    "<|python_tag|>",
)
INTERNVL_TOKENS = ("<img>", "</img>", "<IMG_CONTEXT>", "<box>", "</box>")

# A content is text here, as in the tokenizer_config.json of Qwen2.5-VL and of the text models.
TEXT_TEMPLATE = (
    "{%- if messages[0]['role'] == 'system' %}"
    "{{- '<|im_start|>system\n' + messages[0]['content'] + '<|im_end|>\n' }}"
    "{%- else %}{{- '<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n' }}{%- endif %}"
    "{%- for message in messages %}"
    "{%- if message.role == 'user' or (message.role == 'system' and not loop.first)"
    " or message.role == 'assistant' %}"
    "{{- '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>' + '\n' }}"
    "{%- endif %}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}"
)
# And here a text or a list of parts, as in their chat_template.json.
PICTURE_TEMPLATE = (
    "{% for message in messages %}{% if loop.first and message['role'] != 'system' %}"
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n{% endif %}"
    "<|im_start|>{{ message['role'] }}\n{% if message['content'] is string %}"
    "{{ message['content'] }}<|im_end|>\n{% else %}{% for content in message['content'] %}"
    "{% if content['type'] == 'image' or 'image' in content %}"
    "<|vision_start|><|image_pad|><|vision_end|>"
    "{% elif content['type'] == 'video' or 'video' in content %}"
    "<|vision_start|><|video_pad|><|vision_end|>"
    "{% elif 'text' in content %}{{ content['text'] }}{% endif %}{% endfor %}<|im_end|>\n"
    "{% endif %}{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
LLAMA_TEMPLATE = (
    "{% for message in messages %}{% set content = '<|start_header_id|>' + message['role'] + "
    "'<|end_header_id|>\n\n' + message['content'] | trim + '<|eot_id|>' %}"
    "{% if loop.index0 == 0 %}{% set content = bos_token + content %}{% endif %}{{ content }}"
    "{% endfor %}{% if add_generation_prompt %}"
    "<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)


def qwen_vl(folder: Path, change: Callable[[dict[str, Any]], None] = lambda _: None) -> Path:
    """Qwen2.5-VL-7B-Instruct: a flat config.json, the template for texts in the tokenizer and the
    one with pictures in chat_template.json, no file of settings for videos.
    """
    folder.mkdir(parents=True, exist_ok=True)
    vision = {
        "depth": 2,
        "hidden_act": "silu",
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_heads": 2,
        "in_chans": 3,
        "out_hidden_size": 64,
        "patch_size": 14,
        "spatial_merge_size": 2,
        "spatial_patch_size": 14,
        "window_size": 112,
        "fullatt_block_indexes": [1],
        "tokens_per_second": 2,
        "temporal_patch_size": 2,
    }
    config = {
        "architectures": ["Qwen2_5_VLForConditionalGeneration"],
        "model_type": "qwen2_5_vl",
        **decoder_settings(),
        "eos_token_id": token_id("<|im_end|>", QWEN_TOKENS),
        "image_token_id": token_id("<|image_pad|>", QWEN_TOKENS),
        "video_token_id": token_id("<|video_pad|>", QWEN_TOKENS),
        "rope_scaling": {"type": "mrope", "mrope_section": [2, 3, 3]},
        "vision_config": vision,
    }
    shapes = decoder_shapes(config, bias=True)
    shapes["visual.patch_embed.proj.weight"] = (32, 3, 2, 14, 14)
    for block in range(2):
        at = f"visual.blocks.{block}"
        for name, shape in (
            ("attn.qkv", (96, 32)),
            ("attn.proj", (32, 32)),
            ("mlp.gate_proj", (48, 32)),
            ("mlp.up_proj", (48, 32)),
            ("mlp.down_proj", (32, 48)),
        ):
            shapes |= {f"{at}.{name}.weight": shape, f"{at}.{name}.bias": shape[:1]}
        shapes |= {f"{at}.norm1.weight": (32,), f"{at}.norm2.weight": (32,)}
    shapes["visual.merger.ln_q.weight"] = (32,)
    for name, shape in (("0", (128, 128)), ("2", (64, 128))):
        shapes |= {
            f"visual.merger.mlp.{name}.weight": shape,
            f"visual.merger.mlp.{name}.bias": shape[:1],
        }
    change(config)
    write_weights(folder, shapes)
    write_json(folder, "config.json", config)
    write_tokenizer(
        folder, QWEN_TOKENS, kind="Qwen2Tokenizer", end="<|im_end|>", template=TEXT_TEMPLATE
    )
    write_json(folder, "chat_template.json", {"chat_template": PICTURE_TEMPLATE})
    pixels = {
        "min_pixels": 3136,
        "max_pixels": 12845056,
        "patch_size": 14,
        "temporal_patch_size": 2,
        "merge_size": 2,
        "image_mean": [0.48145466, 0.4578275, 0.40821073],
        "image_std": [0.26862954, 0.26130258, 0.27577711],
        "image_processor_type": "Qwen2VLImageProcessor",
    }
    write_json(folder, "preprocessor_config.json", pixels)
    generation = {
        "do_sample": True,
        "eos_token_id": [token_id(it, QWEN_TOKENS) for it in ("<|im_end|>", "<|endoftext|>")],
        "repetition_penalty": 1.05,
        "temperature": 0.000001,
    }
    write_json(folder, "generation_config.json", generation)
    return folder


def text_model(folder: Path, **change: Any) -> Path:
    """Qwen2.5-Instruct; with `rope_scaling` as its documentation says for long texts."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {
        "architectures": ["Qwen2ForCausalLM"],
        "model_type": "qwen2",
        **decoder_settings(),
        "eos_token_id": token_id("<|im_end|>", QWEN_TOKENS),
        **change,
    }
    write_weights(folder, decoder_shapes(config, bias=True))
    write_json(folder, "config.json", config)
    write_tokenizer(
        folder, QWEN_TOKENS, kind="Qwen2Tokenizer", end="<|im_end|>", template=TEXT_TEMPLATE
    )
    return folder


def llama(folder: Path, *, template: str | None = LLAMA_TEMPLATE, **change: Any) -> Path:
    """Llama-3-8B-Instruct-Gradient-1048k: a config.json that knows one end of two."""
    folder.mkdir(parents=True, exist_ok=True)
    end = token_id("<|end_of_text|>", LLAMA_TOKENS)
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "attention_bias": False,
        **decoder_settings(rope_theta=3580165449.0),
        "eos_token_id": end,
        **change,
    }
    write_weights(folder, decoder_shapes(config, bias=False))
    write_json(folder, "config.json", config)
    write_tokenizer(
        folder,
        LLAMA_TOKENS,
        kind="PreTrainedTokenizerFast",
        begin="<|begin_of_text|>",
        end="<|end_of_text|>",
        template=template,
    )
    write_json(folder, "generation_config.json", {"eos_token_id": end})
    return folder
