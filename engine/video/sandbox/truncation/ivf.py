"""IVF: a header and frames."""

import struct

from spava_app.engine.video.sandbox.truncation.parts import Ends, Parts

_UNKNOWN = {0, 2**32 - 1}
_MOST_APART = 2**32  # between the times of two frames


def ends(file: Parts) -> Ends:
    """The ends of the frames, of as many as are promised; and where there are fewer, how far they
    would go if they were like the others.

    The header tells frames or their duration, depending on who wrote it. A frame that stays long
    gives the latter a high value, so that alone, with every frame whole, says no number of bytes.
    """
    at = start = file.little(6, 2)
    promised, frames, there = file.little(24, 4), 0, 0
    first, last = None, 0
    known = promised not in _UNKNOWN
    while not (known and there >= promised) and len(header := file.read(at, 12)) == 12:
        length, time = struct.unpack("<IQ", header)
        end = at + 12 + length
        if first is not None and not last <= time < last + _MOST_APART:
            break  # no frame: something that somebody put behind the last one
        yield end
        if end > file.size:
            break
        first, last = time if first is None else first, time
        there = max(frames + 1, time - first + (time - first) // max(frames, 1))
        frames, at = frames + 1, end
    if known and 0 < there < promised:
        yield start + (at - start) * promised // there if at < file.size else None
