"""Which format of pictures a file has, by its first bytes; nothing of it is decoded.

Pictures in the container of mp4 (HEIF, AVIF) are told here, before the library for videos sees
them: it takes tiles, thumbnails and hidden parts for streams.
"""

from typing import BinaryIO

# Enough for the longest list of brands that is met.
_HEAD = 512
_STARTS = {
    b"\x89PNG\r\n\x1a\n": "PNG",
    b"\xff\xd8\xff": "JPEG",
    b"BM": "BMP",
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
    b"II+\0": "TIFF",
    b"MM\0+": "TIFF",
}
_AVIF = {b"avif", b"avis"}
# HEIF with one or more still pictures, by any codec (ISO/IEC 23008-12, annexes B to L, and MIAF).
_STILL = {b"mif1", b"mif2", b"miaf", b"heic", b"heix", b"heim", b"heis"}
_STILL |= {b"avci", b"jpeg", b"j2ki", b"vvic"}
_SEQUENCE = {b"msf1", b"hevc", b"hevx", b"hevm", b"hevs", b"avcs", b"jpgs", b"j2is", b"vvis"}


def picture_format(file: BinaryIO) -> str | None:
    """Pillow's name of the format, "HEIF sequence", or None for anything else."""
    file.seek(0)
    head = file.read(_HEAD)
    for start, name in _STARTS.items():
        if head.startswith(start):
            return name
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "WEBP"
    return _by_brands(head) if head[4:8] == b"ftyp" else None


def is_cut_short(file: BinaryIO) -> bool:
    """Whether the box of the pictures' data, or of what they are, ends behind the file. The library
    for HEIF makes up what is missing. Phones add what is no box at the end.
    """
    end, at = file.seek(0, 2), 0
    while at + 8 <= end:
        file.seek(at)
        head = file.read(16)
        size, name = int.from_bytes(head[:4], "big"), head[4:8]
        if size == 1:
            size = int.from_bytes(head[8:], "big")
        if name in (b"mdat", b"meta") and at + size > end:
            return True
        if size < 8:
            break
        at += size
    return False


def _by_brands(head: bytes) -> str | None:
    """By the brands of the file: the first says what it is, the others what it is as well."""
    first = head[8:12]
    size = min(int.from_bytes(head[:4], "big"), len(head))
    others = {head[at : at + 4] for at in range(16, size, 4)}
    if first in _AVIF or (first in _STILL | _SEQUENCE and others & _AVIF):
        return "AVIF"
    if first in _STILL:
        return "HEIF"
    return "HEIF sequence" if first in _SEQUENCE else None
