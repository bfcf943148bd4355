"""When each frame of a video is shown, learned from one pass over its packets, without decoding.

N = frames, P = packets. Only the decoder process runs this.
"""

from array import array
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import NamedTuple

import numpy as np
from av.container import InputContainer
from av.error import FFmpegError
from av.format import Flags
from av.packet import Packet
from av.video.stream import VideoStream

from spava_app.engine.video.clock import Clock
from spava_app.engine.video.key_frames import is_closed
from spava_app.engine.video.media_file import fail
from spava_app.engine.video.pulse import Pulse
from spava_app.engine.video.source import demux, rational

# 38 hours at 60 frames a second; what is needed per packet is bounded too.
_MOST_PACKETS = 2**23
# So many frames may be left out without a word.
_HANDFUL = 5
_NO_TIME = -(2**63)


class Key(NamedTuple):
    """A packet where decoding may start.

    Attributes:
        packet: its number, in decoding order.
        time: its time stamp, by the container's clock; None where it has none.
        place: its byte in the file; negative where that is not known.
        shift: of the clock, there.
        closed: what was decoded before it is shown before it, and what comes after it after it.
    """

    packet: int
    time: int | None
    place: int
    shift: int
    closed: bool


@dataclass(frozen=True)
class Scan:
    """What the packets of a stream say.

    Attributes:
        pts: [N] int64, time stamps, strictly ascending.
        packets: [N] int64, the packet of each frame; in `counted` streams only those are the same.
        keys: where decoding may start, in decoding order.
        time_base: seconds per unit of `pts`.
        last_span: seconds that the last frame stays.
        jumped: the container's clock jumps, so that its times name no place in the file.
        counted: packets' time stamps are not those of their pictures: the k-th picture that is
            decoded is the k-th that is shown.
        notes: what was left out, as sentences.
    """

    pts: np.ndarray
    packets: np.ndarray
    keys: tuple[Key, ...]
    time_base: Fraction
    last_span: Fraction
    jumped: bool
    counted: bool
    notes: tuple[str, ...]

    @property
    def ascending(self) -> bool:
        """Whether packets come in the order in which they say that their pictures are shown."""
        return bool((np.diff(self.packets) > 0).all())

    def as_counted(self) -> "Scan":
        """The same where decoding has shown that time stamps stay in decoding order."""
        return replace(self, counted=True)

    def entries(self) -> np.ndarray:
        """Frames from which decoding may start: [K, 4] int64, as in a `FrameIndex`."""
        frames = np.full(int(self.packets.max()) + 1, -1)
        frames[self.packets] = np.arange(len(self.packets))
        places = Counter(key.place for key in self.keys)
        found = []
        for key in self.keys:
            frame = int(frames[key.packet]) if key.packet < len(frames) else -1
            usable = key.time is not None
            if self.counted:
                # From an open one on, nobody knows which pictures are decoded.
                usable = usable and key.closed and self.ascending and not self.jumped
            if self.counted or self.jumped:
                usable = usable and key.place >= 0 and places[key.place] == 1
            if frame >= 0 and usable:
                found.append((frame, key.time, key.place, key.shift))
        return np.array(sorted(found), np.int64).reshape(-1, 4)


def scan_frames(container: InputContainer, stream: VideoStream, path: str, pulse: Pulse) -> Scan:
    """Read the packets of `stream` once, from where the container stands to its end.

    Packets come in decoding order, so with B-frames their times jump back and forth; they are
    sorted here. Left out are packets that never become a picture: those an edit list cuts away
    and, when a recording starts in the middle of a group, those that need what came before it.

    Raises:
        VideoError: no frames, too many, or a file that cannot be read to its end.
    """
    stamps, decoded, spans, discarded = array("q"), array("q"), array("q"), bytearray()
    keys: list[Key] = []
    clock, context = Clock(container, stream), stream.codec_context
    try:
        for packet, time, shift in clock.follow(_pictures(container, stream)):
            pulse.beat()
            if len(stamps) >= _MOST_PACKETS:
                fail(path, f"it has more than {_MOST_PACKETS} frames; cut it into parts")
            if packet.is_keyframe:
                closed = is_closed(packet, context)
                place = -1 if packet.pos is None else packet.pos
                keys.append(Key(len(stamps), time, place, shift, closed))
            stamps.append(_NO_TIME if packet.pts is None else packet.pts)
            decoded.append(_NO_TIME if packet.dts is None else packet.dts)
            spans.append(packet.duration or 0)
            discarded.append(packet.is_discard)
    except FFmpegError:
        fail(path, "the file is damaged and cannot be read to its end; copy or convert it again")
    if container.format.flags & Flags.no_timestamps.value:
        stamps = decoded = array("q", [_NO_TIME]) * len(stamps)  # the library guessed
    return _frames(
        np.array(stamps, np.int64),
        np.array(decoded, np.int64),
        np.array(spans, np.int64),
        np.array(discarded, bool),
        keys,
        stream,
        path,
        jumped=clock.jumped,
    )


