"""The libraries that can decode, behind one interface. Only the decoder process runs this."""

from importlib import import_module
from importlib.util import find_spec
from typing import Any, Protocol

import numpy as np

from spava_app.engine.media import FrameSource
from spava_app.engine.video.media_file import MediaFile, fail
from spava_app.engine.video.sandbox.files import Files
from spava_app.engine.video.sandbox.pictures.animation import AnimationReader
from spava_app.engine.video.sandbox.pictures.picture import read_picture
from spava_app.engine.video.sandbox.pulse import Pulse
from spava_app.engine.video.sandbox.reader import VideoReader
from spava_app.errors import InvalidInput, raise_fault


class Reader(Protocol):
    """Reads the frames of a source by their place in it."""

    def read(self, frame: int, out: np.ndarray) -> bool:
        """Write a frame into `out`; False where a neighbour had to stand in for it."""
        ...

    def close(self) -> None: ...


class PictureReader:
    """A picture file per frame, in their order."""

    def __init__(self, files: Files, shape: tuple[int, int]) -> None:
        self._files, self._shape = files, shape

    def read(self, frame: int, out: np.ndarray) -> bool:
        file = self._files.open_next()
        with file.open() as stream:
            np.copyto(out, read_picture(stream, file.path, self._shape))
        return True

    def close(self) -> None:
        pass


class OtherReader:
    """decord or torchcodec, by frame number: for comparison. They tell no damage."""

    def __init__(
        self, name: str, source: FrameSource, file: MediaFile, threads: int, pulse: Pulse
    ) -> None:
        if find_spec(name) is None:
            raise InvalidInput("decoder", name, f"is not installed: pip install {name}")
        self._source, self._pulse, self._name = source, pulse, name
        try:
            library = import_module("decord" if name == "decord" else "torchcodec.decoders")
        except (ImportError, OSError, RuntimeError) as error:  # a shared library it needs
            lacks = str(error.__cause__ or error).strip().split("\n")[0]
            fix = f"is installed but cannot be loaded ({lacks}); use the decoder pyav"
            raise InvalidInput("decoder", name, fix) from None
        try:
            if name == "decord":
                video = library.VideoReader(file.open(), num_threads=threads)
                self._get = lambda number: video[number].asnumpy()
            else:
                video = library.VideoDecoder(
                    file.open(), num_ffmpeg_threads=threads, dimension_order="NHWC"
                )
                self._get = lambda number: video.get_frame_at(number).data.numpy()
        except Exception as error:  # noqa: BLE001 (their errors have no common type)
            raise_fault(error)
            fail(source.name, f"{name} cannot open it; use the decoder pyav")

    def read(self, frame: int, out: np.ndarray) -> bool:
        self._pulse.beat()
        try:
            np.copyto(out, self._get(self._source.rows[frame]))
        except Exception as error:  # noqa: BLE001
            raise_fault(error)
            fail(self._source.name, f"{self._name} cannot decode it; use the decoder pyav")
        return True

    def close(self) -> None:
        self._get: Any = None


def open_reader(
    decoder: str, source: FrameSource, files: Files, threads: int, pulse: Pulse
) -> Reader:
    """The reader of a source and its files; `decoder` is of video files only.

    Raises:
        InvalidInput: no such decoder, or it is not installed.
        VideoError: the file cannot be opened.
    """
    if source.kind == "pictures":
        return PictureReader(files, source.shape)
    file = files.open_next()
    if source.kind == "animation":
        return AnimationReader(file.open(), source.name, source.rows, source.shape, pulse)
    if decoder == "pyav":
        return VideoReader(source, file, threads, pulse)
    return OtherReader(decoder, source, file, threads, pulse)
