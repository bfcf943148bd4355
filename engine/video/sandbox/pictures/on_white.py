"""Every kind of picture as 8-bit RGB on white: each of Pillow's modes has its own treatment.

    1, L, P, RGB, RGBX      as they are; a transparent palette entry or colour is white
    LA, PA, RGBA            composited over white
    La, RGBa                the same, of colours that are already multiplied by their alpha
    CMYK, YCbCr, LAB, HSV   converted by Pillow; profiles that a file brings are not applied
    I;16 and its variants   the high byte: the full range of the format is 0 to 255
    I, F                    the picture's own range is 0 to 255; one value only is black, as is NaN

h, w = height and width, C = 1 or 3 colours. Only the decoder process runs this.
"""

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageCms

__all__ = ["Layer", "blend", "layer_of", "rgb_on_white"]

assert ImageCms  # Pillow would load it when it converts LAB, and then no file may be opened
# Rows whose intermediate results are held at a time, in pixels.
_STRIP_PIXELS = 2**20
_BY_PILLOW = ("CMYK", "YCbCr", "LAB", "HSV")
# TIFF tags, and what they say.
_BITS, _PHOTOMETRIC, _SAMPLE_FORMAT = 258, 262, 339
_WHITE_IS_ZERO, _UNSIGNED = 0, 1


@dataclass(frozen=True)
class _Stored:
    """What is known of the numbers in the file, and forgotten once Pillow has read them.

    Attributes:
        raw: Pillow's name of their layout, such as "L;2" or "RGB;16B".
        bits: of a number, by a TIFF.
        inverted: the lowest number is white.
        unsigned: they are whole and none is negative, though Pillow takes 32 bits so.
    """

    raw: str = ""
    bits: int = 16
    inverted: bool = False
    unsigned: bool = False


@dataclass(frozen=True)
class Layer:
    """A picture before it is laid on something.

    Attributes:
        colour: `[h, w, C]` uint8.
        alpha: `[h, w]` uint8, 255 where nothing is seen through it; None where that is everywhere.
        premultiplied: `colour` is multiplied by its alpha already.
    """

    colour: np.ndarray
    alpha: np.ndarray | None = None
    premultiplied: bool = False

    def over(self, under: np.ndarray | int) -> np.ndarray:
        """The layer over a picture `[h, w, 3]` or over one grey: `[h, w, 3]` uint8."""
        colour = self.colour
        if colour.shape[2] != 3 and not isinstance(under, int):
            colour = np.repeat(colour, 3, axis=2)
        if self.alpha is not None:
            colour = blend(colour, self.alpha, under, premultiplied=self.premultiplied)
        return colour if colour.shape[2] == 3 else np.repeat(colour, 3, axis=2)


def rgb_on_white(image: Image.Image) -> np.ndarray:
    """The pixels of a picture, `[h, w, 3]` uint8, as stored: not turned.

    Raises:
        Exception: whatever Pillow raises for a picture that cannot be read whole.
    """
    return layer_of(image).over(255)


def layer_of(image: Image.Image) -> Layer:
    """The pixels of a picture and what is seen through them.

    Raises:
        Exception: whatever Pillow raises for a picture that cannot be read whole.
    """
    stored = _stored(image)
    image.load()
    if image.mode in _BY_PILLOW:
        return Layer(np.asarray(image.convert("RGB")))
    if image.mode in ("P", "PA"):
        return _from_palette(image)
    values = np.asarray(image)
    alpha = None
    if image.mode in ("LA", "La", "RGBA", "RGBa"):
        values, alpha = values[..., :-1], values[..., -1]
        if image.format == "BMP" and not alpha.any():
            alpha = None  # a field that most programs leave empty
        elif alpha.min() == 255:
            alpha = None  # which is the same, and faster
    elif (key := image.info.get("transparency")) is not None:
        alpha = _key_alpha(values, key, image.mode, stored.raw)
    colour = _bytes(values, image.mode, stored)
    colour = colour[..., None] if colour.ndim == 2 else colour[..., :3]
    return Layer(colour, alpha, premultiplied=image.mode in ("La", "RGBa"))


