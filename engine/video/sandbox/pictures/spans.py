"""How long each picture of an animated WebP or AVIF stays, from its headers, without decoding.

Pillow tells it only of pictures that it has decoded. Times are microseconds; those that nobody can
mean (nothing up to 10 ms) are 0.1 s, as browsers and ffmpeg show them.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import BinaryIO

SECOND = 10**6
# Of one file; what is needed for each is bounded too.
MOST_PICTURES = 100_000
_SHORTEST, _INSTEAD = SECOND // 100, SECOND // 10
_ANIMATION_FLAG = 0x02


@dataclass(frozen=True)
class Spans:
    """How long pictures stay.

    Attributes:
        lengths: of each picture, microseconds.
        keys: whether decoding may start at it.
    """

    lengths: list[int]
    keys: list[bool]


def shown_for(seconds: Fraction) -> int:
    """Microseconds that a picture stays which is to stay so many seconds."""
    length = round(seconds * SECOND)
    return length if length > _SHORTEST else _INSTEAD


def webp_spans(file: BinaryIO) -> Spans | None:
    """Of an animated WebP, or None where there is but one picture.

    Raises:
        ValueError: too many.
    """
    file.seek(12)
    lengths: list[int] = []
    while len(head := file.read(8)) == 8:
        name, size = head[:4], int.from_bytes(head[4:], "little")
        taken = 0
        if name == b"VP8X":
            taken = len(flags := file.read(1))
            if flags and not flags[0] & _ANIMATION_FLAG:
                return None
        elif name == b"ANMF":
            frame = file.read(16)
            taken = len(frame)
            milliseconds = int.from_bytes(frame[12:15], "little")
            lengths.append(shown_for(Fraction(milliseconds, 1000)))
            check_count(len(lengths))
        file.seek(size + size % 2 - taken, 1)
    # The library goes through all pictures before the one it is asked for.
    keys = [True, *[False] * (len(lengths) - 1)]
    return Spans(lengths, keys) if len(lengths) > 1 else None


def avif_spans(file: BinaryIO) -> Spans | None:
    """Of an image sequence, or None where there is but one picture.

    Raises:
        ValueError: too many, or no table of times.
    """
    file.seek(8)
    if file.read(4) != b"avis":
        return None  # one picture, even if there is a sequence beside it
    for name, track in _boxes(_movie(file)):
        if name == b"trak" and _shows_pictures(track):
            return _track_spans(track)
    raise ValueError("no sequence in a file that is said to be one")


def check_count(count: int) -> None:
    """Raise `ValueError` where a file has more pictures than anybody would make it of."""
    if count > MOST_PICTURES:
        raise TooManyPictures(f"more than {MOST_PICTURES} pictures")


class TooManyPictures(ValueError):
    """A file has more pictures than are taken for an animation."""


def _shows_pictures(track: bytes) -> bool:
    """Whether it is neither sound nor the transparency of another track."""
    handler = _find(track, b"mdia", b"hdlr")[8:12]
    references = [name for name, _ in _boxes(_find(track, b"tref"))]
    return handler == b"pict" and b"auxl" not in references


def _track_spans(track: bytes) -> Spans | None:
    media = _find(track, b"mdia")
    header = _find(media, b"mdhd")
    scale = struct.unpack_from(">I", header, 20 if header[0] == 1 else 12)[0]
    table = _find(media, b"minf", b"stbl")
    lengths: list[int] = []
    runs = _find(table, b"stts")
    for number in range(struct.unpack_from(">I", runs, 4)[0]):
        count, delta = struct.unpack_from(">II", runs, 8 + 8 * number)
        check_count(len(lengths) + count)
        lengths += [shown_for(Fraction(delta, scale))] * count
    if len(lengths) < 2:
        return None
    sync = _find(table, b"stss")
    keys = [not sync] * len(lengths)  # without the table each is a key
    keys[0] = True
    for number in range(struct.unpack_from(">I", sync, 4)[0] if sync else 0):
        place = struct.unpack_from(">I", sync, 8 + 4 * number)[0] - 1
        if place < len(keys):
            keys[place] = True
    return Spans(lengths, keys)


def _find(data: bytes, *names: bytes) -> bytes:
    """What the first box of a name holds, and in it the first of the next; nothing if there is
    none.
    """
    for wanted in names:
        data = next((body for name, body in _boxes(data) if name == wanted), b"")
    return data


def _boxes(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    at = 0
    while at + 8 <= len(data):
        size, name = struct.unpack_from(">I4s", data, at)
        if size < 8:
            return
        yield name, data[at + 8 : at + size]
        at += size


def _movie(file: BinaryIO) -> bytes:
    """What the box of tracks holds; nothing if there is none."""
    file.seek(0)
    while len(head := file.read(8)) == 8:
        size, name = struct.unpack(">I4s", head)
        rest = int.from_bytes(file.read(8), "big") - 16 if size == 1 else size - 8
        if name == b"moov":
            return file.read(rest if size else -1)
        if rest < 0:
            break
        file.seek(rest, 1)
    return b""
