"""Which rank encodes which unit: those whose tokens stand in its own blocks, evenly; and sending
the embeddings to the ranks whose rows need them. No rank ever holds the embeddings of all.

W = ranks, U = units of all media, in the order of the prompt. An embedding that is encoded where it
is needed need not travel, and neighbouring frames are decoded together.
"""

from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor

from spava_app.engine.comm import Comm
from spava_app.engine.layout import Layout
from spava_app.engine.media import Media


def indices(ranges: Iterable[range]) -> Tensor:
    """The numbers of `ranges` one after the other, int64."""
    parts = [torch.arange(numbers.start, numbers.stop) for numbers in ranges]
    return torch.cat([torch.empty(0, dtype=torch.int64), *parts])


def exchange_rows(
    comm: Comm, own: Tensor, owned: Sequence[Tensor], needed: Sequence[Tensor]
) -> tuple[Tensor, Tensor]:
    """Give every rank the rows it needs.

    Args:
        own: this rank's rows `[len(owned[rank]), hidden]`.
        owned: per rank, int64 global indices of the rows it holds, in the order it holds them; the
            indices 0, 1, ... are each held by one rank.
        needed: per rank, int64 global indices of the rows it wants, in the order it wants them.

    Returns:
        The rows needed, `[len(needed[rank]), hidden]`, ordered by who sent them; and which entry of
        `needed[rank]` each is, int64 on the CPU.
    """
    total = sum(map(len, owned))
    owner, place = torch.empty(2, total, dtype=torch.int64)
    for rank, rows in enumerate(owned):
        owner[rows] = rank
        place[rows] = torch.arange(len(rows))
    send = [place[wanted[owner[wanted] == comm.rank]] for wanted in needed]
    source = owner[needed[comm.rank]]
    received = comm.all_to_all(
        own[torch.cat(send).to(own.device)],
        [len(rows) for rows in send],
        torch.bincount(source, minlength=comm.world_size).tolist(),
    )
    ranks = range(comm.world_size)
    return received, torch.cat([(source == rank).nonzero().flatten() for rank in ranks])


def deal(media: Sequence[Media], layout: Layout) -> list[list[int]]:
    """The units of each rank, ascending. Of each medium no rank has two more than another, and of
    all media no rank's tokens exceed another's by more than the largest unit.
    """
    world_size, needed = layout.world_size, needs(media, layout)
    dealt: list[list[int]] = [[] for _ in range(world_size)]
    load = [0] * world_size
    first = 0
    for medium in media:
        each, rest = divmod(medium.num_units, world_size)
        room = [each] * world_size
        for rank in sorted(range(world_size), key=load.__getitem__)[:rest]:
            room[rank] += 1
        stop = first + medium.num_units
        for unit, rank in enumerate(_assign(needed[:, first:stop], room), start=first):
            dealt[rank].append(unit)
            load[rank] += medium.unit_tokens
        first = stop
    return dealt


def token_indices(media: Media) -> Tensor:
    """Index in the prompt of each visual token, unit by unit, int64 `[num_tokens]`."""
    starts = torch.tensor(media.starts, dtype=torch.int64)
    return (starts[:, None] + torch.arange(media.unit_tokens)).flatten()


def needs(media: Sequence[Media], layout: Layout) -> Tensor:
    """How many tokens of each unit each rank computes, int64 `[W, U]`."""
    unit_of = torch.full((layout.num_tokens,), -1)
    num_units = 0
    for medium in media:
        units = torch.arange(num_units, num_units + medium.num_units)
        unit_of[token_indices(medium)] = units.repeat_interleave(medium.unit_tokens)
        num_units += medium.num_units
    ranks = range(layout.world_size)
    return torch.stack([_needs(unit_of, layout, rank, num_units) for rank in ranks])


def parts_of(
    media: Sequence[Media], units: Sequence[int]
) -> Iterator[tuple[Media, int, list[int]]]:
    """Which units of which medium the numbers `units`, ascending, are; between the two, the number
    of the medium's first visual token.
    """
    start = token = 0
    for medium in media:
        stop = start + medium.num_units
        part = [unit - start for unit in units if start <= unit < stop]
        if part:
            yield medium, token, part
        start, token = stop, token + medium.num_tokens


def _needs(unit_of: Tensor, layout: Layout, rank: int, num_units: int) -> Tensor:
    """How many tokens of each unit `rank` computes, int64 `[U]`."""
    rows = indices(layout.rows(rank))
    units = unit_of[rows[rows < layout.num_tokens]]
    return torch.bincount(units[units >= 0], minlength=num_units)


def _assign(needs: Tensor, room: Sequence[int]) -> list[int]:
    """The rank of each unit, no rank over its room: units that are much dearer elsewhere choose
    first, those left over go where most of them is needed.
    """
    room = list(room)
    owner = [-1] * needs.shape[1]
    best = needs.max(dim=0)
    second = needs.sort(dim=0).values[-2] if len(room) > 1 else torch.zeros_like(best.values)
    for unit in (best.values - second).sort(descending=True, stable=True).indices.tolist():
        rank = int(best.indices[unit])
        if room[rank]:
            owner[unit] = rank
            room[rank] -= 1
    for unit, rank in enumerate(owner):
        if rank < 0:
            free = [r for r, left in enumerate(room) if left]
            owner[unit] = max(free, key=lambda r: int(needs[r, unit]))
            room[owner[unit]] -= 1
    return owner
