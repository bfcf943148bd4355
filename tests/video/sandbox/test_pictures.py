"""Pictures of every kind are read upright, as 8-bit RGB on white. What is right is computed here
from the numbers in the file, and never by Pillow's conversions.

h, w = height and width.
"""

import struct
from io import BytesIO
from pathlib import Path

import numpy as np
import pillow_heif
import pytest
from heif_files import encoded, grid
from PIL import Image
from png_files import GREY, GREY_ALPHA, PALETTE, RGB, RGBA, png
from reading import read_still

from spava_app.engine.video.sandbox.pictures.on_white import rgb_on_white
from spava_app.errors import VideoError

RANDOM = np.random.default_rng(4)
SIZE = (21, 34)
COLOURS = RANDOM.integers(0, 256, (*SIZE, 3), dtype=np.uint8)
GREYS = RANDOM.integers(0, 256, SIZE, dtype=np.uint8)
# Every kind of transparency: none, all, and in between.
ALPHA = RANDOM.choice([0, 1, 127, 128, 254, 255], SIZE).astype(np.uint8)
DEEP = RANDOM.integers(0, 65536, SIZE, dtype=np.uint16)
DEEP[:3] = 513
FLOATS = RANDOM.normal(3, 40, SIZE).astype(np.float32)
LOW_INDICES = RANDOM.integers(0, 5, SIZE, dtype=np.uint8)
ENTRIES = RANDOM.integers(0, 256, (5, 3), dtype=np.uint8)


def grey(values) -> np.ndarray:
    """`[h, w]` as three equal colours."""
    return np.stack([np.asarray(values)] * 3, axis=-1)


def white(colour, alpha) -> np.ndarray:
    """Over white, in real numbers."""
    share = np.asarray(alpha, np.float64)[..., None] / 255
    return np.rint(colour * share + 255 * (1 - share))


def own_range(values) -> np.ndarray:
    values = values.astype(np.float64)
    return np.rint((values - values.min()) / (values.max() - values.min()) * 255)


def holes(where, colour) -> np.ndarray:
    return np.where(where[..., None], 255, colour)


def saved(image: Image.Image, form: str, **how) -> bytes:
    out = BytesIO()
    image.save(out, form, **how)
    return out.getvalue()


def tiff(values, mode=None, tags=(), **how) -> bytes:
    """A TIFF; `tags` are numbers of tags of one short value, and what is to stand there."""
    image = values if isinstance(values, Image.Image) else Image.fromarray(values)
    data = bytearray(saved(image.convert(mode) if mode else image, "TIFF", **how))
    for tag, value in dict(tags).items():
        struct.pack_into("<H", data, data.index(struct.pack("<HHI", tag, 3, 1)) + 8, value)
    return bytes(data)


def twelve_bits() -> bytes:
    """Two numbers in three bytes, the first byte the highest bits."""
    values = (DEEP >> 4).astype(np.uint32).reshape(-1, 2)
    three = values[:, 0] << 12 | values[:, 1]
    packed = np.stack([three >> 16, three >> 8, three], axis=1).astype(np.uint8).tobytes()
    height, width = SIZE
    fields = [(256, width), (257, height), (258, 12), (259, 1), (262, 1), (277, 1), (278, height)]
    entries = [struct.pack("<HHIHH", tag, 3, 1, value, 0) for tag, value in fields]
    wide = [(273, 200), (279, len(packed))]  # where the pixels are, and how many bytes
    entries += [struct.pack("<HHII", tag, 4, 1, value) for tag, value in wide]
    table = struct.pack("<H", len(entries)) + b"".join(sorted(entries, key=lambda e: e[:2][::-1]))
    return (b"II*\0" + struct.pack("<I", 8) + table + bytes(4)).ljust(200, b"\0") + packed


def with_alpha(form: str, **how) -> bytes:
    return saved(Image.fromarray(np.dstack([COLOURS, ALPHA])), form, **how)


