"""The text decoder of the Qwen2 / Qwen2.5-VL family: single-device code that never asks for its
rank.

T = rows, H = query heads, Hkv = KV heads, D = head dim. There is no batch dimension. Attention goes
through the `attend` callback, which receives rotated queries and keys, so any prefill method or
cache plugs in from outside.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from spava_app.errors import CheckpointError
from spava_app.kernels.rope import Rotary, apply_rotary, rotary_frequencies, rotary_table

# (layer, q [T, H, D], k [T, Hkv, D], v [T, Hkv, D]) -> [T, H, D]
Attend = Callable[[int, Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class DecoderConfig:
    """Geometry of a decoder, read from a Hugging Face config.json."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    norm_eps: float
    rope_theta: float
    mrope_section: tuple[int, ...] | None
    tie_embeddings: bool

    @classmethod
    def from_hf(cls, config: Mapping[str, Any]) -> "DecoderConfig":
        """Read the nested (`text_config`) layout of transformers 5 or the hub's older flat one.

        Raises:
            KeyError: a required setting is missing.
            CheckpointError: a setting asks for something this decoder does not compute.
        """
        text = config.get("text_config") or config
        rope = text.get("rope_parameters") or text.get("rope_scaling") or {}
        kind = rope.get("rope_type", rope.get("type", "default"))
        for setting, value, known in (
            ("hidden_act", text.get("hidden_act", "silu"), {"silu"}),
            ("rope_type", kind, {"default", "mrope"}),
            ("use_sliding_window", text.get("use_sliding_window", False), {False}),
        ):
            if value not in known:
                raise CheckpointError(setting, value, f"only {known} is supported")
        section = rope.get("mrope_section")
        hidden, heads = text["hidden_size"], text["num_attention_heads"]
        return cls(
            vocab_size=text["vocab_size"],
            hidden_size=hidden,
            intermediate_size=text["intermediate_size"],
            num_layers=text["num_hidden_layers"],
            num_heads=heads,
            num_kv_heads=text.get("num_key_value_heads") or heads,
            head_dim=text.get("head_dim") or hidden // heads,
            norm_eps=text["rms_norm_eps"],
            rope_theta=rope.get("rope_theta") or text["rope_theta"],
            mrope_section=tuple(section) if section else None,
            tie_embeddings=bool(
                config.get("tie_word_embeddings", text.get("tie_word_embeddings", False))
            ),
        )


class DecoderLayer(nn.Module):
    """Attention and SwiGLU with pre-norms; the projections of q, k, v and of gate, up are fused."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.heads = (config.num_heads, config.num_kv_heads, config.num_kv_heads)
        self.head_dim = config.head_dim
        hidden, inner = config.hidden_size, config.intermediate_size
        self.input_norm = nn.RMSNorm(hidden, config.norm_eps)
        self.qkv = nn.Linear(hidden, sum(self.heads) * config.head_dim)
        self.o = nn.Linear(config.num_heads * config.head_dim, hidden, bias=False)
        self.post_norm = nn.RMSNorm(hidden, config.norm_eps)
        self.gate_up = nn.Linear(hidden, 2 * inner, bias=False)
        self.down = nn.Linear(inner, hidden, bias=False)

    def forward(self, hidden: Tensor, rotary: Rotary, layer: int, attend: Attend) -> Tensor:
        heads = self.qkv(self.input_norm(hidden)).unflatten(-1, (-1, self.head_dim))
        q, k, v = heads.split(self.heads, dim=1)
        attended = attend(layer, apply_rotary(q, rotary), apply_rotary(k, rotary), v)
        hidden = hidden + self.o(attended.flatten(1))
        gate, up = self.gate_up(self.post_norm(hidden)).chunk(2, dim=-1)
        return hidden + self.down(F.silu(gate) * up)


class Decoder(nn.Module):
    """Embedding, layers, final norm and language head."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.config = config
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(DecoderLayer(config) for _ in range(config.num_layers))
        self.norm = nn.RMSNorm(config.hidden_size, config.norm_eps)
        self.lm_head = None
        if not config.tie_embeddings:
            self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)

    def embed(self, ids: Tensor) -> Tensor:
        """Token ids `[T]` to hidden states `[T, hidden]`."""
        return self.embed_tokens(ids)

    def rotary(self, positions: Tensor) -> Rotary:
        """The rotary table of `positions`, `[T]` or `[3, T]` (time, height, width)."""
        frequencies = rotary_frequencies(
            self.config.head_dim, self.config.rope_theta, positions.device
        )
        return rotary_table(positions, frequencies, self.config.mrope_section)

    def forward(self, hidden: Tensor, positions: Tensor, attend: Attend) -> Tensor:
        """Run all layers.

        Args:
            hidden: embeddings of the rows this process computes, `[T, hidden]`; T may be 0.
            positions: their original positions in the prompt, int64 `[T]` or `[3, T]`.
            attend: called once per layer with rotated q and k; does whatever communication its
                method needs.

        Returns:
            `[T, hidden]`, after the final norm.
        """
        rotary = self.rotary(positions)
        for index, layer in enumerate(self.layers):
            hidden = layer(hidden, rotary, index, attend)
        return self.norm(hidden)

    def logits(self, hidden: Tensor) -> Tensor:
        """Next-token logits `[n, vocab]` of final hidden states `[n, hidden]`: ask only for rows
        that matter.
        """
        head = self.embed_tokens if self.lm_head is None else self.lm_head
        return F.linear(hidden, head.weight)
