"""What the config.json of an InternVL3 checkpoint says about its vision tower, in both layouts."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from spava_app.engine.models.config.decoder import DEFAULTS
from spava_app.engine.models.config.settings import MOST_LAYERS, Settings
from spava_app.errors import CheckpointError

DECODERS = ("qwen2", "llama")

NORM_TYPES = ("layer_norm", "rms_norm")
# transformers normalises q and k with this whatever layer_norm_eps says.
_HF_QK_NORM_EPS = 1e-6
# Of each layout: the defaults of its own classes (InternVLConfig and InternVLVisionConfig of
# transformers 5; InternVLChatConfig and InternVisionConfig of the original), and what this tower
# computes. The decoder of a layout that names none is Qwen2 in transformers.
_HF_DEFAULTS = {"downsample_ratio": 0.5, "image_token_id": 151_667}
_HF_VISION_DEFAULTS = {
    "hidden_size": 1024,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "intermediate_size": 4096,
    "attention_bias": False,
    "use_qk_norm": False,
    "norm_type": "layer_norm",
    "layer_norm_eps": 1e-6,
    "image_size": 448,
    "patch_size": 14,
}
_HF_MODEL = {
    "projector_hidden_act": "gelu",
    "vision_feature_layer": -1,
    "vision_feature_select_strategy": "default",
}
_HF_VISION = {
    "hidden_act": "gelu",
    "num_channels": 3,
    "use_absolute_position_embeddings": True,
    "use_mask_token": False,
    "use_mean_pooling": True,
}
_CHAT_DEFAULTS = {"downsample_ratio": 0.5, "ps_version": "v1"}
_CHAT_VISION_DEFAULTS = {
    "hidden_size": 3200,
    "num_hidden_layers": 48,
    "num_attention_heads": 25,
    "intermediate_size": 12_800,
    "qkv_bias": False,
    "qk_normalization": True,
    "norm_type": "rms_norm",
    "layer_norm_eps": 1e-6,
    "image_size": 224,
    "patch_size": 14,
}
_CHAT_MODEL = {
    "ps_version": "v2",
    "select_layer": -1,
    "use_backbone_lora": 0,
    "use_llm_lora": 0,
    "use_thumbnail": True,
    "dynamic_image_size": True,
    "pad2square": False,
}
_CHAT_VISION = {"hidden_act": "gelu", "num_channels": 3}
# By the architecture of `llm_config`, which the original goes by.
_CHAT_DECODERS = {"Qwen2ForCausalLM": "qwen2", "LlamaForCausalLM": "llama"}


@dataclass(frozen=True)
class InternVisionConfig:
    """Geometry of the vision tower, read from a Hugging Face config.json.

    Attributes:
        image_size, patch_size: pixels along the side of a tile and of a patch.
        merge_size: patches along the side of a token, 1 / downsample_ratio.
        norm_type: "layer_norm" or "rms_norm", of the blocks; the projector's is a LayerNorm.
        qk_norm_eps: of the RMSNorm over all heads of q and of k; None where there is none.
        image_token_id: the prompt's token that an embedding replaces; None in the original layout,
            where only the tokenizer knows it (`<IMG_CONTEXT>`).
        original: whether the tensors have the names of InternVLChatModel.
    """

    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    out_hidden_size: int
    image_size: int
    patch_size: int
    merge_size: int
    norm_type: str
    norm_eps: float
    qkv_bias: bool
    qk_norm_eps: float | None
    image_token_id: int | None
    original: bool

    @classmethod
    def from_hf(cls, config: Mapping[str, Any]) -> "InternVisionConfig":
        """Read either layout; what a file leaves out has the default of that layout's own class.

        Raises:
            CheckpointError: a setting is missing or wrong, or asks for something this tower does
                not compute.
        """
        original = is_original(config)
        model = Settings(config, _CHAT_DEFAULTS if original else _HF_DEFAULTS)
        defaults = _CHAT_VISION_DEFAULTS if original else _HF_VISION_DEFAULTS
        vision = model.part("vision_config", defaults)
        _refuse(model, _CHAT_MODEL if original else _HF_MODEL)
        _refuse(vision, _CHAT_VISION if original else _HF_VISION)
        hidden, heads = vision.count("hidden_size"), vision.count("num_attention_heads")
        if hidden % heads:
            vision.refuse("hidden_size", f"must be a multiple of num_attention_heads={heads}")
        image, patch, merge = vision.side("image_size"), vision.side("patch_size"), _merge(model)
        if image % (patch * merge):
            fix = f"must be a multiple of patch_size / downsample_ratio={patch * merge}"
            vision.refuse("image_size", fix)
        if original and "force_image_size" in model and model.count("force_image_size") != image:
            fix = f"must be the tower's image_size={image}: positions are not resized"
            model.refuse("force_image_size", fix)
        if vision.raw("norm_type") not in NORM_TYPES:
            vision.refuse("norm_type", f"supported: {', '.join(NORM_TYPES)}")
        eps = vision.number("layer_norm_eps", most=1)
        if original:
            qk_norm_eps = eps if vision.flag("qk_normalization") else None
        else:
            qk_norm_eps = _HF_QK_NORM_EPS if vision.flag("use_qk_norm") else None
        text = model.part(decoder_part(config))
        text = text.with_defaults(DEFAULTS[decoder_kind(config)])
        return cls(
            hidden_size=hidden,
            intermediate_size=vision.count("intermediate_size"),
            num_layers=vision.count("num_hidden_layers", most=MOST_LAYERS),
            num_heads=heads,
            out_hidden_size=text.count("hidden_size"),
            image_size=image,
            patch_size=patch,
            merge_size=merge,
            norm_type=vision.raw("norm_type"),
            norm_eps=eps,
            qkv_bias=vision.flag("qkv_bias" if original else "attention_bias"),
            qk_norm_eps=qk_norm_eps,
            image_token_id=None if original else model.count("image_token_id"),
            original=original,
        )

    @property
    def num_patches(self) -> int:
        """Patches of a tile."""
        return (self.image_size // self.patch_size) ** 2

    @property
    def tokens_per_tile(self) -> int:
        """Embeddings that a tile becomes; 256 in the published models."""
        return self.num_patches // self.merge_size**2


def is_original(config: Mapping[str, Any]) -> bool:
    """Whether a config.json is of the layout of InternVLChatModel."""
    named = config.get("architectures")
    return "llm_config" in config or (isinstance(named, list) and "InternVLChatModel" in named)


def decoder_part(config: Mapping[str, Any]) -> str:
    """The key under which a config.json has its decoder."""
    return "llm_config" if is_original(config) else "text_config"


def decoder_kind(config: Mapping[str, Any]) -> str:
    """The `model_type` of the decoder, which a file may leave out.

    Raises:
        CheckpointError: a decoder that is not supported.
    """
    model, part = Settings(config), decoder_part(config)
    if part == "llm_config" and part not in model:
        raise CheckpointError(part, None, "is missing")
    text = model.part(part)
    named = text.raw("architectures") if is_original(config) else None
    first = named[0] if isinstance(named, list) and named else None
    if not isinstance(first, str):
        first = None
    kind = text.raw("model_type", _CHAT_DECODERS.get(first, first) if first else "qwen2")
    if kind not in DECODERS:
        text.refuse("model_type", f"supported decoders of this model: {', '.join(DECODERS)}")
    return kind


def _refuse(settings: Settings, supported: Mapping[str, Any]) -> None:
    for setting, value in supported.items():
        settings.only(setting, value)


def _merge(model: Settings) -> int:
    ratio = model.number("downsample_ratio")
    merge = round(1 / ratio) if ratio > 1e-3 else 0
    if merge < 1 or merge * ratio != 1:
        model.refuse("downsample_ratio", "must be one over a whole number")
    return merge
