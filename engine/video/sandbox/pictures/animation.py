"""Pictures that follow each other in one file: animated WebP, PNG and AVIF, and pages of a TIFF.

They are a video: sampled, planned and told by time. Pages are shown for a second each, as a folder
of pictures is. One file is read from its start, or from a picture that needs none before it, and of
its pictures only the wanted are converted. A GIF is left to the library for videos.

h, w = height and width as displayed. Only the decoder process runs this.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import BinaryIO, Protocol

import numpy as np
from PIL import Image

from spava_app.engine.video.media_file import fail
from spava_app.engine.video.sandbox.pictures.apng import ApngPlayer, read_apng
from spava_app.engine.video.sandbox.pictures.on_white import rgb_on_white
from spava_app.engine.video.sandbox.pictures.picture import (
    check_shape,
    damage_told,
    fail_damaged,
    is_copy,
    open_picture,
    orientation,
    upright,
    upright_size,
)
from spava_app.engine.video.sandbox.pictures.signature import picture_format
from spava_app.engine.video.sandbox.pictures.spans import (
    SECOND,
    Spans,
    avif_spans,
    check_count,
    webp_spans,
)
from spava_app.engine.video.sandbox.pulse import Pulse


@dataclass(frozen=True)
class Animation:
    """The pictures of a file and when they are shown.

    Attributes:
        form: Pillow's name of the format.
        shape: (h, w) of all.
        spans: how long each stays.
        pages: Pillow's number of each.
    """

    form: str
    shape: tuple[int, int]
    spans: Spans
    pages: Sequence[int]

    @property
    def starts(self) -> np.ndarray:
        """When each is shown, `[N]` int64, microseconds."""
        return np.array([0, *accumulate(self.spans.lengths[:-1])], np.int64)


class _Player(Protocol):
    """Goes through pictures, mostly one after the other."""

    def advance(self, number: int) -> None: ...

    def picture(self) -> np.ndarray: ...


def find_animation(file: BinaryIO, name: str, pulse: Pulse) -> Animation | None:
    """What moves in a file, or None where there is one picture at most, or a video.

    Args:
        name: of the file, for messages.

    Raises:
        VideoError: it is damaged, has too many pictures, or pages of several sizes.
    """
    form = picture_format(file)
    with damage_told(name, form):
        spans = _spans(file, form)
        if form != "TIFF" and spans is None:
            return None
        image = open_picture(file, name)
        if image is None:
            return None
        if spans is None:
            return _find_pages(image, name, pulse)
        count = len(spans.lengths)
        if form != "PNG" and getattr(image, "n_frames", 1) != count:
            fail_damaged(name, form)
        return Animation(str(form), upright_size(image, name), spans, range(count))


class AnimationReader:
    """Pictures of an animation, by when they are shown.

    Args:
        file: is read as long as the reader is used, and closed with it.
        starts: when each wanted picture is shown, in microseconds; ascending ones are faster.
        shape: (h, w) that was told of them.
    """

    def __init__(
        self,
        file: BinaryIO,
        name: str,
        starts: Sequence[int],
        shape: tuple[int, int],
        pulse: Pulse,
    ) -> None:
        self._file, self._name, self._shape, self._pulse = file, name, shape, pulse
        found = find_animation(file, name, pulse)
        if found is None:
            fail(name, "nothing moves in this file any more; ask again")
        self._form = found.form
        self._numbers = np.searchsorted(found.starts, starts).tolist()
        self._keys = np.flatnonzero(found.spans.keys)
        self._player = _player(file, name, found)
        self._position = -1

    def read(self, frame: int, out: np.ndarray) -> bool:
        """Write a picture, by its place in what is wanted, into `out`: `[h, w, 3]` uint8.

        Raises:
            VideoError: it cannot be decoded.
        """
        number = self._numbers[frame]
        with damage_told(self._name, self._form):
            for step in range(self._next_towards(number), number + 1):
                self._pulse.beat()
                self._player.advance(step)
            self._position = number
            pixels = self._player.picture()
        check_shape(pixels, self._shape, self._name)
        np.copyto(out, pixels)
        return True

    def _next_towards(self, number: int) -> int:
        """The picture to draw next in order to see one: its nearest key, if not on the way."""
        key = int(self._keys[np.searchsorted(self._keys, number, side="right") - 1])
        return max(key, self._position + 1) if self._position <= number else key

    def close(self) -> None:
        self._file.close()


class _ImagePlayer:
    """Pictures that Pillow puts together itself."""

    def __init__(self, image: Image.Image, pages: Sequence[int]) -> None:
        self._image, self._pages = image, pages

    def advance(self, number: int) -> None:
        self._image.seek(self._pages[number])
        self._image.load()

    def picture(self) -> np.ndarray:
        return upright(rgb_on_white(self._image), orientation(self._image))


def _player(file: BinaryIO, name: str, found: Animation) -> _Player:
    image = open_picture(file, name)
    assert image is not None
    if found.form != "PNG":
        return _ImagePlayer(image, found.pages)
    turn = orientation(image)
    apng = read_apng(file)
    assert apng is not None
    return ApngPlayer(file, apng, turn)


def _spans(file: BinaryIO, form: str | None) -> Spans | None:
    match form:
        case "PNG":
            apng = read_apng(file)
            return apng and apng.spans
        case "WEBP":
            return webp_spans(file)
        case "AVIF":
            return avif_spans(file)
    return None


def _find_pages(image: Image.Image, name: str, pulse: Pulse) -> Animation | None:
    """The pages of a TIFF; copies and masks of them are none."""
    pages, number = [image.tell()], image.tell() + 1
    first = upright_size(image, name)
    while _seek(image, number):
        pulse.beat()
        check_count(number)
        if not is_copy(image):
            pages.append(number)
            if upright_size(image, name) != first:
                size = f"{first[1]}x{first[0]}"
                fail(name, f"its pages are not all {size} pixels like the first; resize them")
        number += 1
    spans = Spans([SECOND] * len(pages), [True] * len(pages))
    return Animation("TIFF", first, spans, pages) if len(pages) > 1 else None


def _seek(image: Image.Image, number: int) -> bool:
    try:
        image.seek(number)
    except EOFError:
        return False
    return True
