"""The frame index: when each frame of a video is shown, learned without decoding anything.

N = frames, in the order they are shown. Time stamps are the container's integers ("pts").
"""

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from av.container import InputContainer
from av.error import FFmpegError
from av.packet import Packet
from av.video.stream import VideoStream

from spava_app.engine.video.source import fail


@dataclass(frozen=True, eq=False)
class FrameIndex:
    """Presentation times of all frames.

    Attributes:
        times: [N] float64, seconds since the first frame, strictly increasing from 0.
        is_key: [N] bool, whether decoding may start at the frame.
        pts: [N] int64, the same times as the container writes them; what decoding matches by.
        time_base: seconds per unit of `pts`.
        duration: seconds from the first frame's start to the last frame's end.
    """

    times: np.ndarray
    is_key: np.ndarray
    pts: np.ndarray
    time_base: Fraction
    duration: float

    def __len__(self) -> int:
        return len(self.pts)

    def find(self, pts: int | None) -> int | None:
        """The frame with exactly this time stamp, or None."""
        if pts is None:
            return None
        frame = int(np.searchsorted(self.pts, pts))
        return frame if frame < len(self) and self.pts[frame] == pts else None

    def key_before(self, frame: int) -> int:
        """The last key frame at or before `frame`; 0, the start of the file, if there is none."""
        keys = np.flatnonzero(self.is_key[: max(frame, 0) + 1])
        return int(keys[-1]) if len(keys) else 0


def index_frames(container: InputContainer, stream: VideoStream, path: str) -> FrameIndex:
    """Read the packets of `stream` once, from where the container stands to its end.

    Packets come in decoding order, so with B-frames their times jump back and forth; they are
    sorted here. Left out are packets that never become a picture: those an edit list cuts away
    and, when a recording starts in the middle of a group, those that need what came before it.

    Raises:
        VideoError: no frames, frames without times, or a file that cannot be read to its end.
    """
    shown: dict[int, tuple[bool, int]] = {}
    first_key = None
    try:
        for packet in _pictures(container, stream):
            if packet.pts is None:
                fail(path, "its frames carry no times; remux it: ffmpeg -i video -c copy out.mkv")
            if first_key is None and packet.is_keyframe:
                first_key = packet.pts
                shown.clear()
            leads = first_key is not None and packet.pts < first_key
            if not packet.is_discard and not leads:
                shown.setdefault(packet.pts, (packet.is_keyframe, packet.duration or 0))
    except FFmpegError:
        fail(path, "the file is damaged and cannot be read to its end; copy or convert it again")
    if not shown:
        fail(path, "the video stream holds no frames; copy or convert the file again")

    pts = np.array(sorted(shown), dtype=np.int64)
    time_base = stream.time_base or Fraction(1, 1)
    last_span = shown[int(pts[-1])][1] * time_base or _typical_span(pts, time_base, stream)
    times = (pts - pts[0]) * (time_base.numerator / time_base.denominator)
    return FrameIndex(
        times=times,
        is_key=np.array([shown[int(p)][0] for p in pts]),
        pts=pts,
        time_base=time_base,
        duration=float(times[-1]) + float(last_span),
    )


def _pictures(container: InputContainer, stream: VideoStream) -> Iterator["Packet[VideoStream]"]:
    vp8 = stream.codec_context.name == "vp8"
    for packet in container.demux(stream):
        # Empty packets flush the decoder or repeat the picture before. A VP8 frame may be hidden,
        # for reference only: its show_frame bit is then 0 (RFC 6386, 9.1).
        if packet.size and not (vp8 and not bytes(packet)[0] & 0x10):
            yield packet


def _typical_span(pts: np.ndarray, time_base: Fraction, stream: VideoStream) -> Fraction:
    # Matroska need not say how long the last frame stays: as long as the others do.
    if len(pts) > 1:
        return int(np.median(np.diff(pts))) * time_base
    return 1 / stream.average_rate if stream.average_rate else time_base
