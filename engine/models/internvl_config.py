"""What the config.json of an InternVL3 checkpoint says about its vision tower, in both layouts."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from spava_app.errors import CheckpointError

NORM_TYPES = ("layer_norm", "rms_norm")
# transformers normalises q and k with this whatever layer_norm_eps says.
_HF_QK_NORM_EPS = 1e-6
# What this tower computes: setting, the layout's own default, and the one value that is supported.
_HF_MODEL = (
    ("projector_hidden_act", "gelu", "gelu"),
    ("vision_feature_layer", -1, -1),
    ("vision_feature_select_strategy", "default", "default"),
)
_HF_VISION = (
    ("hidden_act", "gelu", "gelu"),
    ("num_channels", 3, 3),
    ("use_absolute_position_embeddings", True, True),
    ("use_mask_token", False, False),
    ("use_mean_pooling", True, True),
)
_CHAT_MODEL = (
    ("ps_version", "v1", "v2"),
    ("select_layer", -1, -1),
    ("use_backbone_lora", 0, 0),
    ("use_llm_lora", 0, 0),
)
_CHAT_VISION = (("hidden_act", "gelu", "gelu"), ("num_channels", 3, 3))


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
            KeyError: a required setting is missing.
            CheckpointError: a setting asks for something this tower does not compute.
        """
        vision, original = config["vision_config"], "llm_config" in config
        _refuse(config, _CHAT_MODEL if original else _HF_MODEL)
        _refuse(vision, _CHAT_VISION if original else _HF_VISION)
        eps = vision.get("layer_norm_eps", 1e-6)
        if original:
            image_size = _side("image_size", vision.get("image_size", 224))
            forced = config.get("force_image_size") or image_size
            if forced != image_size:
                fix = f"must be the tower's image_size={image_size}: positions are not resized"
                raise CheckpointError("force_image_size", forced, fix)
            norm_type, bias = vision.get("norm_type", "rms_norm"), vision.get("qkv_bias", False)
            qk_norm_eps = eps if vision.get("qk_normalization", True) else None
        else:
            image_size = _side("image_size", vision.get("image_size", 448))
            norm_type = vision.get("norm_type", "layer_norm")
            bias = vision.get("attention_bias", False)
            qk_norm_eps = _HF_QK_NORM_EPS if vision.get("use_qk_norm", False) else None
        return cls(
            hidden_size=vision["hidden_size"],
            intermediate_size=vision["intermediate_size"],
            num_layers=vision["num_hidden_layers"],
            num_heads=vision["num_attention_heads"],
            out_hidden_size=config["llm_config" if original else "text_config"]["hidden_size"],
            image_size=image_size,
            patch_size=_side("patch_size", vision.get("patch_size", 14)),
            merge_size=_merge_size(config.get("downsample_ratio", 0.5)),
            norm_type=norm_type,
            norm_eps=eps,
            qkv_bias=bias,
            qk_norm_eps=qk_norm_eps,
            image_token_id=config.get("image_token_id"),
            original=original,
        )

    def __post_init__(self) -> None:
        if self.norm_type not in NORM_TYPES:
            raise CheckpointError("norm_type", self.norm_type, f"known: {', '.join(NORM_TYPES)}")
        if self.hidden_size % self.num_heads:
            fix = f"must be a multiple of num_attention_heads={self.num_heads}"
            raise CheckpointError("hidden_size", self.hidden_size, fix)
        token = self.patch_size * self.merge_size
        if self.image_size % token:
            fix = f"must be a multiple of patch_size / downsample_ratio={token}"
            raise CheckpointError("image_size", self.image_size, fix)

    @property
    def num_patches(self) -> int:
        """Patches of a tile."""
        return (self.image_size // self.patch_size) ** 2

    @property
    def tokens_per_tile(self) -> int:
        """Embeddings that a tile becomes; 256 in the published models."""
        return self.num_patches // self.merge_size**2


def _refuse(settings: Mapping[str, Any], known: tuple[tuple[str, Any, Any], ...]) -> None:
    for setting, default, supported in known:
        value = settings.get(setting, default)
        if value != supported:
            raise CheckpointError(setting, value, f"only {supported!r} is supported")


def _side(setting: str, value: Any) -> int:
    sides = set(value) if isinstance(value, list | tuple) else {value}
    if len(sides) != 1:
        raise CheckpointError(setting, value, "only squares are supported")
    return int(sides.pop())


def _merge_size(ratio: float) -> int:
    merge = round(1 / ratio) if ratio > 0 else 0
    if merge < 1 or merge * ratio != 1:
        raise CheckpointError("downsample_ratio", ratio, "must be one over a whole number")
    return merge
