"""Picture files: told from videos by their first bytes, turned as their camera says.

Only the decoder process runs this.
"""

from typing import BinaryIO

import numpy as np
from PIL import Image, ImageOps

from spava_app.engine.video.media_file import fail
from spava_app.engine.video.picture_formats import FORMATS
from spava_app.engine.video.source import MOST_PIXELS
from spava_app.errors import raise_fault

Image.MAX_IMAGE_PIXELS = MOST_PIXELS // 2  # a warning; twice as many are refused
_TURNED = range(5, 9)  # values of the orientation tag that swap the sides
_ORIENTATION = 0x0112
_DAMAGED = "this picture is damaged; copy or convert it again"


def picture_size(file: BinaryIO, path: str) -> tuple[int, int] | None:
    """(height, width) of a picture as displayed, or None where the file is something else.

    Args:
        file: at its start.
        path: for messages.

    Raises:
        VideoError: its picture is too large.
    """
    try:
        with Image.open(file, formats=tuple(FORMATS)) as picture:
            width, height = picture.size
    except Image.DecompressionBombError:
        fail(path, f"a picture may have at most {MOST_PIXELS} pixels; scale it down")
    except (OSError, SyntaxError, ValueError, TypeError, KeyError, EOFError) as error:
        raise_fault(error)
        return None  # damaged beyond telling: no video either, as will be said
    try:
        with Image.open(file, formats=tuple(FORMATS)) as picture:
            turned = picture.getexif().get(_ORIENTATION) in _TURNED
    except Exception as error:  # noqa: BLE001 (damage shows as any of many errors)
        raise_fault(error)
        fail(path, _DAMAGED)
    return (width, height) if turned else (height, width)


def read_picture(file: BinaryIO, path: str) -> np.ndarray:
    """The picture, `[height, width, 3]` uint8 RGB; arguments as for `picture_size`.

    Raises:
        VideoError: it cannot be read whole.
    """
    try:
        with Image.open(file, formats=tuple(FORMATS)) as picture:
            return np.asarray(ImageOps.exif_transpose(picture).convert("RGB"))
    except MemoryError:
        raise
    except Exception as error:  # noqa: BLE001 (damage shows as any of many errors)
        raise_fault(error)
        fail(path, _DAMAGED)
