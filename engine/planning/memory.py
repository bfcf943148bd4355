"""How much memory a request takes on each rank, before anything runs.

T = rows of a rank. Counted is what the engine's own tensors hold at the peak of a prefill. A method
counts the buffers of its attention itself, next to the code that makes them. The `margin` comes on
top: the CUDA context, NCCL's buffers and an allocator's gaps (docs/performance.md), or on a CPU the
process itself and its decoders.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from spava_app.engine.layout import Layout
from spava_app.engine.media import Units
from spava_app.engine.models.config.decoder import DecoderConfig
from spava_app.engine.models.internvl3 import InternVisionTower
from spava_app.engine.models.qwen2_5_vl import VisionTower
from spava_app.engine.models.registry import Model
from spava_app.engine.models.vision_batch import PATCHES_PER_TOKEN, units_per_call
from spava_app.engine.parallel.base import Method
from spava_app.engine.parallel.buffers import Buffers, HeadShape

# A CUDA context with the kernels of one rank alone, and with NCCL; the allocator's gaps are a part
# of the total: it gives the largest back when memory is short.
_CONTEXT, _CONTEXT_NCCL, _GAPS = 7 * 2**30 // 10, 2 * 2**30, 20
# A process with torch and no model, and the processes that decode for it; and what it holds more of
# a torch that is built for GPUs, also where there is none.
_PROCESS, _GPU_BUILD = 6 * 2**30 // 10, 4 * 2**30 // 10


@dataclass(frozen=True)
class Memory:
    """Predicted bytes of one rank.

    Attributes:
        weights: all parameters.
        hidden: the rows' hidden states, held through the prefill.
        cache: keys and values of this rank's share of prompt and answer.
        rotary: cosines and sines of the rows' positions.
        project: a layer's queries, keys and values while they are made ...
        heads: ... and after that.
        attention: what attention adds to them.
        mlp: a layer's attention output, and what follows it.
        vision: embeddings and activations while frames are encoded and exchanged.
        logits: of one row, with the sampler's copies.
    """

    weights: int
    hidden: int
    cache: int
    rotary: int
    project: int
    heads: int
    attention: Buffers
    mlp: int
    vision: int
    logits: int

    @property
    def total(self) -> int:
        """The most that is held at one time: stages follow each other."""
        layer = max(self.project, self.heads + self.attention.total, self.mlp, self.logits)
        return self.weights + self.hidden + max(self.vision, self.cache + self.rotary + layer)

    def to_dict(self) -> dict[str, Any]:
        """For JSON, with the total."""
        return {**asdict(self), "total": self.total}


def predict(
    model: Model,
    method: Method,
    layout: Layout,
    *,
    dtype: torch.dtype,
    max_new_tokens: int,
    media: Sequence[Units] = (),
    device: str = "cuda",
    num_parameters: int | None = None,
) -> list[Memory]:
    """The peak of each rank.

    Args:
        model: with its sizes only, e.g. built on the meta device.
        dtype: of weights and activations.
        media: what the front end encodes.
        device: "cpu" or "cuda".
        num_parameters: of the model, where they have been counted.
    """
    config, size = model.decoder.config, dtype.itemsize
    heads = HeadShape(config.num_heads, config.num_kv_heads, config.head_dim, size)
    parameters = num_parameters
    if parameters is None:
        parameters = sum(weight.numel() for weight in model.parameters())
    vision = 0
    if model.vision is not None and media:
        vision = _vision(model.vision, media, layout.world_size, size, device)
    new = -(-max_new_tokens // layout.world_size)
    memories = []
    for rank in range(layout.world_size):
        rows = layout.num_rows(rank)
        step = config.rows_per_chunk(dtype)
        project, mlp = _layer(config, heads, rows, min(rows, step))
        memories.append(
            Memory(
                weights=parameters * size,
                # Past one chunk a layer overwrites its input; until then it stands beside it.
                hidden=rows * config.hidden_size * size * (1 if rows > step else 2),
                cache=config.num_layers * (layout.num_cached(rank) + new) * heads.kv_row,
                rotary=rows * config.head_dim * 4,
                project=project,
                heads=rows * (heads.q_row + heads.kv_row),
                attention=method.buffers(layout, rank, heads),
                mlp=mlp,
                vision=vision,
                logits=config.vocab_size * (size + 4 * 8),
            )
        )
    return memories


def margin(total: int, device: str, world_size: int) -> int:
    """Bytes that a rank takes beside the `total` of its tensors, as measured at most."""
    if device == "cpu":
        built_for_gpus = torch.version.cuda or torch.version.hip
        return _PROCESS + (_GPU_BUILD if built_for_gpus else 0)
    return (_CONTEXT if world_size == 1 else _CONTEXT_NCCL) + total // _GAPS


def _layer(config: DecoderConfig, heads: HeadShape, rows: int, chunk: int) -> tuple[int, int]:
    """Bytes of a layer before and after its attention, where `chunk` rows are worked on at a time
    and the result of all `rows` is kept.
    """
    size = heads.element_size
    qkv = heads.q_row + heads.kv_row
    # Rotated in at least float32: a copy of the input, two halves, and the result or what makes it.
    turned = (config.num_heads + config.num_kv_heads) * config.head_dim
    rotation = turned * (2 + (size < heads.wide_size)) * heads.wide_size
    project = rows * qkv + chunk * rotation + (chunk * qkv if chunk < rows else 0)
    # Hidden states, gate and up, the gate's result, and the product.
    mlp = (config.hidden_size + 4 * config.intermediate_size) * size
    return project, rows * heads.q_row + chunk * mlp


def _vision(
    tower: VisionTower | InternVisionTower,
    media: Sequence[Units],
    world_size: int,
    size: int,
    device: str,
) -> int:
    """Bytes of a rank's embeddings with the largest batch of the tower, or with their exchange.

    Rather too much: a tower's elementwise work may be fused. Frames as they are decoded are left
    out: their size is the file's.
    """
    config = tower.config
    # Units are dealt evenly, up to one.
    tokens = sum(medium.grid[0] * medium.unit_tokens for medium in media) // world_size
    own = tokens + max(medium.unit_tokens for medium in media)
    embeddings = own * config.out_hidden_size * size
    batch = max(
        min(
            medium.grid[0],
            units_per_call(medium.unit_tokens * PATCHES_PER_TOKEN, device),
        )
        * medium.unit_tokens
        for medium in media
    )
    frames = tower.config.temporal_patch_size if isinstance(tower, VisionTower) else 1
    pixels = 3 * frames * config.patch_size**2 * (4 + size)
    # Beside the residual stream: q, k, v, rotated and cut into windows, or the MLP's inner rows.
    inner = max(12 * config.hidden_size, 4 * config.intermediate_size)
    patch = pixels + (2 * config.hidden_size + inner) * size
    # Exchanged: the embeddings, those that leave, and those that come.
    return max(embeddings + batch * PATCHES_PER_TOKEN * patch, 3 * embeddings)
