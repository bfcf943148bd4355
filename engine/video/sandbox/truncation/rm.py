"""RealMedia: chunks."""

from spava_app.engine.video.sandbox.truncation.parts import Ends, Parts

_NAMES = {b".RMF", b"PROP", b"MDPR", b"CONT", b"DATA", b"INDX"}
# FFmpeg counts its data chunk 10 bytes too long; a chunk has at least the 18 of such a header.
_SURPLUS = 18


def ends(file: Parts) -> Ends:
    """The ends of the chunks."""
    at = 0
    while (header := file.read(at, 8))[:4] in _NAMES:
        size = int.from_bytes(header[4:], "big")
        if size < 8:
            return
        yield at + size - _SURPLUS
        at += size
