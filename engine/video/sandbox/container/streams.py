"""Which of a container's video streams is the video. Only the decoder process runs this."""

from av.container import InputContainer
from av.stream import Disposition
from av.video.stream import VideoStream

from spava_app.engine.video.media_file import fail

# Covers, previews for scrubbing, and parts of a picture, such as the tiles of a HEIC.
_NO_VIDEO = Disposition.attached_pic | Disposition.timed_thumbnails | Disposition.dependent
_DEFAULT_SCORE = 5_000_000  # against pixels, as in ffmpeg


def candidates(container: InputContainer, path: str) -> list[VideoStream]:
    """The video streams that can be decoded, the one that `ffmpeg` would pick first: the largest,
    where being marked as the default counts like five million pixels. One picture is no video where
    there is a longer stream; ffmpeg does not look for that.

    Raises:
        VideoError: there is none, or this build has no decoder for any.
    """
    found = [s for s in container.streams.video if not s.disposition & _NO_VIDEO]
    if not found and any(s.disposition & Disposition.dependent for s in container.streams):
        fail(path, "its picture is in tiles that are not put together; convert it to PNG")
    if not found:
        fail(path, "the file holds no video stream; give a file that has pictures, not only sound")
    known = [stream for stream in found if stream.codec_context is not None]
    if not known:
        fail(path, "no decoder is available for this video; convert it to h264")
    return sorted(known, key=_score, reverse=True)  # of equals, the first


def stream_at(container: InputContainer, index: int, path: str) -> VideoStream:
    """A video stream by its number in the container.

    Raises:
        VideoError: it is no longer there.
    """
    streams = container.streams
    if index < len(streams) and isinstance(stream := streams[index], VideoStream):
        return stream
    fail(path, "the file was changed while it was looked at; ask again")


def _score(stream: VideoStream) -> tuple[bool, int]:
    context = stream.codec_context
    default = bool(stream.disposition & Disposition.default)
    return stream.frames != 1, context.width * context.height + _DEFAULT_SCORE * default
