"""Frames of arrays on their way to the ranks: in files without a name, in memory where the system
has such files.

They end with the last process that has them open, however it ends: of a driver that is killed
nothing is left. Ranks get descriptors over their control channels. N = frames, H, W = height and
width.
"""

import io
import mmap
import os
import tempfile
import weakref
from collections.abc import Iterator, Sequence
from typing import Self

import numpy as np
from torch import Tensor

from spava_app.engine.media import DESCRIPTORS, FrameSource, stamp
from spava_app.errors import InvalidInput, VideoError

# Larger than the header of any array of frames.
_HEADER = 4096


class ArrayFiles:
    """Files of this process, to be kept open for as long as their sources are used."""

    def __init__(self) -> None:
        self._files: list[int] = []
        self._give_up = weakref.finalize(self, _close, self._files)
        # The arrays are kept too: as long as they live, no other has their number.
        self._kept: dict[object, tuple[object, FrameSource]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give the files up; safe to call twice, and done with the object at the latest."""
        self._kept = {}
        self._give_up()

    def source(self, frames: np.ndarray | Tensor, chosen: Sequence[int]) -> FrameSource:
        """The chosen frames of an array `[N, H, W, 3]` or `[N, 3, H, W]`, written down once as long
        as they stay what they are.

        Raises:
            InvalidInput: there is no room for them.
        """
        key = (id(frames), tuple(chosen))
        if (before := self._kept.get(key)) is not None:
            found = before[1]
            written = open_array(found)
            if all(map(np.array_equal, written, _pictures(frames, chosen))):
                return found
        source = self._write(frames, chosen)
        self._kept[key] = (frames, source)
        return source

    def _write(self, frames: np.ndarray | Tensor, chosen: Sequence[int]) -> FrameSource:
        height, width, depth = next(_pictures(frames, chosen)).shape
        shape = (len(chosen), height, width, depth)
        try:
            file = _nameless()
            self._files.append(file)
            with open(file, "wb", closefd=False) as out:
                header = {"descr": "|u1", "fortran_order": False, "shape": shape}
                np.lib.format.write_array_header_1_0(out, header)
                for picture in _pictures(frames, chosen):
                    out.write(np.ascontiguousarray(picture).data)
        except OSError as error:
            size = f"{np.prod(shape) / 2**20:.0f} MiB of frames"
            fix = f"there is no room for {size} ({error.strerror}): look at fewer frames"
            raise InvalidInput("video", "an array of frames", fix) from None
        seen = stamp(os.fstat(file))
        return FrameSource(
            "array", (f"{DESCRIPTORS}{file}",), (seen,), shape[1:3], tuple(range(shape[0]))
        )


def descriptors(sources: Sequence[FrameSource]) -> list[int]:
    """The files of those that are arrays, in their order."""
    return [_descriptor(source) for source in sources if source.kind == "array"]


def open_array(source: FrameSource) -> np.ndarray:
    """The frames of a source, uint8 `[N, H, W, 3]`, mapped and not read.

    Raises:
        VideoError: its file was given up.
    """
    try:
        file = _descriptor(source)
        if stamp(os.fstat(file)) != source.stamps[0]:
            raise ValueError  # its number is another's now
        mapped = mmap.mmap(file, 0, prot=mmap.PROT_READ)
        header = io.BytesIO(mapped[:_HEADER])
        np.lib.format.read_magic(header)
        shape, *_ = np.lib.format.read_array_header_1_0(header)
        return np.frombuffer(mapped, np.uint8, offset=header.tell()).reshape(shape)
    except (OSError, ValueError):
        raise VideoError("video", "an array of frames", "it is gone; ask again") from None


def _close(files: list[int]) -> None:
    while files:
        os.close(files.pop())


def _descriptor(source: FrameSource) -> int:
    return int(source.name.removeprefix(DESCRIPTORS))


def _pictures(frames: np.ndarray | Tensor, chosen: Sequence[int]) -> Iterator[np.ndarray]:
    """The chosen frames one by one, `[H, W, 3]`."""
    for frame in chosen:
        picture = frames[frame]
        plain = picture.detach().cpu().numpy() if isinstance(picture, Tensor) else picture
        yield plain if frames.shape[3] == 3 else plain.transpose(1, 2, 0)


def _nameless() -> int:
    """A file that only this process sees."""
    if hasattr(os, "memfd_create"):
        return os.memfd_create("spava-frames")
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())
