"""What the config.json of a checkpoint says about its decoder, with the defaults that transformers
has for what a file leaves out.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from spava_app.engine.models.config.rope import RopeConfig
from spava_app.engine.models.config.settings import MOST_LAYERS, MOST_POSITIONS, Settings

# What the work on single rows (norms, projections, MLP) holds at a time beside its result; past it
# more rows give no speed, only memory.
CHUNK_BYTES = 2**30
_COMMON = {
    "hidden_act": "silu",
    "mlp_bias": False,
    "attention_bias": False,
    "num_hidden_layers": 32,
    "rms_norm_eps": 1e-6,
    "rope_theta": 10_000.0,
    "tie_word_embeddings": False,
    "use_sliding_window": False,
}
# By `model_type`: Llama and Yi; Qwen2; the decoder of Qwen2.5-VL, in the nested config.json of
# transformers 5 and in the hub's older flat one. The values are those of LlamaConfig, Qwen2Config
# and Qwen2_5_VLTextConfig (transformers 5); a test compares them.
DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    "llama": {
        **_COMMON,
        "vocab_size": 32_000,
        "hidden_size": 4096,
        "intermediate_size": 11_008,
        "num_attention_heads": 32,
        "max_position_embeddings": 2048,
    },
    "qwen2": {
        **_COMMON,
        "vocab_size": 151_936,
        "hidden_size": 4096,
        "intermediate_size": 22_016,
        "num_attention_heads": 32,
        "num_key_value_heads": 32,
        "max_position_embeddings": 32_768,
        "max_window_layers": 28,
    },
    "qwen2_5_vl_text": {
        **_COMMON,
        "vocab_size": 152_064,
        "hidden_size": 8192,
        "intermediate_size": 29_568,
        "num_hidden_layers": 80,
        "num_attention_heads": 64,
        "num_key_value_heads": 8,
        "rms_norm_eps": 1e-5,
        "max_position_embeddings": 32_768,
        "max_window_layers": 80,
        "rope_theta": 1e6,
    },
}
# Of `Qwen2_5_VLRotaryEmbedding`, where a file leaves it out.
_MROPE_SECTION = {"qwen2_5_vl_text": (16, 24, 24)}
_FLAT = {"qwen2_5_vl": "qwen2_5_vl_text"}


@dataclass(frozen=True)
class DecoderConfig:
    """Geometry of a decoder, read from a Hugging Face config.json.

    Attributes:
        qkv_bias, output_bias: whether the projections into and out of attention have biases.
        rope: base and scaling of the rotary frequencies.
        mrope_section: frequencies per axis for multimodal rotary; None for plain positions.
        max_positions: longest sequence, in tokens, that the checkpoint is made for.
    """

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    norm_eps: float
    rope: RopeConfig
    mrope_section: tuple[int, ...] | None
    qkv_bias: bool
    output_bias: bool
    tie_embeddings: bool
    max_positions: int

    @classmethod
    def from_hf(
        cls,
        config: Mapping[str, Any],
        *,
        kind: str | None = None,
        part: str | None = None,
        tied: bool = False,
    ) -> "DecoderConfig":
        """Read the nested (`text_config`, `llm_config`) layout or the hub's older flat one.

        Args:
            kind: `model_type` where the file need not name one.
            part: where the decoder is, which a file may leave out.
            tied: `tie_word_embeddings` where a model around the decoder does not say.

        Raises:
            CheckpointError: a setting is missing or wrong, or asks for something this decoder does
                not compute.
        """
        outer = Settings(config)
        nested = part or ("text_config" if "text_config" in outer else None)
        text = outer.part(nested) if nested else outer
        family = _family(text, kind)
        text = text.with_defaults(DEFAULTS[family])
        _refuse_unknown(text)
        heads, hidden = text.count("num_attention_heads"), text.count("hidden_size")
        kv_heads = _kv_heads(text, heads)
        if heads % kv_heads:
            text.refuse("num_key_value_heads", f"must divide num_attention_heads={heads}")
        if "head_dim" not in text and hidden % heads:
            text.refuse("hidden_size", f"must be a multiple of num_attention_heads={heads}")
        head_dim = text.count("head_dim") if "head_dim" in text else hidden // heads
        if head_dim % 2:
            key = "head_dim" if "head_dim" in text else "hidden_size"
            text.refuse(key, f"heads have {head_dim} dimensions: must be an even number")
        rope, section = RopeConfig.read(text), _mrope_section(text, family, head_dim)
        # Llama says whether it has biases; Qwen2 always has them on q, k and v and never on o.
        llama = family == "llama"
        bias = text.flag("attention_bias") if llama else False
        # Published configs disagree about where this stands; loading looks at the tensors too.
        tie_embeddings = text.flag("tie_word_embeddings")
        if nested == "text_config":
            outer = outer.with_defaults({"tie_word_embeddings": tied})
            tie_embeddings |= outer.flag("tie_word_embeddings")
        return cls(
            vocab_size=text.count("vocab_size"),
            hidden_size=hidden,
            intermediate_size=text.count("intermediate_size"),
            num_layers=text.count("num_hidden_layers", most=MOST_LAYERS),
            num_heads=heads,
            num_kv_heads=kv_heads,
            head_dim=head_dim,
            norm_eps=text.number("rms_norm_eps", most=1),
            rope=rope,
            mrope_section=section,
            qkv_bias=bias if llama else True,
            output_bias=bias,
            tie_embeddings=tie_embeddings,
            max_positions=_max_positions(text, rope),
        )

    def rows_per_chunk(self, dtype: torch.dtype) -> int:
        """Rows that a layer works on at a time outside attention. The most that is held of a row
        are gate and up, the gate's result and the product.
        """
        return max(1, CHUNK_BYTES // (4 * self.intermediate_size * dtype.itemsize))


def _family(text: Settings, kind: str | None) -> str:
    """The key of `DEFAULTS` for its `model_type`."""
    found = text.raw("model_type", kind)
    known = _FLAT.get(found, found) if isinstance(found, str) else found
    if not isinstance(known, str) or known not in DEFAULTS:
        text.refuse("model_type", f"supported decoders: {', '.join(DEFAULTS)}")
    return known


def _kv_heads(text: Settings, heads: int) -> int:
    """Null, and nothing for a family without a default, mean as many as there are query heads."""
    key = "num_key_value_heads"
    return heads if text.null(key) or text.raw(key) is None else text.count(key)


def _refuse_unknown(text: Settings) -> None:
    text.only("hidden_act", "silu")
    text.only("mlp_bias", False)
    # What each layer does, where the file says it; older files only have the switch.
    if "layer_types" in text:
        layers = text.raw("layer_types")
        if not isinstance(layers, list) or any(layer != "full_attention" for layer in layers):
            text.refuse("layer_types", "only 'full_attention' is supported")
    # Layers before max_window_layers attend to everything in any case.
    elif text.flag("use_sliding_window") and (
        text.raw("max_window_layers", 0) < text.count("num_hidden_layers")
    ):
        text.refuse("use_sliding_window", "only false is supported")


def _mrope_section(text: Settings, family: str, head_dim: int) -> tuple[int, ...] | None:
    rope = RopeConfig.settings(text).with_defaults({"mrope_section": _MROPE_SECTION.get(family)})
    if rope.raw("mrope_section") is None:
        return None
    section = rope.counts("mrope_section")
    if len(section) != 3 or sum(section) != head_dim // 2:
        fix = f"must be three numbers that sum to half of the head dimension, {head_dim // 2}"
        rope.refuse("mrope_section", fix)
    return section


def _max_positions(text: Settings, rope: RopeConfig) -> int:
    """As vLLM derives it: with YaRN the original length times its factor."""
    longest = text.count("max_position_embeddings", most=MOST_POSITIONS)
    longest = rope.stretched_len or longest
    # Qwen2.5-1M: beyond a chunk, positions were trained with dual chunk attention alone, and plain
    # attention, which transformers and this decoder compute, never saw them (arXiv 2501.15383).
    if "dual_chunk_attention_config" in text:
        chunks = text.part("dual_chunk_attention_config", {"chunk_size": 262_144})
        longest = min(longest, chunks.count("chunk_size"))
    return longest
