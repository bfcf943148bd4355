"""From frame numbers to pictures: exactly what decoding the whole file would give, for less
work.
"""

from collections.abc import Generator, Iterator, Sequence
from contextlib import closing

import numpy as np
from av.error import FFmpegError
from av.video.frame import PictureType, VideoFrame
from av.video.reformatter import VideoReformatter

from spava_app.engine.video.probe import VideoInfo
from spava_app.engine.video.source import fail, open_video, video_stream
from spava_app.errors import InvalidInput

# A seek throws away the pictures the decoder has in flight; below this many frames it saves none.
_SEEK_COST = 8
# Picture types that need other pictures; one marked as a key frame is no place to start.
_PREDICTED = {PictureType.P, PictureType.B}


def decode_frames(
    info: VideoInfo, frames: Sequence[int], *, threads: int = 2
) -> Generator[tuple[int, np.ndarray], None, None]:
    """Decode the given frames of a video.

    Args:
        info: the probed video; the file must not have changed since.
        frames: numbers in the frame index, in any order, ascending for speed.
        threads: decoder threads, at least 1.

    Yields:
        Each frame's number and its picture, [height, width, 3] uint8 RGB as displayed, in the
        order of `frames`.

    Raises:
        InvalidInput: a frame number outside the video, or no threads.
        VideoError: a frame cannot be decoded undamaged; the message names its time.
    """
    if threads < 1:
        raise InvalidInput("threads", threads, "give at least 1")
    for frame in frames:
        if not 0 <= frame < info.num_frames:
            raise InvalidInput("frames", frame, f"give numbers from 0 to {info.num_frames - 1}")
    return _decode(info, frames, threads)


def _decode(
    info: VideoInfo, frames: Sequence[int], threads: int
) -> Generator[tuple[int, np.ndarray], None, None]:
    width, height = info.width, info.height
    if info.rotation % 180:
        width, height = height, width
    converter = VideoReformatter()  # kept: it holds the conversion tables
    with closing(_Reader(info, threads)) as reader:
        for frame in frames:
            # Width and height matter only where a stream changes its size on the way.
            picture = converter.reformat(
                reader.read(frame), width=width, height=height, format="rgb24", threads=1
            )
            turned = np.rot90(picture.to_ndarray(), info.rotation // 90)
            yield frame, np.ascontiguousarray(turned)


class _Reader:
    """An open file, its decoder, and how far that has come."""

    def __init__(self, info: VideoInfo, threads: int) -> None:
        self._info, self._threads = info, threads
        self._may_seek = True
        self._open()

    def close(self) -> None:
        self._container.close()

    def read(self, frame: int) -> VideoFrame:
        index = self._info.index
        key = index.key_before(frame)
        near = not self._may_seek or key - self._position <= _SEEK_COST
        if self._position < frame and near:
            picture = self._advance(frame)
            if picture is not None:
                return picture
        # A container may land late, or call a frame a key that needs earlier ones: start earlier.
        for start in dict.fromkeys((key, index.key_before(key - 1), 0)):
            if start and not self._may_seek:
                continue
            self._restart(start)
            picture = self._advance(frame)
            if picture is not None:
                return picture
        seconds = f"{index.times[frame]:.2f}"
        fail(
            self._info.path,
            f"the frame at {seconds} s cannot be decoded; repair the file: ffmpeg -i video out.mp4",
        )

    def _open(self) -> None:
        self._container = open_video(self._info.path)
        self._stream = video_stream(self._container, self._info.path)
        self._stream.thread_type = "AUTO"
        self._stream.codec_context.thread_count = self._threads
        self._entry, self._position, self._pictures = 0, -1, self._decoded()

    def _restart(self, key: int) -> None:
        if key:
            try:
                self._container.seek(int(self._info.index.pts[key]), stream=self._stream)
            except FFmpegError:
                pass  # not seekable: only the start of the file is left
            else:
                self._entry, self._position, self._pictures = key, key - 1, self._decoded()
                return
        self._container.close()
        self._open()

    def _advance(self, frame: int) -> VideoFrame | None:
        """Decode up to `frame`; None if it was passed over or did not come out whole."""
        for position, picture in self._pictures:
            self._position = position
            if 0 < self._entry <= position:
                # With gradual refresh no picture is whole by itself: pictures heal over some time
                # after a "key frame", and nothing tells when. Only the file's start is safe then.
                self._may_seek = picture.pict_type not in _PREDICTED
                if not self._may_seek:
                    return None
                self._entry = 0
            if position >= frame:
                return picture if position == frame and not picture.is_corrupt else None
        return None

    def _decoded(self) -> Iterator[tuple[int, VideoFrame]]:
        packets = self._container.demux(self._stream)
        while True:
            try:
                packet = next(packets, None)
            except FFmpegError:
                packet = None  # cut short: the frames beyond are missed by who asks for them
            if packet is None:
                return
            if not packet.size and packet.dts is not None:
                continue  # an AVI's dropped frame; to the decoder, empty would mean the end
            try:
                pictures = packet.decode()
            except FFmpegError:
                continue  # damaged: matters only if the frame is asked for
            for picture in pictures:
                # By time stamp and never by counting: after a seek, the count means nothing.
                position = self._info.index.find(picture.pts)
                if position is not None:
                    yield position, picture
