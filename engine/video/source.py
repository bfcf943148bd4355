"""Opening a video file: the one place that knows the container library's options and failures."""

from pathlib import Path
from typing import NoReturn

import av
from av.container import InputContainer
from av.error import FFmpegError
from av.stream import Disposition
from av.video.stream import VideoStream

from spava_app.errors import VideoError

# A playlist, a session description or a concat script given the name of a video would make the
# library open other files or addresses, so only plain containers and only local files are opened.
_CONTAINERS = (
    "mov,mp4,matroska,webm,avi,mpegts,mpeg,mpegvideo,flv,asf,ogg,gif,mxf,ivf,rm,nut,wtv,h264,hevc"
)
_OPTIONS = {"format_whitelist": _CONTAINERS, "protocol_whitelist": "file"}


def fail(path: str, fix: str) -> NoReturn:
    """Raise the `VideoError` that names the field, the path and the fix, and nothing else."""
    raise VideoError("video", path, fix) from None


def check_file(path: str | Path) -> None:
    """Raise `VideoError` unless `path` is a regular file with something in it."""
    path = str(path)
    file = Path(path)
    if not file.exists():
        fail(path, "there is no such file; give the path of a video file")
    if file.is_dir():
        fail(path, "this is a folder; give the path of one video file")
    if not file.is_file():
        fail(path, "this is not a regular file; copy the video to disk first")
    if file.stat().st_size == 0:
        fail(path, "the file is empty; copy or download the video again")


def open_video(path: str | Path) -> InputContainer:
    """Open a local video file for reading; the caller closes it (it is a context manager).

    Raises:
        VideoError: nothing there, not a regular file, empty, not readable, or not a video.
    """
    check_file(path)
    path = str(path)
    try:
        # The prefix keeps a colon in a file name from being read as a protocol.
        return av.open(f"file:{path}", options=dict(_OPTIONS), metadata_errors="ignore")
    except PermissionError:
        fail(path, "the file may not be read; change its permissions")
    except FFmpegError:
        fail(path, "this is not a video file, or it is cut short; give an mp4, mkv, webm or avi")


def video_stream(container: InputContainer, path: str) -> VideoStream:
    """The first video stream that is not a still cover picture.

    Raises:
        VideoError: there is none, or this build has no decoder for it.
    """
    for stream in container.streams.video:
        if not stream.disposition & Disposition.attached_pic:
            if stream.codec_context is None:
                fail(path, "no decoder is available for this video; convert it to h264")
            return stream
    fail(path, "the file holds no video stream; give a file that has pictures, not only sound")
