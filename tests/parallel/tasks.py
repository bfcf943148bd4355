"""What the ranks of a test group run. Inputs come from a seed; only results travel."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from truth import Problem

from spava_app.engine.comm import Comm
from spava_app.engine.kv_cache import KVCache
from spava_app.engine.layout import PromptShape
from spava_app.engine.models.config.decoder import DecoderConfig
from spava_app.engine.models.config.rope import RopeConfig
from spava_app.engine.models.decoder import Decoder
from spava_app.engine.multimodal.unit_sharding import indices
from spava_app.engine.parallel.base import Decode, make_method

LAYERS, NEW_TOKENS = 2, 3


@dataclass(frozen=True)
class Case:
    """One prompt, one method, and random tensors from a seed.

    Attributes:
        scored: pass random retaining-head scores instead of leaving them to the query.
        dtype: of q, k and v; their values are the same float64 numbers, rounded.
        sharpness: factor on q; at 8, a log-sum-exp is about 20 instead of 4.
    """

    method: str
    problem: Problem
    heads: tuple[int, int, int] = (4, 2, 8)
    scored: bool = False
    dtype: torch.dtype = torch.float64
    sharpness: float = 1.0
    seed: int = 0

    @property
    def prompt(self) -> PromptShape:
        problem = self.problem
        return PromptShape(
            problem.num_tokens,
            problem.query_len,
            system_len=problem.system_len,
            question_len=problem.question_len,
            extra_len=problem.extra_len,
        )

    def tensors(self) -> list[tuple[Tensor, Tensor, Tensor]]:
        """q, k, v of the prompt, extra and new tokens, `[rows, heads, D]` per layer."""
        generator = torch.Generator().manual_seed(self.seed)
        num_heads, num_kv_heads, head_dim = self.heads
        total = self.problem.num_tokens + self.problem.extra_len + NEW_TOKENS

        def draw(heads: int) -> Tensor:
            drawn = torch.randn(total, heads, head_dim, generator=generator, dtype=torch.float64)
            return drawn.to(self.dtype)

        return [
            (draw(num_heads) * self.sharpness, draw(num_kv_heads), draw(num_kv_heads))
            for _ in range(LAYERS)
        ]

    def scores(self) -> Tensor:
        """Retaining-head scores `[Hkv, n]`."""
        generator = torch.Generator().manual_seed(self.seed + 1)
        return torch.randn(self.heads[1], self.problem.num_tokens, generator=generator)


@dataclass(frozen=True)
class RankResult:
    """What one rank computed.

    Attributes:
        rows: token indices of its rows.
        num_anchor: how many of them, at the front, are anchor rows ...
        first_anchor: ... and which row of the anchor is the first.
        outs: their attention, per layer.
        decoded: attention of the new tokens, per layer.
        cached: keys in its cache at the end, per layer.
    """

    rows: list[int]
    num_anchor: int
    first_anchor: int
    outs: list[Tensor]
    decoded: list[Tensor]
    cached: list[Tensor]


def run_case(comm: Comm, case: Case) -> RankResult:
    """Prefill and three decode steps through the method, as a model would call it."""
    method = make_method(case.method, case.problem.options)
    num_heads, num_kv_heads, head_dim = case.heads
    method.check_heads(num_heads, num_kv_heads, comm.world_size)
    layout = method.layout(case.prompt, comm.world_size)
    rows = indices(layout.rows(comm.rank))
    capacity = layout.num_cached(comm.rank) + NEW_TOKENS
    cache = KVCache(LAYERS, capacity, num_kv_heads, head_dim, dtype=case.dtype)
    prefill = method.prefill(layout, comm, cache)
    scores = case.scores()[:, rows] if case.scored else None
    inputs = case.tensors()
    outs = [
        prefill.attend(layer, q[rows], k[rows], v[rows], scores)
        for layer, (q, k, v) in enumerate(inputs)
    ]
    decode = Decode(layout, comm, cache)
    decoded: list[list[Tensor]] = [[] for _ in range(LAYERS)]
    for step in range(NEW_TOKENS):
        new = slice(len(inputs[0][0]) - NEW_TOKENS + step, None)
        for layer, (q, k, v) in enumerate(inputs):
            decoded[layer].append(decode.attend(layer, q[new][:1], k[new][:1], v[new][:1]))
        decode.next_token()
    anchor = layout.anchor_rows(comm.rank)
    return RankResult(
        rows=rows.tolist(),
        num_anchor=len(anchor),
        first_anchor=anchor.start,
        outs=outs,
        decoded=[torch.cat(steps) for steps in decoded],
        cached=[cache.view(layer)[0].clone() for layer in range(LAYERS)],
    )


def error_of_case(comm: Comm, case: Case) -> Any:
    """The error that running `case` raises on this rank, as (class name, message)."""
    try:
        run_case(comm, case)
    except ValueError as error:
        return type(error).__name__, str(error)
    return None


def tiny_decoder() -> Decoder:
    """A two-layer decoder in float64 with multimodal rotary and random weights."""
    config = DecoderConfig(
        vocab_size=50,
        hidden_size=32,
        intermediate_size=48,
        num_layers=LAYERS,
        num_heads=4,
        num_kv_heads=2,
        head_dim=8,
        norm_eps=1e-6,
        rope=RopeConfig(100.0),
        mrope_section=(1, 2, 1),
        qkv_bias=True,
        output_bias=False,
        tie_embeddings=True,
        max_positions=1024,
    )
    torch.manual_seed(0)
    decoder = Decoder(config).double().requires_grad_(requires_grad=False)
    for parameter in decoder.parameters():
        parameter.add_(torch.randn_like(parameter) * 0.2)
    return decoder


def prompt_inputs(case: Case) -> tuple[Tensor, Tensor]:
    """Token ids `[n]` and positions `[3, n]` of a prompt whose three axes differ."""
    generator = torch.Generator().manual_seed(case.seed)
    n = case.problem.num_tokens
    ids = torch.randint(0, 50, (n,), generator=generator)
    steps = torch.randint(0, 3, (3, n), generator=generator)
    return ids, steps.cumsum(dim=1)


def run_model(comm: Comm, case: Case) -> tuple[list[int], int, int, Tensor]:
    """(rows, number of anchor rows, the first of them, final hidden states) of this rank."""
    decoder = tiny_decoder()
    method = make_method(case.method, case.problem.options)
    layout = method.layout(case.prompt, comm.world_size)
    rows, positions = (indices(x) for x in (layout.rows(comm.rank), layout.positions(comm.rank)))
    cache = KVCache(LAYERS, layout.num_cached(comm.rank), 2, 8, dtype=torch.float64)
    ids, at = prompt_inputs(case)
    hidden = decoder(
        decoder.embed(ids[rows]), at[:, positions], method.prefill(layout, comm, cache).attend
    )
    anchor = layout.anchor_rows(comm.rank)
    return rows.tolist(), len(anchor), anchor.start, hidden
