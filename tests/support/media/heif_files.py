"""HEIC and AVIF files whose picture is a grid of tiles, as phones write them."""

import struct
from collections.abc import Iterator, Sequence
from io import BytesIO

import numpy as np
import pillow_heif
from PIL import Image

pillow_heif.register_heif_opener()
_LOSSLESS = {
    "HEIF": {"quality": -1, "chroma": 444},
    "AVIF": {"quality": 100, "subsampling": "4:4:4", "speed": 10},
}


def encoded(pixels: np.ndarray, form: str, **how) -> bytes:
    """One picture, nearly without loss."""
    out = BytesIO()
    Image.fromarray(pixels).save(out, form, **_LOSSLESS[form] | how)
    return out.getvalue()


def grid(pixels: np.ndarray, form: str, rows: int, columns: int, *, turns: int = 0) -> bytes:
    """`pixels` in tiles of even size, the last ones cut off where they do not fit, to be turned
    `turns` times a quarter counter-clockwise.
    """
    height, width = pixels.shape[:2]
    tile_height, tile_width = (-(-height // rows) + 7) // 8 * 8, (-(-width // columns) + 7) // 8 * 8
    below, beside = rows * tile_height - height, columns * tile_width - width
    padded = np.pad(pixels, ((0, below), (0, beside), (0, 0)), mode="edge")
    files = [
        encoded(
            padded[
                row * tile_height : (row + 1) * tile_height,
                column * tile_width : (column + 1) * tile_width,
            ],
            form,
        )
        for row in range(rows)
        for column in range(columns)
    ]
    whole = struct.pack(">BBBBHH", 0, 0, rows - 1, columns - 1, width, height)
    return _file(files, whole, (tile_width, tile_height), (width, height), turns)


def boxes(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Names and contents of the boxes in `data`."""
    at = 0
    while at < len(data):
        size, name = struct.unpack_from(">I4s", data, at)
        yield name, data[at + 8 : at + (size or len(data))]
        at += size or len(data)


def _file(
    files: Sequence[bytes],
    whole: bytes,
    tile: tuple[int, int],
    size: tuple[int, int],
    turns: int,
) -> bytes:
    top = dict(boxes(files[0]))
    properties = dict(boxes(dict(boxes(dict(boxes(top[b"meta"][4:]))[b"iprp"]))[b"ipco"]))
    codec, kind = (b"av1C", b"av01") if b"av1C" in properties else (b"hvcC", b"hvc1")
    items = [whole, *map(_first_item, files)]
    shared = [name for name in (b"pixi", b"colr") if name in properties]
    own = _box(codec, properties[codec]) + _full(b"ispe", struct.pack(">II", *tile))
    own += _full(b"ispe", struct.pack(">II", *size)) + _box(b"irot", bytes([turns]))
    own += b"".join(_box(name, properties[name]) for name in shared)
    others = list(range(5, 5 + len(shared)))
    uses = [[3, *others, 4 | 0x80], *[[1 | 0x80, 2, *others]] * len(files)]
    places = b"".join(
        struct.pack(">HBB", number, len(used), used[0]) + bytes(used[1:])
        for number, used in enumerate(uses, start=1)
    )
    names = [b"grid", *[kind] * len(files)]
    entries = b"".join(
        _full(b"infe", struct.pack(">HH4sB", number, 0, name, 0), version=2, flags=int(number > 1))
        for number, name in enumerate(names, start=1)
    )
    tiles = range(2, len(items) + 1)
    parts = struct.pack(f">HH{len(files)}H", 1, len(files), *tiles)
    meta = [
        _full(b"hdlr", struct.pack(">I4s12xB", 0, b"pict", 0)),
        _full(b"pitm", struct.pack(">H", 1)),
        _full(b"iinf", struct.pack(">H", len(items)) + entries),
        _full(b"iref", _box(b"dimg", parts)),
        _box(b"iprp", _box(b"ipco", own) + _full(b"ipma", struct.pack(">I", len(items)) + places)),
    ]
    head = _box(b"ftyp", top[b"ftyp"])
    known = sum(map(len, meta)) + len(_where(items, 0)) + 12
    start = len(head) + known + 8
    body = _full(b"meta", b"".join([*meta, _where(items, start)]))
    return head + body + _box(b"mdat", b"".join(items))


def _where(items: Sequence[bytes], start: int) -> bytes:
    table = struct.pack(">BBH", 0x44, 0, len(items))
    for number, item in enumerate(items, start=1):
        table += struct.pack(">HHHII", number, 0, 1, start, len(item))
        start += len(item)
    return _full(b"iloc", table)


def _first_item(data: bytes) -> bytes:
    """The data of the primary item of a file of one picture."""
    meta = dict(boxes(dict(boxes(data))[b"meta"][4:]))
    table, wanted = meta[b"iloc"], struct.unpack_from(">H", meta[b"pitm"], 4)[0]
    version, sizes, base_size = table[0], table[4], table[5] >> 4
    offset_size, length_size = sizes >> 4, sizes & 15
    count, at = struct.unpack_from(">H", table, 6)[0], 8
    for _ in range(count):
        item = struct.unpack_from(">H", table, at)[0]
        at += 2 + 2 * (version > 0) + 2
        base = int.from_bytes(table[at : at + base_size], "big")
        at += base_size
        pieces = []
        extents = struct.unpack_from(">H", table, at)[0]
        at += 2
        for _ in range(extents):
            start = base + int.from_bytes(table[at : at + offset_size], "big")
            at += offset_size
            size = int.from_bytes(table[at : at + length_size], "big")
            at += length_size
            pieces.append(data[start : start + size])
        if item == wanted:
            return b"".join(pieces)
    raise ValueError("no such item")


def _box(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", 8 + len(content)) + name + content


def _full(name: bytes, content: bytes, *, version: int = 0, flags: int = 0) -> bytes:
    return _box(name, struct.pack(">I", version << 24 | flags) + content)
