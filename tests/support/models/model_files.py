"""Writing the files of a tiny model folder."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors

_LETTERS = sorted(pre_tokenizers.ByteLevel.alphabet())
VOCAB = 288


def write_json(folder: Path, name: str, value: object) -> None:
    """A file of `folder`."""
    (folder / name).write_text(json.dumps(value, ensure_ascii=False), "utf-8")


def change_json(folder: Path, name: str, **change: object) -> None:
    """Set keys of a file of `folder`, which may not be there yet."""
    file = folder / name
    found = json.loads(file.read_text("utf-8")) if file.exists() else {}
    write_json(folder, name, found | change)


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