def bitmap(header: int, packed: int, alpha: np.ndarray, mask: int = 0xFF << 24) -> bytes:
    """A BMP of 32 bits whose header has so many bytes; `packed` is 3 where masks say what the bits
    are, and `mask` the alpha's.
    """
    height, width = SIZE
    fields = struct.pack("<IiiHHI20x", header, width, height, 1, 32, packed)
    fields += struct.pack("<4I", 0xFF0000, 0xFF00, 0xFF, mask)
    data = np.dstack([COLOURS[..., ::-1], alpha])[::-1].tobytes()
    start = 14 + header
    head = b"BM" + struct.pack("<IxxxxI", start + len(data), start)
    return head + fields[:header].ljust(header, b"\0") + data


def holed(values: np.ndarray) -> np.ndarray:
    values = values.copy()
    values[0, :4] = [np.nan, np.inf, -np.inf, np.nan]
    return values


def own_range_holed(values: np.ndarray) -> np.ndarray:
    out = (values.astype(np.float64) - values.ravel()[4:].min()) / np.ptp(values.ravel()[4:]) * 255
    out[0, :4] = [0, 255, 0, 0]
    return np.rint(out)


TRANSPARENT = np.array([255, 0, 100, 200], np.uint8)  # of palette entries; the last has none
PLTE = (b"PLTE", ENTRIES.tobytes())
ENTRY_ALPHA = np.append(TRANSPARENT, 255)[LOW_INDICES]
KEYED = COLOURS // 128 * 128
BITS = GREYS > 127
LITTLE = GREYS >> 6
DEEP_COLOURS = RANDOM.integers(0, 4, (*SIZE, 3), dtype=np.uint16) * 16448
CMYK = RANDOM.integers(0, 256, (*SIZE, 4), dtype=np.uint8)
INK = (255 - CMYK[..., :3].astype(int)) * (255 - CMYK[..., 3:].astype(int)) / 255
CHROMA = RANDOM.integers(60, 190, (*SIZE, 3), dtype=np.uint8)
_Y, _CB, _CR = (CHROMA.astype(np.float64) - [0, 128, 128]).transpose(2, 0, 1)
JFIF = np.stack([_Y + 1.402 * _CR, _Y - 0.344136 * _CB - 0.714136 * _CR, _Y + 1.772 * _CB], -1)
SIGNED = RANDOM.integers(-70_000, 5_000_000, SIZE, dtype=np.int32)

