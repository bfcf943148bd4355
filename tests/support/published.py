"""Model folders in the forms they are published in, tiny: files, key names and special tokens as on
the hub, random weights. What transformers saves has other names and places for many settings.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors

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
_LETTERS = sorted(pre_tokenizers.ByteLevel.alphabet())
VOCAB = 288

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


def write_json(folder: Path, name: str, value: object) -> None:
    """A file of `folder`."""
    (folder / name).write_text(json.dumps(value, ensure_ascii=False), "utf-8")


def token_id(token: str, tokens: Sequence[str]) -> int:
    """Of a special token; bytes are 0 to 255."""
    return len(_LETTERS) + tokens.index(token)


def write_tokenizer(
    folder: Path,
    tokens: Sequence[str],
    *,
    kind: str,
    end: str,
    begin: str | None = None,
    template: str | None = None,
) -> None:
    """tokenizer.json and tokenizer_config.json: bytes, then `tokens`, special without a named role
    but `begin` and `end`, as published.
    """
    core = Tokenizer(models.BPE({letter: i for i, letter in enumerate(_LETTERS)}, []))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    core.add_special_tokens([AddedToken(it, special=True, normalized=False) for it in tokens])
    if begin is not None:
        core.post_processor = processors.TemplateProcessing(
            single=f"{begin} $A", special_tokens=[(begin, token_id(begin, tokens))]
        )
    core.save(str(folder / "tokenizer.json"))
    known = {
        str(token_id(it, tokens)): {
            "content": it,
            "lstrip": False,
            "normalized": False,
            "rstrip": False,
            "single_word": False,
            "special": True,
        }
        for it in tokens
    }
    settings = {
        "added_tokens_decoder": known,
        "bos_token": begin,
        "eos_token": end,
        "clean_up_tokenization_spaces": False,
        "tokenizer_class": kind,
    }
    if template is not None:
        settings["chat_template"] = template
    write_json(folder, "tokenizer_config.json", settings)


def write_weights(folder: Path, shapes: Mapping[str, Sequence[int]], seed: int = 0) -> None:
    """Random values, norms 1, in one bfloat16 file."""
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for name, shape in shapes.items():
        norm = len(shape) == 1 and name.endswith("weight")
        value = torch.ones(*shape) if norm else torch.randn(*shape, generator=generator) * 0.2
        tensors[name] = value.bfloat16()
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def decoder_settings(**change: Any) -> dict[str, Any]:
    """A decoder with heads of 16."""
    return {
        "hidden_act": "silu",
        "hidden_size": 64,
        "intermediate_size": 96,
        "max_position_embeddings": 4096,
        "num_attention_heads": 4,
        "num_hidden_layers": 2,
        "num_key_value_heads": 2,
        "rms_norm_eps": 1e-6,
        "rope_theta": 1e6,
        "tie_word_embeddings": False,
        "use_sliding_window": False,
        "vocab_size": VOCAB,
        **change,
    }


def decoder_shapes(settings: Mapping[str, Any], *, bias: bool, body: str = "") -> dict[str, Any]:
    """Published name and shape of each tensor of a decoder."""
    hidden, inner = settings["hidden_size"], settings["intermediate_size"]
    keys = hidden // settings["num_attention_heads"] * settings["num_key_value_heads"]
    vocab = settings["vocab_size"]
    shapes: dict[str, Any] = {f"{body}model.embed_tokens.weight": (vocab, hidden)}
    for layer in range(settings["num_hidden_layers"]):
        at = f"{body}model.layers.{layer}"
        for name, rows in (("q", hidden), ("k", keys), ("v", keys)):
            shapes[f"{at}.self_attn.{name}_proj.weight"] = (rows, hidden)
            if bias:
                shapes[f"{at}.self_attn.{name}_proj.bias"] = (rows,)
        shapes[f"{at}.self_attn.o_proj.weight"] = (hidden, hidden)
        shapes[f"{at}.mlp.gate_proj.weight"] = (inner, hidden)
        shapes[f"{at}.mlp.up_proj.weight"] = (inner, hidden)
        shapes[f"{at}.mlp.down_proj.weight"] = (hidden, inner)
        shapes[f"{at}.input_layernorm.weight"] = (hidden,)
        shapes[f"{at}.post_attention_layernorm.weight"] = (hidden,)
    shapes[f"{body}model.norm.weight"] = (hidden,)
    if not settings.get("tie_word_embeddings"):
        shapes[f"{body}lm_head.weight"] = (vocab, hidden)
    return shapes


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
