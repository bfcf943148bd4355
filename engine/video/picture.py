"""Picture files: told from videos by their first bytes, turned as their camera says."""

from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from spava_app.engine.video.source import check_file, fail

# Formats of one picture; a GIF is a video.
_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF")
# As the limit of a video frame: beyond it a header is more likely a bomb than a picture.
_MAX_PIXELS = 2**28
_TURNED = range(5, 9)  # values of the orientation tag that swap the sides
_ORIENTATION = 0x0112


def picture_size(path: str | Path) -> tuple[int, int] | None:
    """(height, width) of a picture as displayed, or None where the file is something else.

    Raises:
        VideoError: there is no file to read, or its picture is too large.
    """
    check_file(path)
    try:
        with Image.open(path, formats=_FORMATS) as picture:
            width, height = picture.size
            turned = picture.getexif().get(_ORIENTATION) in _TURNED
    except Image.DecompressionBombError:
        fail(str(path), f"a picture may have at most {_MAX_PIXELS} pixels")
    except (UnidentifiedImageError, OSError):
        return None
    if width * height > _MAX_PIXELS:
        fail(str(path), f"a picture may have at most {_MAX_PIXELS} pixels")
    return (width, height) if turned else (height, width)


def read_picture(path: str | Path) -> np.ndarray:
    """The picture, `[height, width, 3]` uint8 RGB.

    Raises:
        VideoError: it cannot be read whole.
    """
    check_file(path)
    try:
        with Image.open(path, formats=_FORMATS) as picture:
            return np.array(ImageOps.exif_transpose(picture).convert("RGB"))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        fail(str(path), "this picture is damaged; copy or convert it again")
