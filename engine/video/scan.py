"""When each frame of a video is shown, learned from one pass over its packets, without decoding.

N = frames, P = packets. Only the decoder process runs this.
"""

from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from av.container import InputContainer
from av.error import FFmpegError
from av.packet import Packet
from av.video.stream import VideoStream

from spava_app.engine.video.pulse import Pulse
from spava_app.engine.video.source import demux, fail, rational

# 38 hours at 60 frames a second; what is needed per packet is bounded too.
_MOST_PACKETS = 2**23
# More than this missing at the end, in seconds and as a share, and the file counts as cut short.
_MISSING_SECONDS, _MISSING_SHARE = 0.5, 0.05


@dataclass(frozen=True)
class Scan:
    """What the packets of a stream say.

    Attributes:
        pts: [N] int64, time stamps, strictly ascending.
        is_key: [N] bool, whether decoding may start at the frame.
        time_base: seconds per unit of `pts`.
        last_span: seconds that the last frame stays.
    """

    pts: np.ndarray
    is_key: np.ndarray
    time_base: Fraction
    last_span: Fraction


def scan_frames(container: InputContainer, stream: VideoStream, path: str, pulse: Pulse) -> Scan:
    """Read the packets of `stream` once, from where the container stands to its end.

    Packets come in decoding order, so with B-frames their times jump back and forth; they are
    sorted here. Left out are packets that never become a picture: those an edit list cuts away
    and, when a recording starts in the middle of a group, those that need what came before it.

    Raises:
        VideoError: no frames, too many, frames without times, or a file that cannot be read to its
            end or ends much sooner than it says.
    """
    all_pts, spans, flags = array("q"), array("q"), bytearray()
    first_key = -1
    try:
        for packet in _pictures(container, stream):
            pulse.beat()
            if packet.pts is None:
                fail(path, "its frames carry no times; remux it: ffmpeg -i video -c copy out.mkv")
            if first_key < 0 and packet.is_keyframe:
                first_key = len(all_pts)
            if len(all_pts) >= _MOST_PACKETS:
                fail(path, f"it has more than {_MOST_PACKETS} frames; cut it into parts")
            all_pts.append(packet.pts)
            spans.append(packet.duration or 0)
            flags.append(packet.is_keyframe | packet.is_discard << 1)
    except FFmpegError:
        fail(path, "the file is damaged and cannot be read to its end; copy or convert it again")

    pts, flag = np.array(all_pts, np.int64), np.array(flags, np.uint8)
    shows = flag < 2
    if first_key >= 0:
        shows &= (np.arange(len(pts)) >= first_key) & (pts >= pts[first_key])
    packets = np.flatnonzero(shows)
    if not len(packets):
        fail(path, "the video stream holds no frames; copy or convert the file again")
    pts, first = np.unique(pts[packets], return_index=True)
    packets = packets[first]
    time_base = rational(stream.time_base) or Fraction(1)
    last_span = spans[int(packets[-1])] * time_base or _typical_span(pts, time_base, stream)
    return Scan(pts, flag[packets] == 1, time_base, last_span)


def check_whole(container: InputContainer, path: str, end: Fraction, pulse: Pulse) -> None:
    """Raise `VideoError` if the file's header says that it goes on long after `end`, in seconds,
    and nothing is there.

    Args:
        container: newly opened; read only in doubt, because sound may go on after the pictures.
    """
    start = Fraction(container.start_time or 0, 10**6)
    says = _promised_end(container)
    slack = max(_MISSING_SECONDS, _MISSING_SHARE * float(says - start))
    if says - end <= slack:
        return
    try:
        for packet in demux(container):
            pulse.beat()
            if packet.size and packet.time_base and packet.dts is not None:
                stamp = max(packet.dts, packet.pts or packet.dts) + (packet.duration or 0)
                end = max(end, stamp * rational(packet.time_base))
    except FFmpegError:
        pass
    if says - end > slack:
        holds = f"{float(end - start):.1f} of {float(says - start):.1f} s"
        fail(path, f"it is cut short, {holds} are there; copy or download it again")


def _promised_end(container: InputContainer) -> Fraction:
    """When it ends, in seconds, by its header; 0 where that says nothing and the library's duration
    is an estimate from what it found.
    """
    streams = container.streams
    match container.format.name.split(",")[0]:
        case "mov":
            ends = [
                ((stream.start_time or 0) + stream.duration) * rational(stream.time_base)
                for stream in streams
                if stream.duration and stream.time_base
            ]
            return max(ends, default=Fraction())
        case "matroska":
            return Fraction(container.duration or 0, 10**6)
        case "avi":
            ends = [s.frames / rational(s.average_rate) for s in streams.video if s.average_rate]
            return max(ends, default=Fraction())
    return Fraction()


def _pictures(container: InputContainer, stream: VideoStream) -> Iterator["Packet[VideoStream]"]:
    vp8 = stream.codec_context.name == "vp8"
    for packet in demux(container, stream):
        # Empty packets flush the decoder or repeat the picture before. A VP8 frame may be hidden,
        # for reference only: its show_frame bit is then 0 (RFC 6386, 9.1).
        if packet.size and not (vp8 and not bytes(packet)[0] & 0x10):
            yield packet


def _typical_span(pts: np.ndarray, time_base: Fraction, stream: VideoStream) -> Fraction:
    # Matroska need not say how long the last frame stays: as long as the others do.
    if len(pts) > 1:
        return int(np.median(np.diff(pts))) * time_base
    rate = rational(stream.average_rate)
    return 1 / rate if rate else time_base
