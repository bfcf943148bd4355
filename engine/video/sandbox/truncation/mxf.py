"""MXF: keys, lengths and values (SMPTE ST 377-1)."""

from spava_app.engine.video.sandbox.truncation.parts import Ends, Parts

_LABEL = b"\x06\x0e\x2b\x34"
_PARTITION = _LABEL + b"\x02\x05\x01\x01\x0d\x01\x02\x01\x01"
_MOST_RUN_IN = 2**16
# Of a partition pack, from the start of its value.
_FOOTER = 24


def ends(file: Parts) -> Ends:
    """The ends of what is in the footer partition; where no header says where that is, those of
    all.
    """
    start = file.read(0, _MOST_RUN_IN + 16).find(_PARTITION)
    if start < 0:
        return
    value, _ = _item(file, start)
    footer = file.big(value + _FOOTER, 8)
    if footer:
        yield start + footer + 1
    at = start + footer
    while file.read(at, 4) == _LABEL:
        value, length = _item(file, at)
        if value + length <= at:
            return
        yield value + length
        at = value + length


def _item(file: Parts, at: int) -> tuple[int, int]:
    """Where the value of an item starts, and its length; (0, 0) where it says neither."""
    header = file.read(at + 16, 9)
    if not header or header[0] < 0x80:
        return (at + 17, header[0]) if header else (0, 0)
    width = header[0] & 0x7F
    if not 0 < width <= 8 or len(header) <= width:
        return 0, 0
    return at + 17 + width, int.from_bytes(header[1 : 1 + width], "big")
