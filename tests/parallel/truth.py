"""The methods' masks, written from their papers, and dense float64 attention under a mask.

Nothing here uses the engine. n = prompt tokens, N = rows, H = query heads, Hkv = KV heads, D = head
dim. A method's truth lists the rows it computes: copies of tokens first (an anchor that is computed
again), then the prompt, then extra query rows. A mask is boolean `[Hkv, N, N]`: may the query heads
of this group at row i see the key of row j.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Problem:
    """One prompt.

    Attributes:
        num_tokens, query_len: n, and the tokens of the question tail.
        system_len, question_len: tokens before the user's content; question tokens of the tail.
        extra_len: rows of an extra query.
        world_size: ranks, on which the default number of blocks depends.
        options: of the method.
    """

    num_tokens: int
    query_len: int
    system_len: int = 0
    question_len: int = 0
    extra_len: int = 0
    world_size: int = 1
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def context(self) -> int:
        return self.num_tokens - self.query_len


# (q, k, block's tokens, KV head) -> a raw score per token of the block
Scores = Callable[[Tensor, Tensor, range, int], list[float]]


@dataclass(frozen=True)
class Truth:
    """What a method computes: its copied rows and its mask as a function of q and k of all rows."""

    copies: list[int]
    mask: Callable[[Tensor, Tensor, Scores | None], Tensor]


def dense(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    """Softmax attention `[N, H, D]` over the keys that `mask` shows."""
    group = q.shape[1] // k.shape[1]
    out = torch.empty_like(q)
    for head in range(q.shape[1]):
        kv = head // group
        scores = q[:, head] @ k[:, kv].T / math.sqrt(q.shape[2])
        out[:, head] = scores.masked_fill(~mask[kv], -math.inf).softmax(dim=-1) @ v[:, kv]
    return out


def causal(n: int, num_kv_heads: int) -> Tensor:
    """Everybody sees themselves and all before."""
    return torch.ones(num_kv_heads, n, n, dtype=torch.bool).tril()


def exact(problem: Problem) -> Truth:
    """full, ring, zigzag_ring, ulysses: plain causal attention."""
    return Truth([], lambda q, k, scores: causal(problem.num_tokens, k.shape[1]))


def spava(problem: Problem) -> Truth:
    """Spava (arXiv 2601.21444, section 3).

    Blocks of what follows the anchor; each sees the anchor, what earlier blocks pass, and itself.
    """
    options = problem.options
    anchor = min(options["anchor_len"], problem.context)
    blocks = split(anchor, problem.context, options.get("virtual_hosts", 2 * problem.world_size))
    passing = passing_lengths(options, blocks, blocks)

    def mask(q: Tensor, k: Tensor, scores: Scores | None) -> Tensor:
        seen = question_sees_all(problem, k.shape[1], 0)
        seen[:, :anchor, :anchor] = causal(anchor, 1)
        see_themselves_and_passing(seen, problem, blocks, blocks, passing, q, k, scores)
        for block in blocks:
            seen[:, block.start : block.stop, :anchor] = True
        return seen

    return Truth([], mask)


def star(problem: Problem) -> Truth:
    """Star Attention (arXiv 2411.17116, section 2.1): later blocks see a copy of the first."""
    blocks = split(0, problem.context, problem.options.get("virtual_hosts", problem.world_size))
    length = min(problem.options.get("anchor_len", len(blocks[0])), len(blocks[0]))
    anchor = list(range(length)) if len(blocks) > 1 else []
    return with_copied_anchor(problem, blocks, blocks, [0] * len(blocks), anchor)


def apb(problem: Problem) -> Truth:
    """APB (arXiv 2502.12085, section 3): the anchor is system + question + start of the context."""
    options = problem.options
    blocks = split(0, problem.context, options.get("virtual_hosts", problem.world_size))
    if len(blocks) == 1:
        return with_copied_anchor(problem, blocks, blocks, [0], [])
    copied = list(range(min(options["anchor_len"] - problem.question_len, len(blocks[0]))))
    question = [problem.context + i for i in range(problem.question_len)]
    anchor = copied[: problem.system_len] + question + copied[problem.system_len :]
    candidates = [range(len(copied), blocks[0].stop), *blocks[1:]]
    passing = passing_lengths(options, blocks, candidates)
    return with_copied_anchor(problem, blocks, candidates, passing, anchor)


TRUTHS: dict[str, Callable[[Problem], Truth]] = {
    "full": exact,
    "ring": exact,
    "zigzag_ring": exact,
    "ulysses": exact,
    "star": star,
    "apb": apb,
    "spava": spava,
}


def split(start: int, stop: int, num_blocks: int) -> list[range]:
    """Blocks of equal length, rounded up, so that the last ones may be short or empty."""
    size = math.ceil((stop - start) / num_blocks)
    return [
        range(min(start + j * size, stop), min(start + (j + 1) * size, stop))
        for j in range(num_blocks)
    ]


def passing_lengths(
    options: dict[str, Any], blocks: list[range], candidates: list[range]
) -> list[int]:
    """A block passes min(l_p, what it may pass)."""
    length = options.get("passing_len")
    if length is None:
        length = math.ceil(options["passing_fraction"] * len(blocks[0]))
    return [min(length, len(tokens)) for tokens in candidates]


def with_copied_anchor(
    problem: Problem,
    blocks: list[range],
    candidates: list[range],
    passing: list[int],
    anchor: list[int],
) -> Truth:
    """Star and APB: rows [anchor copies | prompt | extra]; later blocks see the copies."""

    def mask(q: Tensor, k: Tensor, scores: Scores | None) -> Tensor:
        copies = len(anchor)
        seen = question_sees_all(problem, k.shape[1], copies)
        seen[:, :copies, :copies] = causal(copies, 1)
        prompt = seen[:, copies:, copies:]
        see_themselves_and_passing(
            prompt, problem, blocks, candidates, passing, q[copies:], k[copies:], scores
        )
        for block in blocks[1:]:
            seen[:, copies + block.start : copies + block.stop, :copies] = True
        return seen

    return Truth(anchor, mask)


def question_sees_all(problem: Problem, num_kv_heads: int, copies: int) -> Tensor:
    """The question's rows see the prompt causally, copies excepted; an extra query sees the context
    and itself. All other rows see nothing yet.
    """
    n, rows = problem.num_tokens, copies + problem.num_tokens + problem.extra_len
    seen = torch.zeros(num_kv_heads, rows, rows, dtype=torch.bool)
    prompt = seen[:, copies:, copies:]
    lower = causal(n + problem.extra_len, 1)
    prompt[:, problem.context :] = lower[:, problem.context :]
    prompt[:, n:, problem.context : n] = False
    return seen


def see_themselves_and_passing(
    seen: Tensor,
    problem: Problem,
    blocks: list[range],
    candidates: list[range],
    passing: list[int],
    q: Tensor,
    k: Tensor,
    scores: Scores | None,
) -> None:
    """Each block sees itself causally and what every earlier block passes, chosen per KV head."""
    for j, block in enumerate(blocks):
        own = slice(block.start, block.stop)
        seen[:, own, own] = causal(len(block), 1)
        for head in range(k.shape[1]):
            raw = (scores or query_aware(problem))(q, k, block, head)
            for token in best(raw, block, candidates[j], passing[j]):
                for later in blocks[j + 1 :]:
                    seen[head, later.start : later.stop, token] = True


def query_aware(problem: Problem) -> Scores:
    """Spava's score: the mean over question rows and the group's heads of the raw dot products."""

    def scores(q: Tensor, k: Tensor, block: range, head: int) -> list[float]:
        group = q.shape[1] // k.shape[1]
        asked = q[problem.context : problem.num_tokens, head * group : (head + 1) * group]
        return [float((asked @ k[j, head]).mean()) for j in block]

    return scores


def best(raw: list[float], block: range, candidates: range, count: int) -> list[int]:
    """The candidates with the highest maximum over five neighbours, the earlier first among equals.

    The maximum is over all neighbours inside the block, candidates or not.
    """
    pooled = {token: max(raw[max(i - 2, 0) : i + 3]) for i, token in enumerate(block)}
    return sorted(candidates, key=lambda token: (-pooled[token], token))[:count]