# Name of the file: its bytes, what it shows, and the largest difference that its coding makes.
KINDS = {
    "1.png": (png(BITS, GREY, 1), grey(BITS * 255), 0),
    "1_key_white.png": (
        png(BITS, GREY, 1, more=[(b"tRNS", b"\0\1")]),
        grey(np.full(SIZE, 255) * BITS + ~BITS * 0),
        0,
    ),
    "1_key_black.png": (png(BITS, GREY, 1, more=[(b"tRNS", b"\0\0")]), grey(BITS * 0 + 255), 0),
    "l.png": (png(GREYS, GREY), grey(GREYS), 0),
    "l_interlaced.png": (png(GREYS, GREY, interlace=True), grey(GREYS), 0),
    "l2_key.png": (
        png(LITTLE, GREY, 2, more=[(b"tRNS", b"\0\2")]),
        holes(LITTLE == 2, grey(LITTLE * 85)),
        0,
    ),
    "l_key.png": (
        png(GREYS, GREY, more=[(b"tRNS", bytes([0, GREYS[0, 0]]))]),
        holes(GREYS[0, 0] == GREYS, grey(GREYS)),
        0,
    ),
    "la.png": (png(np.dstack([GREYS, ALPHA]), GREY_ALPHA), white(grey(GREYS), ALPHA), 0),
    "la16.png": (
        png(np.dstack([DEEP, ALPHA.astype(int) * 257]), GREY_ALPHA, 16),
        white(grey(DEEP >> 8), ALPHA),
        0,
    ),
    "p.png": (png(LOW_INDICES, PALETTE, more=[PLTE]), ENTRIES[LOW_INDICES], 0),
    "p_alpha.png": (
        png(LOW_INDICES, PALETTE, more=[PLTE, (b"tRNS", TRANSPARENT.tobytes())]),
        white(ENTRIES[LOW_INDICES], ENTRY_ALPHA),
        0,
    ),
    "p_one_hole.png": (
        png(LOW_INDICES, PALETTE, more=[PLTE, (b"tRNS", b"\xff\xff\0")]),
        holes(LOW_INDICES == 2, ENTRIES[LOW_INDICES]),
        0,
    ),
    "rgb.png": (png(COLOURS, RGB), COLOURS, 0),
    "rgb_interlaced.png": (png(COLOURS, RGB, interlace=True), COLOURS, 0),
    "rgb_key.png": (
        png(KEYED, RGB, more=[(b"tRNS", b"\0\x80\0\0\0\x80")]),
        holes((KEYED == [128, 0, 128]).all(-1), KEYED),
        0,
    ),
    "rgb16.png": (png(DEEP_COLOURS, RGB, 16), DEEP_COLOURS >> 8, 0),
    "rgb16_key.png": (
        png(DEEP_COLOURS, RGB, 16, more=[(b"tRNS", struct.pack(">HHH", 16448, 0, 32896))]),
        holes((DEEP_COLOURS == [16448, 0, 32896]).all(-1), DEEP_COLOURS >> 8),
        0,
    ),
    "rgba.png": (png(np.dstack([COLOURS, ALPHA]), RGBA), white(COLOURS, ALPHA), 0),
    "rgba_interlaced.png": (
        png(np.dstack([COLOURS, ALPHA]), RGBA, interlace=True),
        white(COLOURS, ALPHA),
        0,
    ),
    "i16.png": (png(DEEP, GREY, 16), grey(DEEP >> 8), 0),
    "i16_key.png": (
        png(DEEP, GREY, 16, more=[(b"tRNS", struct.pack(">H", 513))]),
        holes(DEEP == 513, grey(DEEP >> 8)),
        0,
    ),
    "rgba.webp": (with_alpha("WEBP", lossless=True, exact=True), white(COLOURS, ALPHA), 0),
    "rgb.webp": (saved(Image.fromarray(COLOURS), "WEBP", lossless=True), COLOURS, 0),
    "rgb.bmp": (saved(Image.fromarray(COLOURS), "BMP"), COLOURS, 0),
    "rgb_unused.bmp": (bitmap(40, 0, ALPHA), COLOURS, 0),
    "rgb_no_mask.bmp": (bitmap(124, 3, ALPHA, 0), COLOURS, 0),
    "rgba.bmp": (bitmap(56, 3, ALPHA), white(COLOURS, ALPHA), 0),
    "rgba_4.bmp": (bitmap(108, 3, ALPHA), white(COLOURS, ALPHA), 0),
    "rgba_5.bmp": (bitmap(124, 3, ALPHA), white(COLOURS, ALPHA), 0),
    "rgba_empty.bmp": (bitmap(124, 3, np.zeros(SIZE, np.uint8)), COLOURS, 0),
    "rgba_5_plain.bmp": (bitmap(124, 0, ALPHA), white(COLOURS, ALPHA), 0),
    "p.bmp": (saved(Image.fromarray(GREYS), "BMP"), grey(GREYS), 0),
    "l.tif": (tiff(GREYS), grey(GREYS), 0),
    "1.tif": (
        tiff(Image.fromarray(BITS)),
        grey(BITS * 255),
        0,
    ),
    "la.tif": (
        tiff(Image.fromarray(np.dstack([GREYS, ALPHA]))),
        white(grey(GREYS), ALPHA),
        0,
    ),
    "rgb.tif": (tiff(COLOURS, compression="tiff_lzw"), COLOURS, 0),
    "rgba.tif": (with_alpha("TIFF"), white(COLOURS, ALPHA), 0),
    "rgbx.tif": (tiff(Image.fromarray(COLOURS), "RGBX"), COLOURS, 0),
    "cmyk.tif": (tiff(Image.fromarray(CMYK, "CMYK")), INK, 1),
    "cmyk.jpg": (
        saved(Image.fromarray(CMYK, "CMYK").resize((170, 105), 0), "JPEG", quality=100),
        INK.repeat(5, 0).repeat(5, 1),
        9,
    ),
    "l.jpg": (saved(Image.fromarray(GREYS), "JPEG", quality=100), grey(GREYS), 2),
    "i16.tif": (tiff(DEEP), grey(DEEP >> 8), 0),
    "i16_big_endian.tif": (tiff(DEEP.astype(">u2")), grey(DEEP >> 8), 0),
    "i16_lzw.tif": (tiff(DEEP, compression="tiff_lzw"), grey(DEEP >> 8), 0),
    "i16_white_is_zero.tif": (tiff(DEEP, tags={262: 0}), grey(255 - (DEEP >> 8)), 0),
    "i12.tif": (twelve_bits(), grey(DEEP >> 8), 0),
    "i.tif": (tiff(SIGNED), grey(own_range(SIGNED)), 0),
    "i_unsigned.tif": (
        tiff(SIGNED, tags={339: 1}),
        grey(own_range(SIGNED.view(np.uint32))),
        0,
    ),
    "i_constant.tif": (tiff(np.full(SIZE, 7, np.int32)), np.zeros((*SIZE, 3)), 0),
    "f.tif": (tiff(FLOATS), grey(own_range(FLOATS)), 0),
    "f_small.tif": (tiff(FLOATS * np.float32(1e-9)), grey(own_range(FLOATS)), 1),
    "f_huge.tif": (tiff(FLOATS * np.float32(1e36)), grey(own_range(FLOATS)), 1),
    "f_white_is_zero.tif": (tiff(FLOATS, tags={262: 0}), grey(255 - own_range(FLOATS)), 0),
    "f_holes.tif": (tiff(holed(FLOATS)), grey(own_range_holed(FLOATS)), 0),
    "f_nothing.tif": (tiff(np.full(SIZE, np.nan, np.float32)), np.zeros((*SIZE, 3)), 0),
    "f_constant.tif": (tiff(np.full(SIZE, 0.5, np.float32)), np.zeros((*SIZE, 3)), 0),
    "rgb.heic": (encoded(COLOURS, "HEIF"), COLOURS, 2),
    "rgba.heic": (encoded(np.dstack([COLOURS, ALPHA]), "HEIF"), white(COLOURS, ALPHA), 3),
    "l.heic": (encoded(GREYS, "HEIF"), grey(GREYS), 1),
    "rgb.avif": (encoded(COLOURS, "AVIF"), COLOURS, 4),
    "rgba.avif": (encoded(np.dstack([COLOURS, ALPHA]), "AVIF"), white(COLOURS, ALPHA), 5),
    "l.avif": (encoded(GREYS, "AVIF"), grey(GREYS), 3),
}