def _frames(
    pts: np.ndarray,
    dts: np.ndarray,
    spans: np.ndarray,
    discarded: np.ndarray,
    keys: list[Key],
    stream: VideoStream,
    path: str,
    *,
    jumped: bool,
) -> Scan:
    """From what was read of each packet, [P] each, to frames."""
    ticks, notes = rational(stream.time_base) or Fraction(1), []
    time_base, counted = ticks, bool((pts == _NO_TIME).any())
    if counted:
        # Pictures are decoded as evenly as they are shown, and in the end each has its turn.
        pts, time_base = _timed_by_rate(dts, ticks, stream)
    shows = ~discarded
    if keys:
        shows &= np.arange(len(pts)) >= keys[0].packet
        if not counted:
            shows &= pts >= pts[keys[0].packet]
    if (lost := int((~shows & ~discarded).sum())) > _HANDFUL:
        notes.append(f"{lost} frames at its start need others that are not in the file: left out")
    packets = np.flatnonzero(shows)
    if not len(packets):
        fail(path, "the video stream holds no frames; copy or convert the file again")
    packets = packets[np.argsort(pts[packets], kind="stable")]
    pts, last_span = pts[packets], int(spans[packets[-1]]) * ticks
    again = np.diff(pts, prepend=pts[0] - 1) == 0
    if (repeated := int(again.sum())) > _HANDFUL:
        counted = True
        if 10 * repeated > 9 * len(pts):  # a clock that stands still
            pts, time_base = _timed_by_rate(np.full(len(pts), _NO_TIME), ticks, stream)
            notes.append("its time stamps repeat: frames are taken to be evenly spaced")
        else:
            pts, time_base = _apart(pts, again, time_base)
    else:
        pts, packets = pts[~again], packets[~again]
    return Scan(
        pts=pts,
        packets=packets,
        keys=tuple(keys),
        time_base=time_base,
        last_span=last_span or _typical_span(pts, time_base, stream),
        jumped=jumped,
        counted=counted,
        notes=tuple(notes),
    )


def _pictures(container: InputContainer, stream: VideoStream) -> Iterator["Packet[VideoStream]"]:
    vp8 = stream.codec_context.name == "vp8"
    for packet in demux(container, stream):
        # Empty packets flush the decoder or repeat the picture before. A VP8 frame may be hidden,
        # for reference only: its show_frame bit is then 0 (RFC 6386, 9.1).
        if packet.size and not (vp8 and not bytes(packet)[0] & 0x10):
            yield packet


def _timed_by_rate(
    dts: np.ndarray, ticks: Fraction, stream: VideoStream
) -> tuple[np.ndarray, Fraction]:
    """Time stamps for packets of which not all carry one, and their unit: evenly between those that
    do, and as far from each other before and behind; at the stream's own rate where, as in raw
    streams, there are none.
    """
    places = np.arange(len(dts))
    rate = rational(stream.guessed_rate) or rational(stream.average_rate) or Fraction(25)
    known = np.flatnonzero(dts != _NO_TIME)
    if not len(known):
        return places, 1 / rate
    first, last, span = known[0], known[-1], float(1 / rate / ticks)
    if last > first:
        span = (dts[last] - dts[first]) / (last - first)
    times = np.interp(places, known, dts[known])
    times += np.minimum(places - first, 0) * span + np.maximum(places - last, 0) * span
    return np.rint(times).astype(np.int64), ticks


def _apart(pts: np.ndarray, again: np.ndarray, time_base: Fraction) -> tuple[np.ndarray, Fraction]:
    """Ascending time stamps that are too coarse for the frames, as different ones: frames of one
    time follow each other within its unit.
    """
    places = np.arange(len(pts))
    since = places - np.maximum.accumulate(np.where(again, 0, places))
    parts = int(since.max()) + 1
    return pts * parts + since, time_base / parts


def _typical_span(pts: np.ndarray, time_base: Fraction, stream: VideoStream) -> Fraction:
    # Matroska need not say how long the last frame stays: as long as the others do.
    if len(pts) > 1:
        return int(np.median(np.diff(pts))) * time_base
    rate = rational(stream.average_rate)
    return 1 / rate if rate else time_base
