"""What a file that a user names is: its path, and what the decoder process learns from headers,
packets and one frame.
"""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit
from urllib.request import url2pathname

import numpy as np

from spava_app.engine.media import FrameSource, Stamp
from spava_app.engine.video.decoder_process import decoder_process
from spava_app.engine.video.frame_index import FrameIndex
from spava_app.engine.video.media_file import is_folder
from spava_app.engine.video.picture_formats import MOST_PIXELS, pictures_in
from spava_app.errors import VideoError

# Reading the packets of hours of video from a slow disk; a process that hangs is noticed earlier.
LOOK_SECONDS = 600.0
# What a decoder process may have told of a file, in characters and in number.
_LONGEST_NOTE, _MOST_NOTES = 300, 10
# Two letters at least: C: is a drive.
_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://|data:")


@dataclass(frozen=True, eq=False)
class VideoInfo:
    """A readable video.

    Attributes:
        path: the file.
        width, height: pixels as displayed: upright, and square.
        duration: seconds, from the first frame's start to the last frame's end.
        fps: frames per second on average; the true spacing is in `index`.
        codec: the decoder's name, such as "h264".
        index: when each frame is shown, and from where it can be decoded.
        stamp: what the file was when it was looked at.
        stream: which stream of the container, as it numbers them.
        orientation: how stored pictures are turned and mirrored; see `orientation`.
        cards: whether it is a video of `cards`, told by the comment in its container.
        notes: what a user should know of it, as sentences.
        kind: what reads it; an animation is pictures in one file, such as an animated WebP.
    """

    path: str
    width: int
    height: int
    duration: float
    fps: float
    codec: str
    index: FrameIndex
    stamp: Stamp = (0, 0)
    stream: int = 0
    orientation: int = 0
    cards: bool = False
    notes: tuple[str, ...] = ()
    kind: Literal["video", "animation"] = "video"

    @property
    def num_frames(self) -> int:
        """Frames in the whole video."""
        return len(self.index)

    def source(self, frames: Sequence[int]) -> FrameSource:
        """What it takes to read these frames, given by their numbers in the index."""
        return FrameSource(
            kind=self.kind,
            paths=(self.path,),
            stamps=(self.stamp,),
            shape=(self.height, self.width),
            rows=tuple(self.index.stamps[list(frames)].tolist()),
            seeks=tuple(map(self.index.seeks, frames)),
            by_bytes=self.index.by_bytes,
            counted=self.index.counted,
            stream=self.stream,
            orientation=self.orientation,
        )


@dataclass(frozen=True)
class PictureInfo:
    """A readable picture file, (height, width) as displayed."""

    path: str
    shape: tuple[int, int]
    stamp: Stamp

    def source(self) -> FrameSource:
        """What it takes to read it."""
        return FrameSource("pictures", (self.path,), (self.stamp,), self.shape, (0,))


@dataclass(frozen=True)
class FolderInfo:
    """A folder and the names of its picture files, in no order."""

    path: str
    names: tuple[str, ...]


def look_at(path: str | Path) -> VideoInfo | PictureInfo | FolderInfo:
    """Look at a path: at a file in the decoder process, and at a folder's names here.

    Raises:
        VideoError: there is nothing that can be read, or it takes too long.
    """
    given, path = path, local_path(path)
    with as_given([given], [path]):
        if is_folder(path):
            return FolderInfo(path, tuple(pictures_in(path)))
        with decoder_process() as process:
            process.ask([path], {"look": path}, seconds=LOOK_SECONDS)
            facts, payload = process.answer()
            with process.checked():
                if facts["kind"] == "picture":
                    return PictureInfo(path, _shape(facts["shape"]), _stamp(facts["stamp"]))
                return _video(path, facts, payload)


