"""Opening a video file: the one place that knows the container library's options and failures.

Only the decoder process runs this.
"""

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, NoReturn

import av
from av.container import InputContainer
from av.error import FFmpegError
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter
from av.video.stream import VideoStream

from spava_app.engine.video.frame_source import Stamp
from spava_app.errors import VideoError

# Of a frame or picture: 16384 x 8192. Beyond it a header is more likely a bomb than a picture.
MOST_PIXELS = 2**27
# A playlist, a session description or a concat script given the name of a video would make the
# library open other files or addresses, so only plain containers and only local files are opened.
_CONTAINERS = (
    "mov,mp4,matroska,webm,avi,mpegts,mpeg,mpegvideo,flv,asf,ogg,gif,mxf,ivf,rm,nut,wtv,h264,hevc"
)
_OPTIONS = {"format_whitelist": _CONTAINERS, "protocol_whitelist": "file"}
# What PyAV takes in some versions only, so that all of 16 to 19 do the same.
# Tags that are not UTF-8 are errors before 19 unless asked otherwise; 19 keeps their bytes.
_TAGS: dict[str, Any] = {}
if hasattr(InputContainer, "metadata_errors"):
    _TAGS["metadata_errors"] = "surrogateescape"
# 16 always converts pixels in one thread, and later ones when asked to.
_ONE_THREAD: dict[str, Any] = {"threads": 1}
try:
    VideoReformatter().reformat(VideoFrame(16, 16, "gray"), format="rgb24", **_ONE_THREAD)
except TypeError:
    _ONE_THREAD = {}


@dataclass(frozen=True)
class Status:
    """What the file system says of a path, without opening it."""

    is_folder: bool
    is_file: bool
    stamp: Stamp


def fail(path: str, fix: str) -> NoReturn:
    """Raise the `VideoError` that names the field, the path and the fix, and nothing else."""
    raise VideoError("video", path, fix) from None


def status(path: str) -> Status:
    """Raise `VideoError` unless something is there."""
    try:
        found = os.stat(path)
    except PermissionError:
        fail(path, "its folder may not be read; change the permissions")
    except (OSError, ValueError):
        fail(path, "there is no such file; give the path of a video or picture")
    mode = found.st_mode
    return Status(stat.S_ISDIR(mode), stat.S_ISREG(mode), (found.st_size, found.st_mtime_ns))


def stamp(path: str) -> Stamp:
    """Size and time of last change."""
    return status(path).stamp


def check_file(path: str, expected: Stamp | None = None) -> None:
    """Raise `VideoError` unless `path` is a regular file with something in it, that has not been
    changed since it was stamped.
    """
    found = status(path)
    if found.is_folder:
        fail(path, "this is a folder; give the path of one file")
    # Neither a pipe nor a device: those could be read for ever.
    if not found.is_file:
        fail(path, "this is not a regular file; copy it to disk first")
    if expected is not None and found.stamp != expected:
        fail(path, "the file was changed while it was looked at; ask again")
    if found.stamp[0] == 0:
        fail(path, "the file is empty; copy or download it again")
    if not os.access(path, os.R_OK):
        fail(path, "the file may not be read; change its permissions")


def check_still(path: str, expected: Stamp) -> None:
    """Raise `VideoError` if the file was written or replaced while it was read. One that was
    removed was read as it was.
    """
    if os.path.lexists(path):
        check_file(path, expected)


def open_video(path: str, expected: Stamp | None = None) -> InputContainer:
    """Open a local video file for reading; the caller closes it (it is a context manager).

    Raises:
        VideoError: nothing there, not a regular file, empty, not readable, not a video, or changed
            since it was stamped.
    """
    check_file(path, expected)
    try:
        # The prefix keeps a colon in a file name from being read as a protocol.
        return av.open(f"file:{path}", options=dict(_OPTIONS), **_TAGS)
    except (FFmpegError, OSError):
        fail(path, "this is not a video file, or it is cut short; give an mp4, mkv, webm or avi")


def to_rgb(converter: VideoReformatter, picture: VideoFrame, width: int, height: int) -> VideoFrame:
    """A picture as packed RGB of 8 bits, converted in this thread."""
    return converter.reformat(picture, width, height, format="rgb24", **_ONE_THREAD)


def rational(value: Any) -> Fraction:
    """A time base or rate of the library as a `Fraction`, 0 where it is unset: PyAV before 19 gives
    a `Fraction` or None, PyAV 19 a type of its own.
    """
    return Fraction(value.numerator, value.denominator) if value else Fraction()


def demux(container: InputContainer, *streams: VideoStream) -> Iterator[Any]:
    """The packets of some streams, or of all, from where the container stands to its end. Those of
    a stream that only appears on the way, as in broadcasts, are left out: the library trips over
    them.

    Raises:
        FFmpegError: the rest cannot be read.
    """
    while True:
        try:
            yield from container.demux(*streams)
        except IndexError:
            continue
        return
