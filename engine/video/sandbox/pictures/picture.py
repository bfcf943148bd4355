"""Picture files: told from videos by their first bytes, turned as their camera says, on white.

h, w = height and width as displayed. Only the decoder process runs this. All that decoding needs is
loaded with this module: later on no file but the picture itself is opened.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, BinaryIO, NoReturn

import numpy as np
from PIL import (
    AvifImagePlugin,
    BmpImagePlugin,
    Image,
    JpegImagePlugin,
    MpoImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)
from pillow_heif import register_heif_opener

from spava_app.engine.video.media_file import fail
from spava_app.engine.video.picture_formats import FORMATS, MOST_PIXELS
from spava_app.engine.video.sandbox.pictures.on_white import rgb_on_white
from spava_app.engine.video.sandbox.pictures.signature import is_cut_short, picture_format
from spava_app.engine.video.sandbox.pictures.spans import TooManyPictures, check_count
from spava_app.errors import VideoError, raise_fault

_ORIENTATION, _WIDTH, _LENGTH = 0x0112, 0x0100, 0x0101
# What a page of a TIFF is (a smaller copy, a mask), and what hangs on it.
_PAGE_KIND, _SUB_PAGES, _COPY_OR_MASK = 0x00FE, 0x014A, 1 | 4
# Where a bitmap's header begins, and in it the mask of alpha; lengths of headers that have one.
_BMP_HEADER, _BMP_MASK, _BMP_LAST_BYTE = 14, 52, b"\0\0\0\xff"
_BMP_WITH_MASK = [size.to_bytes(4, "little") for size in (56, 108, 124)]
_TURNED = range(5, 9)  # values of the orientation tag that swap the sides
_SEQUENCE = "this is a HEIF image sequence, which is not read; convert it to an mp4 or to pictures"
_RAW = "of this camera file only a small copy would be read; convert it to JPEG or PNG"

Image.preinit()  # else Pillow loads some others on the way
# Each registers what it opens.
_PLUGINS = (BmpImagePlugin, JpegImagePlugin, MpoImagePlugin, PngImagePlugin, TiffImagePlugin)
_PLUGINS += (WebPImagePlugin, AvifImagePlugin)
# Only the picture itself: what else a file holds is not looked at.
register_heif_opener(thumbnails=False, depth_images=False, aux_images=False, decode_threads=2)
AvifImagePlugin.DEFAULT_MAX_THREADS = 2
Image.MAX_IMAGE_PIXELS = MOST_PIXELS // 2  # a warning; twice as many are refused


def open_picture(file: BinaryIO, name: str) -> Image.Image | None:
    """The picture, of which no more than the header is read, or None for something else.

    Args:
        name: of the file, for messages.

    Raises:
        VideoError: it is a picture, and too large, damaged or of a kind that is not read.
    """
    form = picture_format(file)
    if form is None:
        return None
    if form not in FORMATS:
        fail(name, _SEQUENCE)
    if form == "HEIF" and is_cut_short(file):
        fail_damaged(name, form)
    file.seek(0)
    with damage_told(name, form):
        try:
            image = Image.open(file, formats=(form,))
        except OSError:
            if form == "BMP":
                return None  # of two letters that any text may begin with
            raise
        if isinstance(image, WebPImagePlugin.WebPImageFile):
            # A file may say that it has no alpha and yet draw on a part of its canvas only. The
            # library tells what is seen through; Pillow would leave it out, and black be seen.
            image.rawmode = image._mode = "RGBA"
        if isinstance(image, BmpImagePlugin.BmpImageFile):
            _keep_alpha(image, file)
        if isinstance(image, TiffImagePlugin.TiffImageFile):
            image._frame_pos = _PagePlaces(image._frame_pos)
            _to_first_page(image, name)
        return image


def picture_size(file: BinaryIO, name: str) -> tuple[int, int] | None:
    """(h, w) of a picture, or None where the file is something else.

    Raises:
        VideoError: as `open_picture`.
    """
    image = open_picture(file, name)
    if image is None:
        return None
    with damage_told(name, image.format):
        return upright_size(image, name)


def read_picture(file: BinaryIO, name: str, shape: tuple[int, int]) -> np.ndarray:
    """The picture, `[h, w, 3]` uint8 RGB.

    Args:
        shape: (h, w) that `picture_size` told.

    Raises:
        VideoError: it cannot be read whole, or has another size.
    """
    image = open_picture(file, name)
    if image is None:
        fail(name, "this is no picture any more; ask again")
    with damage_told(name, image.format):
        pixels = upright(rgb_on_white(image), orientation(image))
    check_shape(pixels, shape, name)
    return pixels


def upright_size(image: Image.Image, name: str) -> tuple[int, int]:
    """(h, w) of an opened picture that is not loaded yet.

    Raises:
        VideoError: it is too large.
        Exception: whatever Pillow raises for damage.
    """
    width, height = image.size
    if image.format == "TIFF":  # whose size Pillow may or may not have turned already
        tags = _tags(image)
        width, height = tags[_WIDTH], tags[_LENGTH]
        turned = tags.get(_ORIENTATION) in _TURNED
    else:
        turned = orientation(image) in _TURNED
    if not 0 < width * height <= MOST_PIXELS:
        _fail_large(name)
    return (width, height) if turned else (height, width)


def orientation(image: Image.Image) -> int:
    """How a loaded picture is still to be turned, as the tag of cameras says it, 1 to 8. Where a
    library has turned it already it takes the tag away.
    """
    return image.getexif().get(_ORIENTATION, 1)


def is_copy(image: Image.Image) -> bool:
    """Whether this page of a TIFF is a smaller copy or a mask of another."""
    return bool(_tags(image).get(_PAGE_KIND, 0) & _COPY_OR_MASK)


def upright(pixels: np.ndarray, turn: int) -> np.ndarray:
    """A picture `[rows, columns, 3]` turned and mirrored by the value of its orientation tag."""
    match turn:
        case 2:
            return pixels[:, ::-1]
        case 3:
            return pixels[::-1, ::-1]
        case 4:
            return pixels[::-1]
        case 5:
            return pixels.transpose(1, 0, 2)
        case 6:
            return np.rot90(pixels, -1)
        case 7:
            return pixels[::-1, ::-1].transpose(1, 0, 2)
        case 8:
            return np.rot90(pixels)
    return pixels


def check_shape(pixels: np.ndarray, shape: tuple[int, int], name: str) -> None:
    """Raise `VideoError` if a picture is not as large as its header said."""
    height, width = pixels.shape[:2]
    if (height, width) != tuple(shape):
        told = f"{shape[1]}x{shape[0]}"
        fail(name, f"its header tells {told} pixels, it has {width}x{height}; convert it to PNG")


@contextmanager
def damage_told(name: str, form: str | None) -> Iterator[None]:
    """What a library raises in the `with` block for a damaged picture becomes a `VideoError`."""
    try:
        yield
    except (MemoryError, VideoError):
        raise
    except Image.DecompressionBombError:
        _fail_large(name)
    except TooManyPictures as error:
        fail(name, f"it has {error}; make it a video")
    except Exception as error:  # noqa: BLE001 (damage shows as any of many errors)
        raise_fault(error)
        fail_damaged(name, form)


def fail_damaged(name: str, form: str | None) -> NoReturn:
    """Raise the `VideoError` for a picture that cannot be read."""
    what = f"this {form} picture is damaged, or of a kind that is not read"
    fail(name, f"{what}; copy it again or convert it to PNG")


def _keep_alpha(image: BmpImagePlugin.BmpImageFile, file: BinaryIO) -> None:
    """Of a bitmap whose header has a mask for it; Pillow looks at that only where a field of the
    header says that there are masks. Without one the fourth byte is nobody's.
    """
    file.seek(_BMP_HEADER)
    header = file.read(_BMP_MASK + 4)
    size, mask = header[:4], header[_BMP_MASK:]
    tile = image.tile[0]
    raw, *layout = tile.args or ("",)
    if raw == "BGRX" and size in _BMP_WITH_MASK and mask == _BMP_LAST_BYTE:
        image._mode = "RGBA"
        image.tile = [tile._replace(args=("BGRA", *layout))]


class _PagePlaces(list[int]):
    """Where the pages begin that Pillow has come by. At each it asks whether it was there before,
    and a plain list compares all: of 99,000 pages that took 100 s.
    """

    def __init__(self, places: Iterable[int]) -> None:
        super().__init__(places)
        self._seen = set(self)

    def append(self, place: int) -> None:
        super().append(place)
        self._seen.add(place)

    def __contains__(self, place: object) -> bool:
        return place in self._seen


def _to_first_page(image: Image.Image, name: str) -> None:
    """To the first page that is no copy of another; where all are, to the first of those."""
    raw = is_copy(image) and _SUB_PAGES in _tags(image)
    try:
        while is_copy(image):
            check_count(image.tell() + 1)
            image.seek(image.tell() + 1)
    except EOFError:
        if raw:
            fail(name, _RAW)
        image.seek(0)


def _tags(image: Image.Image) -> Mapping[int, Any]:
    return image.tag_v2  # type: ignore[attr-defined]


def _fail_large(name: str) -> NoReturn:
    fail(name, f"a picture may have at most {MOST_PIXELS} pixels; scale it down")
