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
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spava_app.engine.models.config.decoder import DecoderConfig
from spava_app.engine.models.config.internvl import InternVisionConfig, decoder_kind, decoder_part
from spava_app.engine.models.decoder import Decoder
from spava_app.engine.models.published import Rows, Table

_NORMS: dict[str, type[nn.LayerNorm] | type[nn.RMSNorm]] = {
    "layer_norm": nn.LayerNorm,
    "rms_norm": nn.RMSNorm,
}
# Our module or parameter: its name in the layout of transformers, its name in the original one.
# transformers keeps q, k and v apart, as `{part}_proj`.
_NAMES = {
    "class_token": ("vision_tower.embeddings.cls_token", "vision_model.embeddings.class_embedding"),
    "positions": (
        "vision_tower.embeddings.position_embeddings",
        "vision_model.embeddings.position_embedding",
    ),
    "patch_embed": (
        "vision_tower.embeddings.patch_embeddings.projection",
        "vision_model.embeddings.patch_embedding",
    ),
    "blocks": ("vision_tower.encoder.layer", "vision_model.encoder.layers"),
    "norm1": ("layernorm_before", "norm1"),
    "norm2": ("layernorm_after", "norm2"),
    "qkv": ("attention.{part}_proj", "attn.qkv"),
    "q_norm": ("attention.q_norm", "attn.q_norm"),
    "k_norm": ("attention.k_norm", "attn.k_norm"),
    "proj": ("attention.projection_layer", "attn.proj"),
    "up": ("mlp.fc1", "mlp.fc1"),
    "down": ("mlp.fc2", "mlp.fc2"),
    "scale1": ("lambda_1", "ls1"),
    "scale2": ("lambda_2", "ls2"),
    "projector.norm": ("multi_modal_projector.layer_norm", "mlp1.0"),
    "projector.up": ("multi_modal_projector.linear_1", "mlp1.1"),
    "projector.down": ("multi_modal_projector.linear_2", "mlp1.3"),
}


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
        for ours, _ in self.named_parameters():
            theirs = self._published_name(ours)
            if "{part}" in theirs:
                hidden = self.config.hidden_size
                parts = {theirs.format(part=part): hidden for part in "qkv"}
                table.stacked(parts, f"{name}.{ours}")
            else:
                table.whole(theirs, f"{name}.{ours}")

    def _published_name(self, ours: str) -> str:
        layout, kind, block = int(self.config.original), "", ""
        if ours.endswith((".weight", ".bias")):
            ours, _, kind = ours.rpartition(".")
        if ours.startswith("blocks."):
            _, index, ours = ours.split(".")
            block = f"{_NAMES['blocks'][layout]}.{index}."
        return block + _NAMES[ours][layout] + (kind and f".{kind}")


class InternVL3(nn.Module):
    """A vision tower and a Qwen2 or Llama decoder, with plain one-dimensional positions.

    Raises:
        CheckpointError: a setting is missing or wrong, or asks for something that is not computed
            here.
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()
        self.vision = InternVisionTower(InternVisionConfig.from_hf(config))
        # The original's outer tie_word_embeddings says nothing: its decoder reads llm_config alone.
        tied = not self.vision.config.original
        kind, part = decoder_kind(config), decoder_part(config)
        self.decoder = Decoder(DecoderConfig.from_hf(config, kind=kind, part=part, tied=tied))

    def published(self) -> dict[str, Rows]:
        """Which rows of which parameter each published tensor fills."""
        table = Table(self)
        body, head = "language_model.model", "language_model.lm_head"
        self.decoder.publish(table, name="decoder", body=body, head=head)
        self.vision.publish(table, name="vision")
        return table.rows
