"""What a layer of [anchor | passing | block] attention sends and computes on a rank."""

from collections.abc import Sequence
from dataclasses import replace

from spava_app.engine.layout import Layout
from spava_app.engine.parallel.buffers import HeadShape
from spava_app.engine.parallel.work import MERGE, SELECT, Call, Step


def blockwise_steps(
    layout: Layout, rank: int, heads: HeadShape, *, overlap: bool
) -> Sequence[Step]:
    """As `Method.steps`: work inside blocks while passing blocks travel, then the rest while the
    question's partial answers do.
    """
    own = [(len(layout.blocks[j]), j) for j in layout.own(rank)]
    inside = [Call(length, length, causal=True) for length, _ in own]
    before = [Call(length, len(seen_by(layout, j))) for length, j in own]
    anchor = layout.anchor_rows(rank)
    copied = sum(length for length, j in own if layout.passing and layout.passing[j])
    merged = sum(length for length, j in own if seen_by(layout, j))
    sent = max(sent_rows(layout, other) for other in range(layout.world_size))
    seen = layout.anchor_len + sum(layout.passing)
    questions, others = layout.query_len + layout.extra_len, layout.world_size - 1
    local = Step(
        (*inside, *_query_calls(layout, rank)),
        others * sent * heads.kv_row,
        # Keys are scored from a copy in full precision; what is passed is gathered and packed.
        copied * (heads.kv_row // 2 + heads.wide_keys) + 4 * sent * heads.kv_row,
        SELECT * sum(bool(layout.passing and layout.passing[j]) for _, j in own),
    )
    rest = Step(
        (Call(len(anchor), anchor.stop, causal=True), *before),
        others * questions * (heads.wide_row + heads.lse_row),
        2 * seen * heads.kv_row + heads.merged(merged),
        # The question's parts are merged too.
        MERGE * (1 + sum(bool(seen_by(layout, j)) for _, j in own)),
    )
    if overlap:
        return [local, rest]
    travels = [Step(received=step.received) for step in (local, rest)]
    return [*travels, replace(local, received=0), replace(rest, received=0)]


def _query_calls(layout: Layout, rank: int) -> list[Call]:
    """The question over the context that the rank caches; on its owner also over itself."""
    questions, owner = layout.query_len + layout.extra_len, rank == layout.query_owner
    context = layout.num_cached(rank) - (layout.query_len if owner else 0)
    own = (layout.query_len, layout.extra_len) if owner else ()
    return [Call(questions, context), *(Call(rows, rows, causal=True) for rows in own)]


def seen_by(layout: Layout, block: int) -> range:
    """Which rows of [anchor | passing blocks in order] `block` sees."""
    first = 0 if layout.sees_anchor(block) else layout.anchor_len
    return range(first, layout.anchor_len + layout.passed_before(block))


def sent_rows(layout: Layout, rank: int) -> int:
    """How many rows `rank` contributes to the gather: of the anchor, and passed ones."""
    passed = sum(layout.passing[j] for j in layout.own(rank)) if layout.passing else 0
    return sent_anchor(layout, rank) + passed


def sent_anchor(layout: Layout, rank: int) -> int:
    """Of those, rows of the anchor."""
    return len(layout.anchor_rows(rank)) if layout.share_anchor else 0
