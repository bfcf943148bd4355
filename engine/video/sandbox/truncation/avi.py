"""AVI: RIFF chunks, and OpenDML's several of them."""

import re
from collections.abc import Iterator
from typing import NamedTuple

from spava_app.engine.video.sandbox.truncation.parts import Ends, Parts

# Some writers count the 8 bytes of a chunk's own header, or leave out its last padding.
_HEADER = 8
_UNKNOWN = {0, 2**32 - 1}  # of a file that was never finished, or went through a pipe
_FRAMES = re.compile(rb"\d\d[a-z]{2}|ix\d\d|idx1|JUNK|LIST", re.DOTALL)


class Chunk(NamedTuple):
    """A chunk: its name, the kind of a list, and where it starts and ends."""

    name: bytes
    kind: bytes
    at: int
    size: int

    @property
    def end(self) -> int:
        return self.at + _HEADER + self.size


def ends(file: Parts) -> Ends:
    """The ends of the RIFF chunks, and of the indexes that OpenDML's own index lists; those of the
    frames where a RIFF chunk does not say its size.
    """
    for riff in _chunks(file, 0, file.size):
        if riff.name != b"RIFF" or riff.kind not in {b"AVI ", b"AVIX"}:
            return
        if riff.size in _UNKNOWN:
            yield from _frame_ends(file, riff.at + 12)
            return
        if riff.end > file.size + _HEADER:
            yield riff.end
        if riff.kind == b"AVI ":
            yield from _index_ends(file, riff)


def _frame_ends(file: Parts, at: int) -> Ends:
    movi = next((c for c in _chunks(file, at, file.size) if c.kind == b"movi"), None)
    for chunk in _chunks(file, movi.at + 12, file.size) if movi else ():
        if not _FRAMES.fullmatch(chunk.name):
            return
        yield chunk.end


def _index_ends(file: Parts, riff: Chunk) -> Ends:
    header = next((c for c in _chunks(file, riff.at + 12, riff.end) if c.kind == b"hdrl"), None)
    for stream in _chunks(file, header.at + 12, header.end) if header else ():
        if stream.kind == b"strl":
            for chunk in _chunks(file, stream.at + 12, stream.end):
                if chunk.name == b"indx" and file.read(chunk.at + 11, 1) == b"\0":
                    yield from _listed(file, chunk)


def _listed(file: Parts, indx: Chunk) -> Ends:
    count = min(file.little(indx.at + 12, 4), (indx.size - 24) // 16)
    for entry in range(count):
        at = indx.at + 32 + 16 * entry
        yield file.little(at, 8) + file.little(at + 8, 4)


def _chunks(file: Parts, at: int, end: int) -> Iterator[Chunk]:
    while at + _HEADER <= end:
        header = file.read(at, 12)
        chunk = Chunk(header[:4], header[8:], at, int.from_bytes(header[4:8], "little"))
        yield chunk
        at = chunk.end + chunk.size % 2
