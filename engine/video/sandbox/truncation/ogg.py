"""Ogg: pages (RFC 3533)."""

from spava_app.engine.video.sandbox.truncation.parts import Ends, Parts

_MAGIC, _HEADER, _LAST = b"OggS", 27, 4
_MOST_PAGE = _HEADER + 255 + 255 * 255


def ends(file: Parts) -> Ends:
    """The end of the last page, and whether it is the last of its stream."""
    start = max(file.size - _MOST_PAGE, 0)
    tail = file.read(start, _MOST_PAGE)
    at = tail.rfind(_MAGIC)
    if at < 0:
        return
    page = tail[at:]
    if len(page) < _HEADER or len(page) < _HEADER + page[26]:
        yield None
        return
    yield start + at + _HEADER + page[26] + sum(page[_HEADER : _HEADER + page[26]])
    if not page[5] & _LAST:
        yield None