def assert_shows(shown: np.ndarray, right: np.ndarray, most: float = 0) -> None:
    assert shown.dtype == np.uint8
    assert shown.shape == right.shape
    assert np.abs(shown - right.astype(np.float64)).max() <= most


@pytest.mark.parametrize("name", KINDS)
def test_kinds_of_pixels(name, tmp_path):
    data, right, most = KINDS[name]
    path = tmp_path / name
    path.write_bytes(data)
    # Formulas round once, libraries in steps.
    assert_shows(read_still(path), right, most + 0.5)


SATURATION = np.dstack([GREYS, np.zeros(SIZE, np.uint8), ALPHA])
NEUTRAL = np.dstack([GREYS, np.full(SIZE, 128, np.uint8), np.full(SIZE, 128, np.uint8)])
LIGHTNESS = GREYS / 255 * 100
LINEAR = np.where(LIGHTNESS > 8, ((LIGHTNESS + 16) / 116) ** 3, LIGHTNESS / 903.3)
SRGB = np.where(LINEAR <= 0.0031308, 12.92 * LINEAR, 1.055 * LINEAR ** (1 / 2.4) - 0.055) * 255
MULTIPLIED = (COLOURS * (ALPHA[..., None] / 255)).astype(np.uint8)
# Modes that no file of ours has, or none that every Pillow writes and reads.
MODES = {
    "YCbCr": (CHROMA, JFIF.clip(0, 255), 1),
    "HSV": (SATURATION, grey(ALPHA), 0),
    "LAB": (NEUTRAL ^ np.array([0, 128, 128], np.uint8), grey(SRGB), 2),
    "La": (np.dstack([MULTIPLIED[..., 0], ALPHA]), grey(MULTIPLIED[..., 0] + 255.0 - ALPHA), 0),
    "RGBa": (np.dstack([MULTIPLIED, ALPHA]), MULTIPLIED + 255.0 - ALPHA[..., None], 0),
    "RGBX": (np.dstack([COLOURS, ALPHA]), COLOURS, 0),
    "I;16": (DEEP, grey(DEEP >> 8), 0),
    "I;16L": (DEEP, grey(DEEP >> 8), 0),
    "I;16B": (DEEP.byteswap(), grey(DEEP >> 8), 0),
    "I;16N": (DEEP, grey(DEEP >> 8), 0),
}


