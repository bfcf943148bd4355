"""MP4, QuickTime and their kin: boxes (ISO/IEC 14496-12)."""

from collections.abc import Iterator
from typing import NamedTuple

from spava_app.engine.video.sandbox.truncation.parts import Ends, Parts

# What stands beside `moov`. Another name whose box goes beyond the file's end is no box, but bytes
# that somebody put behind the last one.
_TOP = (
    b"ftyp styp moov moof mdat free skip wide uuid sidx ssix mfra meta pdin emsg prft pnot udta "
    b"PICT imda junk"
).split()
# Space that was reserved: nobody misses it.
_FILLING = {b"free", b"skip", b"wide", b"junk"}
# Sizes of samples that are added up; chunks of more of them than that are taken as shorter.
_MOST_SAMPLES = 2**16


class Box(NamedTuple):
    """A box: its name, and where its content starts and ends."""

    name: bytes
    body: int
    end: int


def ends(file: Parts) -> Ends:
    """The ends of the boxes, and of what the index of samples or fragments knows of."""
    for box in _boxes(file, 0, file.size):
        if box.end > file.size and box.name not in _TOP:
            return
        if box.name not in _FILLING:
            yield box.end
        if box.name == b"moov":
            yield from _sample_ends(file, box)
        elif box.name == b"sidx":
            yield _fragments_end(file, box)
        elif box.name == b"moof" and box.end == file.size:
            yield None  # it says what is in the box after it


def _boxes(file: Parts, at: int, end: int) -> Iterator[Box]:
    """The boxes from a place on, the last of which may go beyond `end`."""
    while at + 8 <= end:
        header = file.read(at, 16)
        size, name, body = int.from_bytes(header[:4], "big"), header[4:8], at + 8
        if size == 1:
            size, body = int.from_bytes(header[8:], "big"), at + 16
        elif size == 0:
            size = end - at
        if at + size < body:
            return
        yield Box(name, body, at + size)
        at += size


def _inside(file: Parts, box: Box | None, *path: bytes) -> Box | None:
    """The first box at a path of names inside another."""
    for name in path:
        if box is None:
            return None
        box = next((found for found in _boxes(file, *box[1:]) if found.name == name), None)
    return box


def _fragments_end(file: Parts, sidx: Box) -> int:
    """Where the last fragment of an index ends."""
    large = file.big(sidx.body, 1) > 0
    first = file.big(sidx.body + 12 + (8 if large else 4), 8 if large else 4)
    at = sidx.body + (28 if large else 20)
    count = file.big(at + 2, 2)
    entries = file.read(at + 4, 12 * count)
    sizes = (int.from_bytes(entries[at : at + 4], "big") for at in range(0, len(entries), 12))
    return sidx.end + first + sum(size & 0x7FFFFFFF for size in sizes)


def _sample_ends(file: Parts, moov: Box) -> Ends:
    """Where the last samples of the tracks end, which matters where `mdat` says no size."""
    for trak in _boxes(file, *moov[1:]):
        if trak.name != b"trak":
            continue
        media = _inside(file, trak, b"mdia", b"minf")
        references = _inside(file, media, b"dinf", b"dref")
        # The first entry's flag: whether the samples are in this file.
        if references and not file.big(references.body + 19, 1) & 1:
            continue
        if table := _inside(file, media, b"stbl"):
            yield _last_sample_end(file, table)


def _last_sample_end(file: Parts, table: Box) -> int:
    boxes = {box.name: box for box in _boxes(file, *table[1:])}
    name = b"co64" if b"co64" in boxes else b"stco"
    chunk = _last_entry(file, boxes.get(name), 4, 8 if name == b"co64" else 4)
    samples, sizes = _last_entry(file, boxes.get(b"stsc"), 4, 12), boxes.get(b"stsz")
    if not chunk or not samples or not sizes or file.big(sizes.body + 4, 4):
        # Sizes that are all the same may count something else than bytes, as in old QuickTime.
        return int.from_bytes(chunk, "big")
    count = file.big(sizes.body + 8, 4)
    last = min(count, int.from_bytes(samples[4:8], "big"), _MOST_SAMPLES)
    at = sizes.body + 12 + 4 * (count - last)
    found = file.read(at, min(4 * last, sizes.end - at))
    length = sum(int.from_bytes(found[at : at + 4], "big") for at in range(0, len(found), 4))
    return int.from_bytes(chunk, "big") + length


def _last_entry(file: Parts, box: Box | None, skip: int, size: int) -> bytes:
    """The last entry of a table that starts with how many there are; nothing where it has none."""
    count = file.big(box.body + skip, 4) if box else 0
    if box is None or not count or box.body + skip + 4 + count * size > box.end:
        return b""
    return file.read(box.body + skip + 4 + (count - 1) * size, size)
