"""Whether bytes are missing at a file's end, told by its own structure and by nothing else."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import BinaryIO

from spava_app.engine.video.sandbox.truncation import (
    asf,
    avi,
    flv,
    gif,
    ivf,
    matroska,
    mov,
    mxf,
    ogg,
    rm,
)
from spava_app.engine.video.sandbox.truncation.parts import Ends, Exhausted, Parts

_FORMATS: dict[str, Callable[[Parts], Ends]] = {
    "mov": mov.ends,
    "matroska": matroska.ends,
    "avi": avi.ends,
    "flv": flv.ends,
    "mxf": mxf.ends,
    "ivf": ivf.ends,
    "asf": asf.ends,
    "ogg": ogg.ends,
    "gif": gif.ends,
    "rm": rm.ends,
}


@dataclass(frozen=True)
class CutShort:
    """What a file lacks.

    Attributes:
        size: bytes that are there.
        missing: bytes that are not, at least, since what would follow a part that is cut off may
            be known to no other part; None where nothing says how many.
    """

    size: int
    missing: int | None

    @property
    def share(self) -> float | None:
        """The missing bytes as a share of the whole file's, above 0 and below 1."""
        return self.missing and self.missing / (self.size + self.missing)


def cut_short(file: BinaryIO, format_name: str) -> CutShort | None:
    """What is missing at the end of a file, or None where nothing is known to be.

    Never told are transport and program streams, raw streams and NUT, which say nowhere how long
    they are; WTV, which cannot be opened then; and what was cut between two parts of a file that
    was written to be read before it was finished (fragments without an index, Matroska of unknown
    size, AVI without sizes). Bytes after the end are no fault.

    Args:
        file: seekable; whatever is in it, at most some MB of it are read, in at most some hundred
            thousand pieces, so a buffer only costs time.
        format_name: FFmpeg's name of its container, such as "mov,mp4,m4a,3gp,3g2,mj2".
    """
    ends = _FORMATS.get(format_name.split(",")[0])
    if ends is None:
        return None
    parts = Parts(file)
    furthest, breaks_off = parts.size, False
    try:
        for end in ends(parts):
            if end is None:
                breaks_off = True
            else:
                furthest = max(furthest, end)
    except Exhausted:
        pass  # what was found so far is true
    if furthest > parts.size:
        return CutShort(parts.size, furthest - parts.size)
    return CutShort(parts.size, None) if breaks_off else None
