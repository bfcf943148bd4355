"""From time stamps to pictures: exactly what decoding the whole file would give, for less work.

Only the decoder process runs this.
"""

from collections.abc import Iterator

import numpy as np
from av.error import FFmpegError
from av.packet import Packet
from av.video.codeccontext import VideoCodecContext
from av.video.frame import PictureType, VideoFrame
from av.video.reformatter import VideoReformatter
from av.video.stream import VideoStream

from spava_app.engine.media import FrameSource, Seek
from spava_app.engine.video.media_file import MediaFile, fail
from spava_app.engine.video.sandbox.container.clock import Clock
from spava_app.engine.video.sandbox.container.key_frames import is_header
from spava_app.engine.video.sandbox.container.orientation import swaps_sides, upright
from spava_app.engine.video.sandbox.container.source import demux, open_video, rational, to_rgb
from spava_app.engine.video.sandbox.container.streams import stream_at
from spava_app.engine.video.sandbox.pulse import Pulse

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
        file: the video, which stays open for as long as this is used.
        threads: of the decoder.
        pulse: told of every packet.

    Raises:
        VideoError: the file cannot be opened as a video.
    """

    def __init__(self, source: FrameSource, file: MediaFile, threads: int, pulse: Pulse) -> None:
        self._source, self._file = source, file
        self._threads, self._pulse = threads, pulse
        self._wanted = frozenset(source.rows)
        self._may_seek = True
        self._converter = VideoReformatter()  # kept: it holds the conversion tables
        self._spare: VideoFrame | None = None
        self._spare_at = _BEFORE_ALL
        self._open()
        # Pictures can only be counted where none is left out.
        self._may_skip = not source.counted and marks_references(self._stream.codec_context)
        rate, self._base = rational(self._stream.average_rate), rational(self._stream.time_base)
        self._near = _SEEK_COST / (rate * self._base) if rate and self._base else 0
        if source.counted:
            self._near = _SEEK_COST

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
        if swaps_sides(self._source.orientation):
            width, height = height, width
        # They differ from the picture's where its pixels are not square, or where a stream changes
        # its size on the way.
        plane = to_rgb(self._converter, picture, width, height).planes[0]
        lines = np.frombuffer(memoryview(plane), np.uint8).reshape(-1, plane.line_size)
        stored = lines[:height, : 3 * width].reshape(height, width, 3)
        np.copyto(out, upright(stored, self._source.orientation))
        return whole

    def _find(self, stamp: int, seeks: tuple[Seek, ...]) -> tuple[VideoFrame, bool]:
        """The picture at `stamp` and True, or the last whole one before it and False."""
        self._spare = None
        near = not self._may_seek or not seeks or seeks[0][0] - self._position <= self._near
        if self._position < stamp and near and (picture := self._advance(stamp)):
            return picture, True
        # A container may land late, or call a frame a key that needs earlier ones: start earlier.
        for number, start in enumerate((*seeks, None)):
            if start is not None and not self._may_seek:
                continue
            for skip in (True, False) if self._may_skip else (False,):
                self._may_skip = skip
                self._restart(start)
                if picture := self._advance(stamp):
                    return picture, True
                if not (self._sound and self._healthy):
                    break  # that explains it, not what was left out
            # Damage looks the same from wherever decoding was sound: no earlier start gives more.
            if number and self._sound and self._spare is not None:
                break
        if self._spare is None:
            where = f"frame {stamp}"
            if not self._source.counted:
                start_time = self._stream.start_time or 0
                where = f"{float((stamp - start_time) * (self._base or 1)):.2f} s"
            fix = f"nothing up to {where} can be decoded; copy or convert the file again"
            fail(self._source.name, fix)
        return self._spare, False

    def _open(self) -> None:
        self._container = open_video(self._file)
        self._stream = stream_at(self._container, self._source.stream, self._source.name)
        self._stream.thread_type = "AUTO"
        self._stream.codec_context.thread_count = self._threads
        self._entry: Seek | None = None
        self._sound = self._healthy = True
        self._position, self._pictures = _BEFORE_ALL, self._decoded(None)

    def _restart(self, start: Seek | None) -> None:
        """Go on from a key frame, or from the start of the file."""
        if start is not None:
            stamp, time, place, _ = start
            try:
                if self._source.by_bytes:
                    self._container.seek(place, unsupported_byte_offset=True, stream=self._stream)
                else:
                    self._container.seek(time, stream=self._stream)
            except FFmpegError:
                pass  # not seekable: only the start of the file is left
            else:
                self._entry, self._sound = start, False
                self._position, self._pictures = stamp - 1, self._decoded(start)
                return
        self._container.close()
        self._open()

    def _advance(self, wanted: int) -> VideoFrame | None:
        """Decode up to `wanted`; None if it was passed over or did not come out whole."""
        for stamp, picture, whole in self._pictures:
            self._position = stamp
            if self._entry is not None and stamp >= self._entry[0]:
                if picture.pict_type in _PREDICTED:
                    # With gradual refresh no picture is whole by itself: pictures heal over some
                    # time after a "key frame", and nothing tells when. Only the file's start is
                    # safe then. Unless the key frame was damaged: then another one will do.
                    self._may_seek = not whole
                    return None
                if not picture.key_frame and stamp > self._entry[0]:
                    return None  # the container landed behind the key frame
                self._sound, self._entry = stamp == self._entry[0], None
            if stamp >= wanted:
                return picture if stamp == wanted and whole else None
            if whole and self._entry is None and (self._spare is None or self._spare_at < stamp):
                self._spare, self._spare_at = picture, stamp
        return None

    def _decoded(self, start: Seek | None) -> Iterator[tuple[int, VideoFrame, bool]]:
        """The pictures from here on, `start` where there was a seek: stamp, picture, and whether it
        is whole.
        """
        context, counted = self._stream.codec_context, self._source.counted
        number = start[0] if start else 0
        self._healthy = True
        for packet in self._packets(start):
            skip = self._may_skip and packet.pts not in self._wanted
            context.skip_frame = "NONREF" if skip else "DEFAULT"
            try:
                pictures = packet.decode()
            except FFmpegError:
                # What refers to the lost picture is made up, though the decoder may not say so.
                self._healthy = False
                number += 1
                continue
            for picture in pictures:
                fresh = picture.key_frame and picture.pict_type not in _PREDICTED
                self._healthy = not picture.is_corrupt and (self._healthy or fresh)
                # By time stamp wherever that means something: a count does not survive damage.
                if counted:
                    yield number, picture, self._healthy
                    number += 1
                elif picture.pts is not None:
                    yield picture.pts, picture, self._healthy

    def _packets(self, start: Seek | None) -> Iterator["Packet[VideoStream]"]:
        """What the decoder is given, with the time stamps that the scan gave it."""
        clock = Clock(self._container, self._stream, start[3] if start else 0)
        for packet, _, _ in clock.follow(self._from_container(start)):
            self._pulse.beat()
            yield packet

    def _from_container(self, start: Seek | None) -> Iterator["Packet[VideoStream]"]:
        # Pictures are counted from the key frame, so that nothing may come before it.
        landing = start[2] if start and self._source.counted else None
        packets = demux(self._container, self._stream)
        while True:
            try:
                packet = next(packets, None)
            except FFmpegError:
                packet = None  # cut short: the frames beyond are missed by who asks for them
            if packet is None:
                return
            if packet.is_keyframe and packet.pos == landing:
                landing = None
            # An AVI's dropped frame is empty; to the decoder that would mean the end.
            if landing is not None or not (packet.size or packet.dts is None):
                continue
            if not (packet.size and is_header(packet, self._stream.codec_context.name)):
                yield packet