@pytest.mark.parametrize("mode", MODES)
def test_modes(mode):
    values, right, most = MODES[mode]
    image = Image.frombytes(mode, SIZE[::-1], values.tobytes())
    assert_shows(rgb_on_white(image), right, most + 0.5)


def test_a_palette_with_a_band_of_alpha():
    image = Image.frombytes("PA", SIZE[::-1], np.dstack([LOW_INDICES, ALPHA]).tobytes())
    image.putpalette(ENTRIES.tobytes())
    assert_shows(rgb_on_white(image), white(ENTRIES[LOW_INDICES], ALPHA), 0.5)


def test_a_bitmap_whose_alpha_nobody_filled_in():
    empty = np.dstack([COLOURS, np.zeros(SIZE, np.uint8)])
    for alpha, right in ((empty, COLOURS), (np.dstack([COLOURS, ALPHA]), white(COLOURS, ALPHA))):
        image = Image.fromarray(alpha)
        image.format = "BMP"
        assert_shows(rgb_on_white(image), right, 0.5)


# Where the pixel in row y and column x of the upright picture is stored; sizes are those stored.
STORED = {
    1: lambda y, x, h, w: (y, x),
    2: lambda y, x, h, w: (y, w - 1 - x),
    3: lambda y, x, h, w: (h - 1 - y, w - 1 - x),
    4: lambda y, x, h, w: (h - 1 - y, x),
    5: lambda y, x, h, w: (x, y),
    6: lambda y, x, h, w: (h - 1 - x, y),
    7: lambda y, x, h, w: (h - 1 - x, w - 1 - y),
    8: lambda y, x, h, w: (x, w - 1 - y),
}
# Even sizes, in blocks that coding with loss keeps.
BLOCKS = RANDOM.integers(0, 256, (3, 5, 3), dtype=np.uint8).repeat(16, 0).repeat(16, 1)
TURNED = {
    "JPEG": ("jpg", {"quality": 100, "subsampling": 0}, 3),
    "PNG": ("png", {}, 0),
    "WEBP": ("webp", {"lossless": True}, 0),
    "TIFF": ("tif", {}, 0),
    "TIFF, packed": ("tif", {"compression": "tiff_lzw"}, 0),
    "HEIF": ("heic", {"quality": -1, "chroma": 444}, 3),
    "AVIF": ("avif", {"quality": 100, "subsampling": "4:4:4", "speed": 10}, 4),
}


def turned(stored: np.ndarray, orientation: int) -> np.ndarray:
    h, w = stored.shape[:2]
    size = (w, h) if orientation > 4 else (h, w)
    y, x = np.indices(size)
    return stored[STORED[orientation](y, x, h, w)]


@pytest.mark.parametrize("orientation", STORED)
@pytest.mark.parametrize("form", TURNED)
def test_orientations(form, orientation, tmp_path):
    ending, how, most = TURNED[form]
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"turned.{ending}"
    Image.fromarray(BLOCKS).save(path, form.split(",")[0], exif=exif.tobytes(), **how)
    assert_shows(read_still(path), turned(BLOCKS, orientation), most)


@pytest.mark.parametrize("orientation", [3, 6, 7])
@pytest.mark.parametrize(("values", "right"), [(DEEP, DEEP >> 8), (FLOATS, own_range(FLOATS))])
def test_orientations_of_deep_pictures(values, right, orientation, tmp_path):
    path = tmp_path / "deep.tif"
    path.write_bytes(tiff(values, tiffinfo={274: orientation}))
    assert_shows(read_still(path), turned(grey(right), orientation))


