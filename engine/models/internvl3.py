"""InternVL3 (arXiv 2504.10479): InternViT, pixel shuffle and projector, joined to a decoder.

N = tiles, P = patches of a tile, C = width of the tower, F = patches along the side of a token. A
tile is one square picture; tiles never mix, so any split of a video over calls or ranks gives the
same embeddings. Two published layouts are read, and no code that comes with a checkpoint is run:

* `InternVLForConditionalGeneration` of transformers 5 ("-hf" folders): names as its
  `save_pretrained` writes them;
* `InternVLChatModel`, the original: names of `modeling_intern_vit.py` and
  `modeling_internvl_chat.py` in github.com/OpenGVLab/InternVL, internvl_chat/internvl/model.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spava_app.engine.models.decoder import Decoder, DecoderConfig
from spava_app.engine.models.published import Rows, Table
from spava_app.errors import CheckpointError

_NORMS: dict[str, type[nn.LayerNorm] | type[nn.RMSNorm]] = {
    "layer_norm": nn.LayerNorm,
    "rms_norm": nn.RMSNorm,
}
_DECODERS = ("qwen2", "llama")
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
        if self.norm_type not in _NORMS:
            raise CheckpointError("norm_type", self.norm_type, f"known: {', '.join(_NORMS)}")
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


class InternVisionBlock(nn.Module):
    """Attention inside each tile and an MLP, with pre-norms and a learned scale on each branch."""

    def __init__(self, config: InternVisionConfig) -> None:
        super().__init__()
        hidden, norm = config.hidden_size, _NORMS[config.norm_type]
        self.num_heads = config.num_heads
        self.norm1 = norm(hidden, config.norm_eps)
        self.qkv = nn.Linear(hidden, 3 * hidden, bias=config.qkv_bias)
        self.q_norm = self.k_norm = None
        if config.qk_norm_eps is not None:
            self.q_norm = nn.RMSNorm(hidden, config.qk_norm_eps)
            self.k_norm = nn.RMSNorm(hidden, config.qk_norm_eps)
        self.proj = nn.Linear(hidden, hidden)
        self.scale1 = nn.Parameter(torch.ones(hidden))
        self.norm2 = norm(hidden, config.norm_eps)
        self.up = nn.Linear(hidden, config.intermediate_size)
        self.down = nn.Linear(config.intermediate_size, hidden)
        self.scale2 = nn.Parameter(torch.ones(hidden))

    def forward(self, x: Tensor) -> Tensor:
        """`[N, 1 + P, C]` to the same."""
        x = torch.addcmul(x, self.scale1, self._attend(self.norm1(x)))
        return torch.addcmul(x, self.scale2, self.down(F.gelu(self.up(self.norm2(x)))))

    def _attend(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).chunk(3, dim=-1)
        if self.q_norm is not None and self.k_norm is not None:
            q, k = self.q_norm(q), self.k_norm(k)
        q, k, v = (part.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for part in (q, k, v))
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class Projector(nn.Module):
    """Pixel shuffle, then an MLP to the width of the decoder."""

    def __init__(self, config: InternVisionConfig) -> None:
        super().__init__()
        self.merge = config.merge_size
        width = config.hidden_size * self.merge**2
        self.norm = nn.LayerNorm(width)
        self.up = nn.Linear(width, config.out_hidden_size)
        self.down = nn.Linear(config.out_hidden_size, config.out_hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        """Patches `[N, P, C]`, row-major, to `[N * P / F^2, out_hidden_size]`.

        A token is the concatenation of its F x F patches, row-major (ps_version "v2").
        """
        side = round(x.shape[1] ** 0.5) // self.merge
        squares = x.unflatten(1, (side, self.merge, side, self.merge))
        tokens = squares.transpose(2, 3).reshape(-1, self.norm.normalized_shape[0])
        return self.down(F.gelu(self.up(self.norm(tokens))))


class InternVisionTower(nn.Module):
    """Tiles in, embeddings for the decoder out."""

    def __init__(self, config: InternVisionConfig) -> None:
        super().__init__()
        self.config = config
        hidden = config.hidden_size
        self.patch_embed = nn.Linear(3 * config.patch_size**2, hidden)
        # The shapes are the published ones, of a batch of one.
        self.class_token = nn.Parameter(torch.zeros(1, 1, hidden))
        self.positions = nn.Parameter(torch.zeros(1, 1 + config.num_patches, hidden))
        self.blocks = nn.ModuleList(InternVisionBlock(config) for _ in range(config.num_layers))
        self.projector = Projector(config)

    def forward(self, pixels: Tensor) -> Tensor:
        """Encode.

        Args:
            pixels: normalised tiles `[N, 3, image_size, image_size]`; N may be 0. Memory grows with
                N, so a caller with many tiles gives some at a time.

        Returns:
            `[N * tokens_per_tile, out_hidden_size]`, tile by tile, row-major in each.

        Raises:
            ValueError: tiles of another size; the position embeddings are not interpolated.
        """
        side, patch = self.config.image_size, self.config.patch_size
        if pixels.ndim != 4 or tuple(pixels.shape[1:]) != (3, side, side):
            fix = f"give [tiles, 3, {side}, {side}]"
            raise ValueError(f"pixels of shape {list(pixels.shape)}: {fix}")
        if not len(pixels):
            return pixels.new_empty(0, self.config.out_hidden_size)
        grid = side // patch
        # [N, 3, rows, y, columns, x] -> [N, rows * columns, 3 * y * x]: a convolution as a matmul.
        squares = pixels.unflatten(3, (grid, patch)).unflatten(2, (grid, patch))
        patches = squares.permute(0, 2, 4, 1, 3, 5).reshape(len(pixels), grid**2, -1)
        classes = self.class_token.expand(len(pixels), -1, -1)
        x = torch.cat((classes, self.patch_embed(patches)), dim=1) + self.positions
        for block in self.blocks:
            x = block(x)
        return self.projector(x[:, 1:])

    def publish(self, table: Table, *, name: str) -> None:
        """Add this tower's tensors, under the names of the layout it was read from, to `table`.

        Args:
            name: of this module inside the table's model, e.g. "vision".
        """
        if self.config.original:
            self._publish_original(table, name)
        else:
            self._publish_hf(table, name)

    def _publish_hf(self, table: Table, name: str) -> None:
        embeddings, projector = "vision_tower.embeddings", "multi_modal_projector"
        table.whole(f"{embeddings}.cls_token", f"{name}.class_token")
        table.whole(f"{embeddings}.position_embeddings", f"{name}.positions")
        _affine(table, f"{embeddings}.patch_embeddings.projection", f"{name}.patch_embed")
        hidden = self.config.hidden_size
        for i in range(self.config.num_layers):
            theirs, ours = f"vision_tower.encoder.layer.{i}", f"{name}.blocks.{i}"
            attention = f"{theirs}.attention"
            self._norm(table, f"{theirs}.layernorm_before", f"{ours}.norm1")
            self._norm(table, f"{theirs}.layernorm_after", f"{ours}.norm2")
            for kind in ("weight", "bias") if self.config.qkv_bias else ("weight",):
                parts = {f"{attention}.{part}_proj.{kind}": hidden for part in "qkv"}
                table.stacked(parts, f"{ours}.qkv.{kind}")
            self._qk_norms(table, attention, ours)
            _affine(table, f"{attention}.projection_layer", f"{ours}.proj")
            _affine(table, f"{theirs}.mlp.fc1", f"{ours}.up")
            _affine(table, f"{theirs}.mlp.fc2", f"{ours}.down")
            table.whole(f"{theirs}.lambda_1", f"{ours}.scale1")
            table.whole(f"{theirs}.lambda_2", f"{ours}.scale2")
        _affine(table, f"{projector}.layer_norm", f"{name}.projector.norm")
        _affine(table, f"{projector}.linear_1", f"{name}.projector.up")
        _affine(table, f"{projector}.linear_2", f"{name}.projector.down")

    def _publish_original(self, table: Table, name: str) -> None:
        embeddings = "vision_model.embeddings"
        table.whole(f"{embeddings}.class_embedding", f"{name}.class_token")
        table.whole(f"{embeddings}.position_embedding", f"{name}.positions")
        _affine(table, f"{embeddings}.patch_embedding", f"{name}.patch_embed")
        for i in range(self.config.num_layers):
            theirs, ours = f"vision_model.encoder.layers.{i}", f"{name}.blocks.{i}"
            self._norm(table, f"{theirs}.norm1", f"{ours}.norm1")
            self._norm(table, f"{theirs}.norm2", f"{ours}.norm2")
            for kind in ("weight", "bias") if self.config.qkv_bias else ("weight",):
                table.whole(f"{theirs}.attn.qkv.{kind}", f"{ours}.qkv.{kind}")
            self._qk_norms(table, f"{theirs}.attn", ours)
            _affine(table, f"{theirs}.attn.proj", f"{ours}.proj")
            _affine(table, f"{theirs}.mlp.fc1", f"{ours}.up")
            _affine(table, f"{theirs}.mlp.fc2", f"{ours}.down")
            table.whole(f"{theirs}.ls1", f"{ours}.scale1")
            table.whole(f"{theirs}.ls2", f"{ours}.scale2")
        for index, part in ((0, "norm"), (1, "up"), (3, "down")):
            _affine(table, f"mlp1.{index}", f"{name}.projector.{part}")

    def _norm(self, table: Table, theirs: str, ours: str) -> None:
        if self.config.norm_type == "layer_norm":
            _affine(table, theirs, ours)
        else:
            table.whole(f"{theirs}.weight", f"{ours}.weight")

    def _qk_norms(self, table: Table, theirs: str, ours: str) -> None:
        if self.config.qk_norm_eps is not None:
            for norm in ("q_norm", "k_norm"):
                table.whole(f"{theirs}.{norm}.weight", f"{ours}.{norm}.weight")


def _affine(table: Table, theirs: str, ours: str) -> None:
    for kind in ("weight", "bias"):
        table.whole(f"{theirs}.{kind}", f"{ours}.{kind}")


class InternVL3(nn.Module):
    """A vision tower and a Qwen2 or Llama decoder, with plain one-dimensional positions.

    Raises:
        KeyError: a required setting is missing.
        CheckpointError: a setting asks for something that is not computed here.
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()
        self.vision = InternVisionTower(InternVisionConfig.from_hf(config))
        # The original's outer tie_word_embeddings says nothing: its decoder reads llm_config alone.
        original = self.vision.config.original
        text = config["llm_config"] if original else config["text_config"]
        if text.get("model_type", "qwen2") not in _DECODERS:
            fix = f"the decoders of these models that are supported: {', '.join(_DECODERS)}"
            raise CheckpointError("model_type", text["model_type"], fix)
        self.decoder = Decoder(DecoderConfig.from_hf(text if original else config))

    def published(self) -> dict[str, Rows]:
        """Which rows of which parameter each published tensor fills."""
        table = Table(self)
        body, head = "language_model.model", "language_model.lm_head"
        self.decoder.publish(table, name="decoder", body=body, head=head)
        self.vision.publish(table, name="vision")
        return table.rows
