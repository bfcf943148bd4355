"""PNG files written chunk by chunk, so that what they hold is known without a library."""

import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

SIGNATURE = b"\x89PNG\r\n\x1a\n"
# Kinds of pixels: channels of a colour type.
GREY, RGB, PALETTE, GREY_ALPHA, RGBA = 0, 2, 3, 4, 6
# First column and row, and steps, of the passes of an interlaced file.
PASSES = [
    (0, 0, 8, 8),
    (4, 0, 8, 8),
    (0, 4, 4, 8),
    (2, 0, 4, 4),
    (0, 2, 2, 4),
    (1, 0, 2, 2),
    (0, 1, 1, 2),
]
Chunk = tuple[bytes, bytes]


@dataclass(frozen=True)
class Part:
    """A picture of an animation, drawn at (left, top)."""

    pixels: np.ndarray
    left: int = 0
    top: int = 0
    amount: int = 1
    of: int = 10
    dispose: int = 0
    blend: int = 0


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(
    pixels: np.ndarray, kind: int, bits: int = 8, *, more: Sequence[Chunk] = (), interlace=False
) -> bytes:
    """A file of one picture, `[h, w]` or `[h, w, channels]`; `more` are chunks before its data."""
    data = b"".join(_rows(part, bits) for part in _passes(pixels, interlace))
    chunks = [_header(pixels, kind, bits, interlace), *more, (b"IDAT", zlib.compress(data))]
    return SIGNATURE + b"".join(chunk(*one) for one in [*chunks, (b"IEND", b"")])


def apng(
    parts: Sequence[Part],
    kind: int,
    bits: int = 8,
    *,
    more: Sequence[Chunk] = (),
    still: np.ndarray | None = None,
    claimed: int | None = None,
) -> bytes:
    """An animated file; `still` is a picture for those who know no animation."""
    first = parts[0].pixels if still is None else still
    count = len(parts) if claimed is None else claimed
    chunks = [_header(first, kind, bits, False), *more, (b"acTL", struct.pack(">II", count, 0))]
    if still is not None:
        chunks.append((b"IDAT", zlib.compress(_rows(still, bits))))
    number = 0
    for part in parts:
        height, width = part.pixels.shape[:2]
        place = (number, width, height, part.left, part.top)
        fields = (*place, part.amount, part.of, part.dispose, part.blend)
        chunks.append((b"fcTL", struct.pack(">5I2H2B", *fields)))
        number += 1
        data = zlib.compress(_rows(part.pixels, bits))
        if part is parts[0] and still is None:
            chunks.append((b"IDAT", data))
            continue
        for piece in (data[: len(data) // 2], data[len(data) // 2 :]):
            chunks.append((b"fdAT", struct.pack(">I", number) + piece))
            number += 1
    return SIGNATURE + b"".join(chunk(*one) for one in [*chunks, (b"IEND", b"")])


def _header(pixels: np.ndarray, kind: int, bits: int, interlace: bool) -> Chunk:
    height, width = pixels.shape[:2]
    return b"IHDR", struct.pack(">IIBBBBB", width, height, bits, kind, 0, 0, interlace)


def _passes(pixels: np.ndarray, interlace: bool) -> list[np.ndarray]:
    if not interlace:
        return [pixels]
    parts = [pixels[top::down, left::right] for left, top, right, down in PASSES]
    return [part for part in parts if part.size]


def _rows(pixels: np.ndarray, bits: int) -> bytes:
    flat = pixels.reshape(len(pixels), -1)
    if bits == 16:
        rows = flat.astype(">u2").view(np.uint8)
    elif bits == 8:
        rows = flat.astype(np.uint8)
    else:
        places = np.arange(bits)[::-1]
        rows = np.packbits((flat[..., None] >> places & 1).reshape(len(flat), -1), axis=1)
    return b"".join(b"\0" + row.tobytes() for row in rows)
