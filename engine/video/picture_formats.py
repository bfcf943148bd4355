"""The formats and sizes of picture files, and the pictures of a folder by their names."""

import os
from pathlib import Path

from spava_app.engine.video.media_file import fail

# Of a frame or picture: 16384 x 8192. Beyond it a header is more likely a bomb than a picture.
MOST_PIXELS = 2**27
# Formats of pictures, and what their files are called; a GIF is a video.
FORMATS = {
    "PNG": (".png",),
    "JPEG": (".jpg", ".jpeg"),
    "WEBP": (".webp",),
    "BMP": (".bmp",),
    "TIFF": (".tif", ".tiff"),
    "HEIF": (".heic", ".heif"),
    "AVIF": (".avif",),
}
_ENDINGS = {ending for endings in FORMATS.values() for ending in endings}
_MOST_PICTURES = 100_000


def pictures_in(folder: str) -> list[str]:
    """The names of the pictures in a folder, in no order.

    Raises:
        VideoError: it may not be read, or holds none or too many.
    """
    try:
        found = [
            name
            for name in os.listdir(folder)
            if Path(name).suffix.lower() in _ENDINGS and not name.startswith(".")
        ]
    except OSError:
        fail(folder, "this folder may not be read; change its permissions")
    if not found:
        fix = "this is a folder without pictures; give a video file or a folder of pictures"
        fail(folder, fix)
    if len(found) > _MOST_PICTURES:
        fail(folder, f"this folder has more than {_MOST_PICTURES} pictures; make it a video")
    return found