def blend(
    top: np.ndarray, alpha: np.ndarray, under: np.ndarray | int, *, premultiplied: bool = False
) -> np.ndarray:
    """A picture over another or over one grey, rounded to the nearest.

    Args:
        top: `[h, w, C]` uint8.
        alpha: `[h, w]` uint8, 255 where nothing is seen through it.
        under: `[h, w, C]` uint8, or a value for all.
        premultiplied: `top` is multiplied by its alpha already.
    """
    out = np.empty(top.shape, np.uint8)
    for rows in _strips(alpha):
        share = alpha[rows, :, None].astype(np.uint16)
        below = under if isinstance(under, int) else under[rows]
        below = (255 - share) * below
        if premultiplied:
            mixed = np.minimum(top[rows] + (below + 127) // 255, 255)
        else:  # at most 255 * 255 + 127, which is below 2**16
            mixed = (top[rows] * share + below + 127) // 255
        out[rows] = mixed
    return out


def _stored(image: Image.Image) -> _Stored:
    tile = getattr(image, "tile", None)
    arguments = tile[0][3] if tile else ""
    raw = arguments if isinstance(arguments, str) else arguments[0] if arguments else ""
    tags = getattr(image, "tag_v2", None)
    if tags is None:
        return _Stored(raw)
    return _Stored(
        raw,
        bits=tags.get(_BITS, (16,))[0],
        inverted=tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO,
        unsigned=tags.get(_SAMPLE_FORMAT, (_UNSIGNED,))[0] == _UNSIGNED,
    )


def _from_palette(image: Image.Image) -> Layer:
    values = np.asarray(image)
    indices, alpha = (values[..., 0], values[..., 1]) if image.mode == "PA" else (values, None)
    palette = np.zeros((256, 4), np.uint8)
    palette[:, 3] = 255
    entries = np.array(image.getpalette("RGBA") or [], np.uint8).reshape(-1, 4)
    palette[: len(entries)] = entries[:256]
    transparency = image.info.get("transparency")
    if isinstance(transparency, bytes):
        palette[: len(transparency), 3] = np.frombuffer(transparency[:256], np.uint8)
    elif isinstance(transparency, int) and 0 <= transparency < 256:
        palette[transparency, 3] = 0
    if alpha is None and palette[:, 3].min() < 255:
        alpha = palette[indices, 3]
    return Layer(palette[indices, :3], alpha)


def _key_alpha(
    values: np.ndarray, key: int | tuple[int, ...], mode: str, raw: str
) -> np.ndarray | None:
    """0 where pixels have the one colour that a PNG calls transparent, else 255."""
    if mode == "RGB" and isinstance(key, tuple):
        # Of 16 bits only the high bytes are read: colours that share them are one.
        wanted = [part >> 8 if "16" in raw else part for part in key]
        return np.where((values == wanted).all(axis=2), 0, 255).astype(np.uint8)
    if not isinstance(key, int):
        return None
    if mode == "1":
        key = int(key > 0)
    elif mode == "L" and raw in ("L;2", "L;4"):  # the key is as stored, the pixels are scaled
        key = key * 255 // (2 ** int(raw[2:]) - 1)
    return np.where(values == key, 0, 255).astype(np.uint8)


def _bytes(values: np.ndarray, mode: str, stored: _Stored) -> np.ndarray:
    if mode == "1":
        return values.astype(np.uint8) * 255
    if values.dtype == np.uint8:
        return values
    if mode.startswith("I;16"):
        out = (values >> (stored.bits - 8)).astype(np.uint8)
    else:
        unsigned = mode == "I" and stored.bits == 32 and stored.unsigned
        out = _own_range(values.view(np.uint32) if unsigned else values)
    return 255 - out if stored.inverted else out


def _own_range(values: np.ndarray) -> np.ndarray:
    """The least finite number as 0, the greatest as 255, and what is none below or above them."""
    out = np.zeros(values.shape, np.uint8)
    strips = _strips(values)
    bounds = [
        (float(finite.min()), float(finite.max()))
        for rows in strips
        if (finite := values[rows][np.isfinite(values[rows])]).size
    ]
    low = min((low for low, _ in bounds), default=0.0)
    high = max((high for _, high in bounds), default=0.0)
    if low == high:
        return out
    for rows in strips:
        scaled = (values[rows].astype(np.float64) - low) * (255 / (high - low))
        out[rows] = np.nan_to_num(np.rint(scaled.clip(0, 255)), nan=0)
    return out


def _strips(picture: np.ndarray) -> list[slice]:
    height, width = picture.shape[:2]
    step = max(1, _STRIP_PIXELS // max(1, width))
    return [slice(first, first + step) for first in range(0, height, step)]
