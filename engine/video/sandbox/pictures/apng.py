"""Animated PNG: each picture is laid over or put in place of those before it, as the format says.

Pillow mixes half transparent pictures wrongly, so it decodes each by itself, as a PNG of its own,
and they are put together here.
"""

import struct
from dataclasses import dataclass
from fractions import Fraction
from io import BytesIO
from typing import BinaryIO
from zlib import crc32

import numpy as np
from PIL import Image

from spava_app.engine.video.sandbox.pictures.on_white import layer_of
from spava_app.engine.video.sandbox.pictures.picture import upright
from spava_app.engine.video.sandbox.pictures.spans import Spans, check_count, shown_for

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
# What a picture needs besides its own data.
_SHARED = (b"PLTE", b"tRNS")
_MOST_SHARED = 2**12  # the longest chunk that is read for its own sake
_CLEAR, _PREVIOUS = 1, 2  # what becomes of a picture's place before the next is drawn
_OVER = 1
_WHITE = 255


@dataclass(frozen=True)
class Part:
    """A picture and its place: where it begins, its size, and how it is drawn.

    Attributes:
        data: name, offset and length of the chunks that hold it.
    """

    left: int
    top: int
    width: int
    height: int
    length: int
    dispose: int
    blend: int
    data: list[tuple[bytes, int, int]]

    @property
    def place(self) -> tuple[slice, slice]:
        """Its rows and columns."""
        rows = slice(self.top, self.top + self.height)
        return rows, slice(self.left, self.left + self.width)


@dataclass(frozen=True)
class Apng:
    """An animated PNG.

    Attributes:
        header: the 13 bytes that say how pixels are stored.
        shared: chunks that all pictures need.
        parts: its pictures.
    """

    header: bytes
    shared: tuple[bytes, ...]
    parts: list[Part]

    @property
    def size(self) -> tuple[int, int]:
        """(height, width)."""
        width, height = struct.unpack_from(">II", self.header)
        return height, width

    @property
    def spans(self) -> Spans:
        """A picture that takes the place of all before it, for good, needs none of them."""
        whole = self.size[::-1]
        keys = [
            (part.width, part.height) == whole and part.blend != _OVER and part.dispose != _PREVIOUS
            for part in self.parts
        ]
        return Spans([part.length for part in self.parts], [True, *keys[1:]])


def read_apng(file: BinaryIO) -> Apng | None:
    """What the chunks of a PNG say, or None where it has but one picture.

    Raises:
        ValueError: it is damaged or cut short, or has too many pictures.
    """
    file.seek(len(_SIGNATURE))
    header, shared, parts = b"", [], []
    animated = False
    while True:
        head = file.read(8)
        if len(head) < 8:
            if animated:
                raise ValueError("cut short")
            return None  # as a picture, it will be said
        size, name = struct.unpack(">I4s", head)
        at = file.tell()
        match name:
            case b"IHDR":
                header = _checked(file, name, size)
            case b"acTL" if not parts:
                animated = True
            case b"IDAT" if not animated:
                return None
            case b"fcTL":
                parts.append(_part(_checked(file, name, size)))
                check_count(len(parts))
            # One before all parts is shown where nothing moves.
            case b"IDAT" | b"fdAT" if parts:
                parts[-1].data.append((name, at, size))
            case b"IEND":
                break
            case _ if name in _SHARED:
                shared.append(_chunk(name, _checked(file, name, size)))
        file.seek(at + size + 4)
    found = Apng(header, tuple(shared), parts)
    _check_places(found)
    return found if len(parts) > 1 else None


class ApngPlayer:
    """Draws the pictures of an animated PNG one after the other.

    Args:
        turn: the file's orientation tag.
    """

    def __init__(self, file: BinaryIO, apng: Apng, turn: int) -> None:
        self._file, self._apng, self._turn = file, apng, turn
        self._canvas = np.full((*apng.size, 3), _WHITE, np.uint8)
        self._last: Part | None = None
        self._before: np.ndarray | None = None

    def advance(self, number: int) -> None:
        """Draw a picture: the one after the last, or one that needs none before it."""
        if self._last is not None and self._last.dispose == _CLEAR:
            self._canvas[self._last.place] = _WHITE
        elif self._before is not None and self._last is not None:
            self._canvas[self._last.place] = self._before
        part = self._apng.parts[number]
        if number == 0:
            self._canvas[:] = _WHITE
        place = self._canvas[part.place]
        self._before = place.copy() if part.dispose == _PREVIOUS else None
        # What a canvas of no colour shows through is white, as it would be in the end.
        layer = layer_of(self._decoded(part))
        place[:] = layer.over(place if part.blend == _OVER else _WHITE)
        self._last = part

    def picture(self) -> np.ndarray:
        """What is shown, `[h, w, 3]` uint8; drawn over by the next."""
        return upright(self._canvas, self._turn)

    def _decoded(self, part: Part) -> Image.Image:
        header = struct.pack(">II", part.width, part.height) + self._apng.header[8:]
        chunks = [_SIGNATURE, _chunk(b"IHDR", header), *self._apng.shared]
        for name, at, size in part.data:
            self._file.seek(at)
            data = _checked(self._file, name, size, most=size)
            chunks.append(_chunk(b"IDAT", data[4:] if name == b"fdAT" else data))
        return Image.open(BytesIO(b"".join([*chunks, _chunk(b"IEND", b"")])), formats=("PNG",))


def _part(fields: bytes) -> Part:
    _, width, height, left, top, amount, of, dispose, blend = struct.unpack(">5I2H2B", fields)
    length = shown_for(Fraction(amount, of or 100))
    return Part(left, top, width, height, length, dispose, blend, [])


def _check_places(apng: Apng) -> None:
    height, width = apng.size
    for part in apng.parts:
        fits = part.left + part.width <= width and part.top + part.height <= height
        if not (fits and part.width and part.height and part.data):
            raise ValueError("a picture without data or out of place")


def _checked(file: BinaryIO, name: bytes, size: int, *, most: int = _MOST_SHARED) -> bytes:
    data, told = file.read(min(size, most)), file.read(4)
    if told != struct.pack(">I", crc32(name + data)):
        raise ValueError("a chunk is damaged")
    return data


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I4s", len(data), name) + data + struct.pack(">I", crc32(name + data))
