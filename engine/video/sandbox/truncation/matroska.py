"""Matroska and WebM: elements (RFC 8794, RFC 9559)."""

from collections.abc import Iterator
from typing import NamedTuple

from spava_app.engine.video.sandbox.truncation.parts import Ends, Parts

_EBML, _SEGMENT, _CLUSTER, _SEEK_HEAD = 0x1A45DFA3, 0x18538067, 0x1F43B675, 0x114D9B74
_SEEK, _SEEK_POSITION = 0x4DBB, 0x53AC
_FILLING = {0xEC, 0xBF}  # Void, CRC-32
# Inside a segment: Info, Tracks, Cues, Chapters, Attachments, Tags; inside a cluster: SimpleBlock,
# BlockGroup, Timestamp, Position, PrevSize, EncryptedBlock, SilentTracks.
_PARTS = {0x1549A966, 0x1654AE6B, 0x1C53BB6B, 0x1043A770, 0x1941A469, 0x1254C367}
_PARTS |= {0xA3, 0xA0, 0xE7, 0xA7, 0xAB, 0xAF, 0x5854} | _FILLING
_PARTS |= {_EBML, _SEGMENT, _CLUSTER, _SEEK_HEAD}


class Element(NamedTuple):
    """An element: its number, and where its content starts and ends, None where it says not."""

    number: int
    body: int
    end: int | None


def ends(file: Parts) -> Ends:
    """The end of the segment; of its parts where it does not say, as in recordings of a stream."""
    for element in _elements(file, 0, file.size):
        if element.number not in {_EBML, _SEGMENT, *_FILLING}:
            return
        if element.end is None:
            yield from _part_ends(file, element.body)
            return
        yield element.end


def _part_ends(file: Parts, segment: int) -> Ends:
    """Those of the parts from `segment` on, at any level, and the places of others."""
    for element in _elements(file, segment, file.size):
        if element.number not in _PARTS:
            return
        if element.end is not None:
            yield element.end
            if element.number == _SEEK_HEAD:
                yield from _places(file, element, segment)


def _places(file: Parts, head: Element, segment: int) -> Ends:
    """Just behind the start of the parts that a SeekHead lists."""
    for seek in _elements(file, head.body, head.end or 0):
        if seek.number == _SEEK and seek.end:
            for field in _elements(file, seek.body, seek.end):
                if field.number == _SEEK_POSITION and field.end:
                    yield segment + file.big(field.body, min(field.end - field.body, 8)) + 1


def _elements(file: Parts, at: int, end: int) -> Iterator[Element]:
    """The elements from a place on; one of unknown size is followed by what is inside it."""
    while at < end:
        header = file.read(at, 12)
        width = 9 - header[0].bit_length() if header else 9
        if width > 4 or len(header) <= width or not header[width]:
            return
        number = int.from_bytes(header[:width], "big")
        bits = 7 * (9 - header[width].bit_length())
        body = width + bits // 7
        size = int.from_bytes(header[width:body], "big") & ((1 << bits) - 1)
        known = size != (1 << bits) - 1
        yield Element(number, at + body, at + body + size if known else None)
        at += body + size if known else body
