"""What a video file is, learned from its headers, its packets and one decoded frame."""

from dataclasses import dataclass
from pathlib import Path

from av.error import FFmpegError
from av.video.frame import VideoFrame

from spava_app.engine.video.index import FrameIndex, index_frames
from spava_app.engine.video.source import fail, open_video, video_stream


@dataclass(frozen=True, eq=False)
class VideoInfo:
    """A readable video.

    Attributes:
        path: the file.
        width, height: pixels as displayed, that is after the rotation.
        duration: seconds, from the first frame's start to the last frame's end.
        fps: frames per second on average; the true spacing is in `index`.
        codec: the decoder's name, such as "h264".
        rotation: degrees counter-clockwise, 0, 90, 180 or 270, that stored pictures are turned by.
        index: when each frame is shown and which are key frames.
    """

    path: str
    width: int
    height: int
    duration: float
    fps: float
    codec: str
    rotation: int
    index: FrameIndex

    @property
    def num_frames(self) -> int:
        """Frames in the whole video."""
        return len(self.index)


def probe(path: str | Path) -> VideoInfo:
    """Look at a video file: one pass over its packets, then one frame for size and rotation.

    Mirrored pictures and pixels that are not square are taken as stored.

    Raises:
        VideoError: there is no readable video with at least one frame at `path`.
    """
    path = str(path)
    with open_video(path) as container:
        stream = video_stream(container, path)
        codec = stream.codec_context.name
        index = index_frames(container, stream, path)
    first = _first_picture(path)
    # The rotation is a property of the stream, but the library shows it on decoded frames only.
    rotation = round(first.rotation / 90) % 4 * 90
    width, height = first.width, first.height
    if rotation % 180:
        width, height = height, width
    fps = len(index) / index.duration
    return VideoInfo(path, width, height, index.duration, fps, codec, rotation, index)


def _first_picture(path: str) -> VideoFrame:
    with open_video(path) as container:
        stream = video_stream(container, path)
        try:
            for picture in container.decode(stream):
                return picture
        except FFmpegError:
            pass
    fail(path, "its first frame cannot be decoded; copy or convert the file again")
