"""GIF: blocks, and a trailer after the last."""

from spava_app.engine.video.sandbox.truncation.parts import Ends, Parts

_EXTENSION, _IMAGE, _TRAILER = 0x21, 0x2C, 0x3B


def ends(file: Parts) -> Ends:
    """Whether the trailer is there."""
    if file.read(file.size - 2, 2) == bytes([0, _TRAILER]):
        return
    at = 13 + _colors(file.big(10, 1))
    while at < file.size:
        kind = file.big(at, 1)
        if kind == _EXTENSION:
            at += 2
        elif kind == _IMAGE:
            at += 11 + _colors(file.big(at + 9, 1))
        else:
            return  # the trailer, or no GIF from here on
        while size := file.big(at, 1):
            at += 1 + size
        at += 1
    yield None


def _colors(flags: int) -> int:
    """Bytes of a color table."""
    return 3 << (flags & 7) + 1 if flags & 0x80 else 0
