"""Opening a video file: the one place that knows the container library's options and failures.

Only the decoder process runs this.
"""

import os
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import av
from av.container import InputContainer
from av.error import FFmpegError
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter
from av.video.stream import VideoStream

from spava_app.engine.video.media_file import MediaFile, fail

# A playlist, a session description or a concat script given the name of a video would make the
# library open other files or addresses, so only plain containers are opened, and nothing but the
# descriptor that is given.
_CONTAINERS = (
    "mov,mp4,matroska,webm,avi,mpegts,mpeg,mpegvideo,flv,asf,ogg,gif,mxf,ivf,rm,nut,wtv,h264,hevc"
)
_OPTIONS = {"format_whitelist": _CONTAINERS, "protocol_whitelist": "fd"}
_NO_VIDEO = (
    "this is not a video file, nor a picture of a kind that is read, or it is cut short; give an "
    "mp4, mkv, webm or avi, a PNG or JPEG"
)
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


def open_video(file: MediaFile) -> InputContainer:
    """Open a video file for reading, from its start; the caller closes it (it is a context
    manager) before it opens the file again, for both would share a place in it.

    Raises:
        VideoError: not a video.
    """
    os.lseek(file.descriptor, 0, os.SEEK_SET)
    options = _OPTIONS | {"fd": str(file.descriptor)}
    try:
        # Not `options`, which go to streams too: PyAV 16 crashes where those appear only as a file
        # is read (FLV, MPEG program streams).
        return av.open("fd:", container_options=options, **_TAGS)
    except (FFmpegError, OSError):
        fail(file.path, _NO_VIDEO)


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