def test_ten_bits_of_a_phone(tmp_path):
    path = tmp_path / "ten.heic"
    values = BLOCKS.astype("<u2") << 8
    image = pillow_heif.from_bytes("RGB;16", BLOCKS.shape[1::-1], values.tobytes())
    image.save(path, quality=-1, chroma=444)
    assert pillow_heif.open_heif(path, convert_hdr_to_8bit=False).info["bit_depth"] == 10
    assert_shows(read_still(path), BLOCKS, 2)


@pytest.mark.parametrize("form", ["HEIF", "AVIF"])
@pytest.mark.parametrize(("rows", "columns", "turns"), [(2, 2, 0), (2, 3, 1), (1, 2, 3)])
def test_tiles_are_put_together(form, rows, columns, turns, tmp_path):
    """As phones store photos; the last tiles are larger than what is seen of them."""
    blocks = RANDOM.integers(0, 256, (10, 14, 3), dtype=np.uint8).repeat(15, 0).repeat(15, 1)
    path = tmp_path / f"photo.{form.lower()}"
    path.write_bytes(grid(blocks, form, rows, columns, turns=turns))
    assert_shows(read_still(path), np.rot90(blocks, turns), 4)


def test_a_jpeg_of_several_pictures_is_its_first(tmp_path):
    """Stereo cameras and bursts; the others are the other eye's, or smaller."""
    path = tmp_path / "stereo.jpg"
    others = [Image.fromarray(BLOCKS[::-1].copy()), Image.fromarray(BLOCKS[:16, :16].copy())]
    options = {"save_all": True, "append_images": others, "quality": 100, "subsampling": 0}
    Image.fromarray(BLOCKS).save(path, "MPO", **options)
    assert_shows(read_still(path), BLOCKS, 3)


def test_a_tiff_whose_first_page_is_a_small_copy(tmp_path):
    """And one whose second is: neither is a video of two pages."""
    small, full = Image.fromarray(BLOCKS[::4, ::4].copy()), Image.fromarray(BLOCKS)
    for name, pages, kinds in [("a", [small, full], [1, 0]), ("b", [full, small], [0, 1])]:
        path = Path(tmp_path, f"{name}.tif")
        pages[0].save(path, save_all=True, append_images=pages[1:])
        data = bytearray(path.read_bytes())
        _set_page_kinds(data, kinds)
        path.write_bytes(data)
        assert_shows(read_still(path), BLOCKS)


def test_a_page_behind_a_small_copy_may_be_too_large(tmp_path):
    path = tmp_path / "bomb.tif"
    small, full = Image.fromarray(BLOCKS[::4, ::4].copy()), Image.fromarray(BLOCKS)
    small.save(path, save_all=True, append_images=[full])
    data = bytearray(path.read_bytes())
    _set_page_kinds(data, [1, 0])
    at = data.rindex(struct.pack("<HHI", 256, 4, 1))
    struct.pack_into("<I", data, at + 8, 2**24)
    path.write_bytes(data)
    with pytest.raises(VideoError, match=r"at most \d+ pixels; scale it down"):
        read_still(path)


def _set_page_kinds(data: bytearray, kinds: list[int]) -> None:
    """Say of each page what it is, in place of how its bits are ordered or its resolution."""
    at = struct.unpack_from("<I", data, 4)[0]
    for kind in kinds:
        count = struct.unpack_from("<H", data, at)[0]
        entries = [bytes(data[at + 2 + 12 * n : at + 14 + 12 * n]) for n in range(count)]
        # The planar configuration is as is usual, and may be left out.
        entries = [entry for entry in entries if entry[:2] != struct.pack("<H", 284)]
        entries = sorted([struct.pack("<HHII", 254, 4, 1, kind), *entries], key=lambda e: e[1::-1])
        assert len(entries) == count
        data[at + 2 : at + 2 + 12 * count] = b"".join(entries)
        at = struct.unpack_from("<I", data, at + 2 + 12 * count)[0]
