"""Flash Video: tags, each followed by its size."""

import math
import struct

from spava_app.engine.video.sandbox.truncation.parts import Ends, Parts

_TAG, _SOUND, _PICTURE, _SCRIPT = 11, 8, 9, 18
_MOST_METADATA = 2**17


def ends(file: Parts) -> Ends:
    """Where the metadata says that the file ends, and the ends of the tags unless the last one is
    in its place.
    """
    at = file.big(5, 4) + 4
    kind, length = _tag(file, at)
    if kind == _SCRIPT:
        data = file.read(at + _TAG, min(length, _MOST_METADATA))
        _, _, value = data.partition(b"\0\x08filesize\0")
        if len(value) >= 8:
            size = struct.unpack(">d", value[:8])[0]
            yield int(size) if math.isfinite(size) else 0
    if _ends_with_a_tag(file):
        return
    while True:
        kind, length = _tag(file, at)
        if kind not in {_SOUND, _PICTURE, _SCRIPT}:
            return
        at += _TAG + length + 4
        yield at


def _tag(file: Parts, at: int) -> tuple[int, int]:
    """Kind and length of the tag at a place, or what can be seen of them."""
    header = file.read(at, 4)
    return (header[0] & 0x1F, int.from_bytes(header[1:], "big")) if header else (0, 0)


def _ends_with_a_tag(file: Parts) -> bool:
    length = file.big(file.size - 4, 4)
    kind, says = _tag(file, file.size - 4 - length)
    return kind in {_SOUND, _PICTURE, _SCRIPT} and says + _TAG == length
