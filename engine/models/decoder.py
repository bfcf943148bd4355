"""The decoder of the Qwen2, Qwen2.5-VL, Llama and Yi families: single-device code without a rank.

T = rows, H = query heads, Hkv = KV heads, D = head dim. There is no batch dimension. Attention goes
through the `attend` callback, which receives rotated queries and keys, so any prefill method or
cache plugs in from outside.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spava_app.engine.models.config.decoder import DecoderConfig
from spava_app.engine.models.published import Table
from spava_app.kernels.gated import swiglu
from spava_app.kernels.rope import Rotary, apply_rotary, rotary_table

# (layer, q [T, H, D], k [T, Hkv, D], v [T, Hkv, D]) -> [T, H, D]
Attend = Callable[[int, Tensor, Tensor, Tensor], Tensor]


class TokenEmbedding(nn.Embedding):
    """An embedding that draws no random numbers for a weight without memory: there torch would
    first import its decompositions, which takes seconds.
    """

    def reset_parameters(self) -> None:
        if not self.weight.is_meta:
            super().reset_parameters()


class DecoderLayer(nn.Module):
    """Attention and SwiGLU with pre-norms; the projections of q, k, v and of gate, up are fused."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.rows_per_chunk = config.rows_per_chunk
        self.heads = (config.num_heads, config.num_kv_heads, config.num_kv_heads)
        self.head_dim = config.head_dim
        hidden, inner = config.hidden_size, config.intermediate_size
        self.input_norm = nn.RMSNorm(hidden, config.norm_eps)
        heads = config.num_heads * config.head_dim
        self.qkv = nn.Linear(hidden, sum(self.heads) * config.head_dim, bias=config.qkv_bias)
        self.o = nn.Linear(heads, hidden, bias=config.output_bias)
        self.post_norm = nn.RMSNorm(hidden, config.norm_eps)
        self.gate_up = nn.Linear(hidden, 2 * inner, bias=False)
        self.down = nn.Linear(inner, hidden, bias=False)

    def forward(self, hidden: Tensor, rotary: Rotary, layer: int, attend: Attend) -> Tensor:
        """`[T, hidden]` to the same; long inputs are overwritten unless gradients are recorded."""
        step = self.rows_per_chunk(hidden.dtype)
        heads = _by_rows(self._project, step, hidden, *rotary)
        attended = attend(layer, *heads.split(self.heads, dim=1))
        del heads  # as large as what comes next needs
        out = None if torch.is_grad_enabled() else hidden
        return _by_rows(self._finish, step, hidden, attended, out=out)

    def _project(self, hidden: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """Queries and keys, rotated, and values: `[T, H + 2 Hkv, D]`."""
        heads = self.qkv(self.input_norm(hidden)).unflatten(-1, (-1, self.head_dim))
        turned = heads[:, : self.heads[0] + self.heads[1]]
        turned.copy_(apply_rotary(turned, (cos, sin)))
        return heads

    def _finish(self, hidden: Tensor, attended: Tensor) -> Tensor:
        """All that follows attention."""
        hidden = hidden + self.o(attended.flatten(1))
        return hidden + self.down(swiglu(self.gate_up(self.post_norm(hidden))))


def _by_rows(
    compute: Callable[..., Tensor], step: int, *inputs: Tensor, out: Tensor | None = None
) -> Tensor:
    """`compute(*inputs)`, `step` rows at a time, into `out` where there are more than that; `out`
    may be an input.
    """
    total = len(inputs[0])
    if total <= step:
        return compute(*inputs)
    for start in range(0, total, step):
        rows = slice(start, start + step)
        part = compute(*(x[rows] for x in inputs))
        if out is None:
            out = part.new_empty(total, *part.shape[1:])
        out[rows] = part
        del part  # before the next is made
    assert out is not None  # there are rows
    return out


class Decoder(nn.Module):
    """Embedding, layers, final norm and language head."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.config = config
        self.embed_tokens = TokenEmbedding(config.vocab_size, config.hidden_size)
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
        rope = self.config.rope
        frequencies = rope.frequencies(self.config.head_dim).to(positions.device)
        cos, sin = rotary_table(positions, frequencies, self.config.mrope_section)
        if (factor := rope.attention_factor) != 1:
            cos, sin = cos * factor, sin * factor
        return cos, sin

    def publish(
        self, table: Table, *, name: str, body: str = "model", head: str = "lm_head"
    ) -> None:
        """Add this decoder's tensors to `table`.

        Args:
            name: of this module inside the table's model, e.g. "decoder".
            body, head: where the published names hang, e.g. "model" for "model.layers.0...".
        """
        config = self.config
        q, kv = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
        inner = config.intermediate_size
        table.whole(f"{body}.embed_tokens.weight", f"{name}.embed_tokens.weight")
        table.whole(f"{body}.norm.weight", f"{name}.norm.weight")
        if self.lm_head is not None:
            table.whole(f"{head}.weight", f"{name}.lm_head.weight")
        for i in range(config.num_layers):
            theirs, ours = f"{body}.layers.{i}", f"{name}.layers.{i}"
            attention, mlp = f"{theirs}.self_attn", f"{theirs}.mlp"
            for kind in ("weight", "bias") if config.qkv_bias else ("weight",):
                parts = {f"{attention}.q_proj.{kind}": q, f"{attention}.k_proj.{kind}": kv}
                table.stacked({**parts, f"{attention}.v_proj.{kind}": kv}, f"{ours}.qkv.{kind}")
            for kind in ("weight", "bias") if config.output_bias else ("weight",):
                table.whole(f"{attention}.o_proj.{kind}", f"{ours}.o.{kind}")
            halves = {f"{mlp}.gate_proj.weight": inner, f"{mlp}.up_proj.weight": inner}
            table.stacked(halves, f"{ours}.gate_up.weight")
            table.whole(f"{mlp}.down_proj.weight", f"{ours}.down.weight")
            table.whole(f"{theirs}.input_layernorm.weight", f"{ours}.input_norm.weight")
            table.whole(f"{theirs}.post_attention_layernorm.weight", f"{ours}.post_norm.weight")

    def forward(self, hidden: Tensor, positions: Tensor, attend: Attend) -> Tensor:
        """Run all layers.

        Args:
            hidden: embeddings of the rows this process computes, `[T, hidden]`; T may be 0. Spent:
                long inputs are overwritten unless gradients are recorded.
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
