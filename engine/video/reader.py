"""From time stamps to pictures: exactly what decoding the whole file would give, for less work.

Only the decoder process runs this.
"""

from collections.abc import Iterator

import numpy as np
from av.error import FFmpegError
from av.video.codeccontext import VideoCodecContext
from av.video.frame import PictureType, VideoFrame
from av.video.reformatter import VideoReformatter

from spava_app.engine.video.frame_source import FrameSource
from spava_app.engine.video.pulse import Pulse
from spava_app.engine.video.source import (
    demux,
    fail,
    open_video,
    rational,
    to_rgb,
    video_stream,
)

# A seek throws away the pictures the decoder has in flight; below this many frames it saves none.
_SEEK_COST = 8
# Picture types that need other pictures; one marked as a key frame is no place to start.
_PREDICTED = {PictureType.P, PictureType.B}
_BEFORE_ALL = -(2**63)


def marks_references(context: VideoCodecContext) -> bool:
    """Whether a picture that is marked as no reference is none, so that leaving it out changes no
    other. HEVC's mark holds within a temporal layer: its configuration record must name just one.
    """
    record = context.extradata or b""
    layers = record[21] >> 3 & 7 if len(record) > 22 and record[0] == 1 else 0
    return context.name == "h264" or (context.name == "hevc" and layers == 1)


class VideoReader:
    """An open video, its decoder, and how far that has come.

    Args:
        source: a video and its chosen frames.
        threads: of the decoder.
        pulse: told of every packet.

    Raises:
        VideoError: the file is not what it was, or cannot be opened.
    """

    def __init__(self, source: FrameSource, threads: int, pulse: Pulse) -> None:
        self._source, self._threads, self._pulse = source, threads, pulse
        self._wanted = frozenset(source.rows)
        self._may_seek = True
        self._converter = VideoReformatter()  # kept: it holds the conversion tables
        self._spare: VideoFrame | None = None
        self._open()
        self._may_skip = marks_references(self._stream.codec_context)
        rate, self._base = rational(self._stream.average_rate), rational(self._stream.time_base)
        self._near = _SEEK_COST / (rate * self._base) if rate and self._base else 0

    def close(self) -> None:
        self._container.close()

    def read(self, frame: int, out: np.ndarray) -> bool:
        """Write a frame, by its place in the source, into `out`: `[height, width, 3]` uint8, as
        displayed.

        Returns:
            False where it is damaged and the nearest whole one before it was taken.

        Raises:
            VideoError: there is no whole one before it.
        """
        picture, whole = self._find(self._source.rows[frame], self._source.seeks[frame])
        height, width = self._source.shape
        if self._source.rotation % 180:
            width, height = height, width
        # Width and height matter only where a stream changes its size on the way.
        plane = to_rgb(self._converter, picture, width, height).planes[0]
        lines = np.frombuffer(memoryview(plane), np.uint8).reshape(-1, plane.line_size)
        stored = lines[:height, : 3 * width].reshape(height, width, 3)
        np.copyto(out, np.rot90(stored, self._source.rotation // 90))
        return whole

    def _find(self, pts: int, seeks: tuple[int, ...]) -> tuple[VideoFrame, bool]:
        """The picture at `pts` and True, or the last whole one before it and False."""
        self._spare = None
        near = not self._may_seek or not seeks or seeks[0] - self._position <= self._near
        if self._position < pts and near and (picture := self._advance(pts)):
            return picture, True
        # A container may land late, or call a frame a key that needs earlier ones: start earlier.
        for number, start in enumerate((*seeks, None)):
            if start is not None and not self._may_seek:
                continue
            for skip in (True, False) if self._may_skip else (False,):
                self._may_skip = skip
                self._restart(start)
                if picture := self._advance(pts):
                    return picture, True
                if not (self._sound and self._healthy):
                    break  # that explains it, not what was left out
            # Damage looks the same from wherever decoding was sound: no earlier start gives more.
            if number and self._sound and self._spare is not None:
                break
        if self._spare is None:
            seconds = float((pts - (self._stream.start_time or 0)) * (self._base or 1))
            fix = f"nothing up to {seconds:.2f} s can be decoded; copy or convert the file again"
            fail(self._source.name, fix)
        return self._spare, False

    def _open(self) -> None:
        self._container = open_video(self._source.name, self._source.stamps[0])
        self._stream = video_stream(self._container, self._source.name)
        self._stream.thread_type = "AUTO"
        self._stream.codec_context.thread_count = self._threads
        self._entry: int | None = None
        self._sound = self._healthy = True
        self._position, self._pictures = _BEFORE_ALL, self._decoded()

    def _restart(self, start: int | None) -> None:
        """Go on from the key frame at `start`, or from the start of the file."""
        if start is not None:
            try:
                self._container.seek(start, stream=self._stream)
            except FFmpegError:
                pass  # not seekable: only the start of the file is left
            else:
                self._entry, self._sound = start, False
                self._position, self._pictures = start - 1, self._decoded()
                return
        self._container.close()
        self._open()

    def _advance(self, pts: int) -> VideoFrame | None:
        """Decode up to `pts`; None if it was passed over or did not come out whole."""
        for stamp, picture, whole in self._pictures:
            self._position = stamp
            if self._entry is not None and stamp >= self._entry:
                if picture.pict_type in _PREDICTED:
                    # With gradual refresh no picture is whole by itself: pictures heal over some
                    # time after a "key frame", and nothing tells when. Only the file's start is
                    # safe then. Unless the key frame was damaged: then another one will do.
                    self._may_seek = not whole
                    return None
                self._sound, self._entry = stamp == self._entry, None
            if stamp >= pts:
                return picture if stamp == pts and whole else None
            if (
                whole
                and self._entry is None
                and (self._spare is None or (self._spare.pts or 0) < stamp)
            ):
                self._spare = picture
        return None

    def _decoded(self) -> Iterator[tuple[int, VideoFrame, bool]]:
        """The pictures from here on: time stamp, picture, and whether it is whole."""
        packets, context = demux(self._container, self._stream), self._stream.codec_context
        self._healthy = True
        while True:
            try:
                packet = next(packets, None)
            except FFmpegError:
                packet = None  # cut short: the frames beyond are missed by who asks for them
            if packet is None:
                return
            self._pulse.beat()
            if not packet.size and packet.dts is not None:
                continue  # an AVI's dropped frame; to the decoder, empty would mean the end
            skip = self._may_skip and packet.pts not in self._wanted
            context.skip_frame = "NONREF" if skip else "DEFAULT"
            try:
                pictures = packet.decode()
            except FFmpegError:
                # What refers to the lost picture is made up, though the decoder may not say so.
                self._healthy = False
                continue
            for picture in pictures:
                fresh = picture.key_frame and picture.pict_type not in _PREDICTED
                self._healthy = not picture.is_corrupt and (self._healthy or fresh)
                # By time stamp and never by counting: after a seek, the count means nothing.
                if picture.pts is not None:
                    yield picture.pts, picture, self._healthy