def picture_files(given: Sequence[str | Path]) -> list[PictureInfo]:
    """Look at several picture files.

    Raises:
        VideoError: one of them is none.
    """
    paths = [local_path(one) for one in given]
    with as_given(given, paths), decoder_process() as process:
        process.ask(paths, {"shapes": paths}, seconds=LOOK_SECONDS)
        facts, _ = process.answer()
        with process.checked():
            shapes, stamps = map(_shape, facts["shapes"]), map(_stamp, facts["stamps"])
            found = zip(paths, shapes, stamps, strict=True)
            return [PictureInfo(path, shape, stamp) for path, shape, stamp in found]


def probe(path: str | Path) -> VideoInfo:
    """Look at a video file.

    Raises:
        VideoError: there is no readable video with at least one frame at `path`.
    """
    info = look_at(path)
    if isinstance(info, VideoInfo):
        return info
    kind = "a folder" if isinstance(info, FolderInfo) else "a picture"
    raise VideoError("video", str(path), f"this is {kind}, not a video; give a video file")


def _shape(told: Any) -> tuple[int, int]:
    """Raises ValueError or TypeError unless it is (height, width) of a picture."""
    height, width = map(int, told)
    if height < 1 or width < 1 or height * width > MOST_PIXELS:
        raise ValueError("not the size of a picture")
    return height, width


def _stamp(told: Any) -> Stamp:
    return tuple(map(int, told))


def _video(path: str, facts: dict[str, Any], payload: bytes) -> VideoInfo:
    count = facts["frames"]
    pts = np.frombuffer(payload, np.int64, count)
    index = FrameIndex.from_pts(
        pts,
        np.frombuffer(payload, np.int64, offset=8 * count).reshape(-1, 4),
        Fraction(*facts["time_base"]),
        Fraction(*facts["last_span"]),
        by_bytes=bool(facts.get("by_bytes")),
        counted=bool(facts.get("counted")),
    )
    frames = index.entries[:, 0]
    if np.any(np.diff(pts) <= 0) or np.any((frames < 0) | (frames >= count)):
        raise ValueError("times or frames that do not ascend")
    height, width = _shape(facts["shape"])
    return VideoInfo(
        path,
        width,
        height,
        index.duration,
        len(index) / index.duration,
        str(facts["codec"]),
        index,
        stamp=_stamp(facts["stamp"]),
        stream=int(facts.get("stream", 0)),
        orientation=int(facts.get("orientation", 0)) & 7,
        cards=bool(facts.get("cards")),
        notes=tuple(str(note)[:_LONGEST_NOTE] for note in facts.get("notes", ())[:_MOST_NOTES]),
        kind="animation" if facts["kind"] == "animation" else "video",
    )


def local_path(given: str | Path) -> str:
    """The absolute path of a file or folder that a user names.

    Raises:
        VideoError: an address of something that is not on this machine.
    """
    text = str(given)
    with suppress(OSError, ValueError):
        if Path(text).exists():  # a name may look like anything
            return str(Path(text).absolute())
    if text.lower().startswith("file:"):
        return _of_address(text)
    if address := _ADDRESS.match(text):
        kind = address[0].rstrip("/")
        fix = f"{kind} addresses are not read; download it, and give the path of the file"
        raise VideoError("video", text, fix)
    try:
        return str(Path(text).expanduser().absolute())
    except RuntimeError:  # nobody of that name, or no home
        return str(Path(text).absolute())


@contextmanager
def as_given(given: Sequence[str | Path], paths: Sequence[str]) -> Iterator[None]:
    """Errors about one of the paths in the `with` block tell what the user wrote for it."""
    try:
        yield
    except VideoError as error:
        if error.value not in paths:
            raise
        written = str(given[paths.index(error.value)])
        raise VideoError(error.field, written, error.fix) from error.__cause__


def _of_address(text: str) -> str:
    parts = urlsplit(text)
    if parts.netloc not in {"", "localhost"}:
        fix = "a file:// address names no other machine; give file:///path or the path itself"
        raise VideoError("video", text, fix)
    # A question mark or a hash is part of a name here.
    rest = text[len("file:") :].removeprefix(f"//{parts.netloc}")
    path = Path(url2pathname(rest))
    if not path.is_absolute():
        raise VideoError("video", text, "give file:// and the whole path from the root on")
    return str(path)
