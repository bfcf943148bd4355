"""What decoding loads when it first needs it, loaded while files can still be opened."""

from importlib import import_module
from pkgutil import walk_packages

import av
from PIL import Image

from spava_app.engine.video.picture_formats import FORMATS

# What names of files, tags and messages may be written in.
_ENCODINGS = [
    "ascii",
    "latin_1",
    "cp1252",
    "utf_8",
    "utf_8_sig",
    "utf_16",
    "utf_16_le",
    "utf_16_be",
    "utf_32",
    "idna",
]
# MPO is what Pillow makes of some JPEG files.
_PLUGINS = ["Avif", "Mpo", "Tiff", "WebP"]
# A program, and a downloader.
_NOT_OF_AV = {"av.__main__", "av.datasets"}


def preload(decoder: str) -> None:
    """Load it all; `decoder` as for `decode_frames`.

    Raises:
        Exception: what a library raises that is installed and cannot be loaded.
    """
    for name in _ENCODINGS:
        import_module(f"encodings.{name}")
    for module in walk_packages(av.__path__, "av."):
        if module.name not in _NOT_OF_AV:
            import_module(module.name)
    import_module("numpy.ma")  # by the median
    Image.preinit()
    for name in _PLUGINS:
        import_module(f"PIL.{name}ImagePlugin")
    if not FORMATS.keys() <= Image.OPEN.keys():
        Image.init()
    if decoder != "pyav":
        try:
            import_module("decord" if decoder == "decord" else "torchcodec.decoders")
        except ModuleNotFoundError as error:
            if error.name != decoder:  # else whoever asks for its frames is told
                raise
