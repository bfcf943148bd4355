"""When each frame of a video is shown, learned from one pass over its packets, without decoding.

Packets come in decoding order, so with B-frames their times jump back and forth; they are sorted
here. Left out are packets that never become a picture: those an edit list cuts away and, when a
recording starts in the middle of a group, those that need what came before it.

N = frames, P = packets. Only the decoder process runs this.
"""

from array import array
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from typing import NamedTuple

import numpy as np
from av.container import InputContainer
from av.error import FFmpegError
from av.format import Flags
from av.packet import Packet
from av.video.stream import VideoStream

from spava_app.engine.video.media_file import fail
from spava_app.engine.video.sandbox.container.clock import Clock
from spava_app.engine.video.sandbox.container.key_frames import is_closed, is_header, is_hidden
from spava_app.engine.video.sandbox.container.source import demux, rational
from spava_app.engine.video.sandbox.pulse import Pulse

# 38 hours at 60 frames a second; what is needed per packet is bounded too.
_MOST_PACKETS = 2**23
# So many frames may be left out without a word.
_HANDFUL = 5
NO_TIME = -(2**63)
# Frames per second where nothing is known, as in ffmpeg.
_RATE = Fraction(25)
# Containers whose every byte is a place to start.
_SOUGHT = {"mpegts", "mpeg"}


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
    """What the packets of a stream say of its frames.

    Attributes:
        pts: [N] int64, time stamps, strictly ascending.
        packets: [N] int64, the packet of each frame; in `counted` streams only those are the same.
        keys: where decoding may start, in decoding order.
        time_base: seconds per unit of `pts`.
        last_span: seconds that the last frame stays.
        jumped: the container's clock jumps, so that its times name no place in the file.
        sought: whether any place in it can be sought then.
        counted: packets' time stamps are not those of their pictures: the k-th picture that is
            decoded is the k-th that is shown.
        notes: what was left out, as sentences.
    """

    pts: np.ndarray
    packets: np.ndarray
    keys: Sequence[Key]
    time_base: Fraction
    last_span: Fraction
    jumped: bool
    sought: bool
    counted: bool
    notes: tuple[str, ...]

    def entries(self) -> np.ndarray:
        """Frames from which decoding may start: [K, 4] int64, as in a `FrameIndex`."""
        frames = np.full(int(self.packets.max()) + 1, -1)
        frames[self.packets] = np.arange(len(self.packets))
        in_order = bool((np.diff(self.packets) > 0).all())
        places = Counter(key.place for key in self.keys)
        found = []
        for key in self.keys:
            frame = int(frames[key.packet]) if key.packet < len(frames) else -1
            usable = key.time is not None
            if self.counted:
                # From an open one on, nobody knows which pictures are decoded.
                usable = usable and key.closed and in_order and not self.jumped
            if self.jumped:
                usable = usable and self.sought
            if self.counted or self.jumped:
                usable = usable and key.place >= 0 and places[key.place] == 1
            if frame >= 0 and usable:
                found.append((frame, key.time, key.place, key.shift))
        return np.array(sorted(found), np.int64).reshape(-1, 4)


@dataclass(frozen=True)
class Packets:
    """What was read of each packet, in decoding order, and of the stream they are of.

    Attributes:
        pts, dts: [P] int64, when it is shown and decoded; `NO_TIME` where nothing says so.
        spans: [P] int64, how long it is shown, 0 where nothing says so.
        discarded: [P] bool, whether an edit list cuts it away.
        ticks: seconds per unit of all of them.
        rate: frames per second, as far as the container knows.
    """

    pts: np.ndarray
    dts: np.ndarray
    spans: np.ndarray
    discarded: np.ndarray
    keys: Sequence[Key]
    ticks: Fraction
    rate: Fraction
    jumped: bool
    sought: bool

    @cached_property
    def shown(self) -> np.ndarray:
        """Which become pictures, as far as that is known without decoding."""
        first = self.keys[0].packet if self.keys else 0
        return ~self.discarded & (np.arange(len(self.pts)) >= first)

    @property
    def ascend(self) -> bool:
        """Whether they come in the order in which they say that their pictures are shown."""
        return bool((np.diff(self.pts[self.shown]) >= 0).all())

    def frames(self, first: int | None, given_at: int | None, *, disordered: bool) -> Scan:
        """The frames they make.

        Args:
            first: the time stamp of the first picture that decoding gives, None if it has none.
            given_at: when the packet is decoded with which the decoder gives it.
            disordered: pictures come in another order than packets say, so that those know when
                they are decoded and not when they are shown.
        """
        notes = []
        counted = disordered or bool((self.pts[self.shown] == NO_TIME).any())
        pts, base, shown = self.pts, self.ticks, self.shown
        if counted:
            # As evenly as they are decoded pictures are shown, and in the end each has its turn.
            pts, base = self._by_decoding(self.dts)
            pts = pts if given_at is None else _delayed(pts, given_at)
        elif self.keys:
            # Those before the first key frame in time mostly need others that are not there.
            start = int(pts[self.keys[0].packet])
            shown = shown & (pts >= (start if first is None else min(start, first)))
        if (lost := int((~shown & ~self.discarded).sum())) > _HANDFUL:
            notes.append(f"{lost} frames at its start need others that are not in it: left out")
        packets = np.flatnonzero(shown)
        packets = packets[np.argsort(pts[packets], kind="stable")]
        pts, span = pts[packets], int(self.spans[packets[-1]]) * self.ticks
        again = np.diff(pts, prepend=pts[0] - 1) <= 0
        repeated = int(again.sum())
        if 10 * repeated > 9 * len(pts):  # a clock that stands still
            counted = True
            pts, base = self._by_decoding(np.full(len(pts), NO_TIME))
            notes.append("its time stamps repeat: frames are taken to be evenly spaced")
        elif repeated and (counted or repeated > _HANDFUL):
            counted = True
            pts, base = _apart(pts, again, base)
        elif repeated:
            pts, packets = pts[~again], packets[~again]
        return Scan(
            pts=pts,
            packets=packets,
            keys=self.keys,
            time_base=base,
            last_span=span or self._typical_span(pts, base),
            jumped=self.jumped,
            sought=self.sought,
            counted=counted,
            notes=tuple(notes),
        )

    def _by_decoding(self, dts: np.ndarray) -> tuple[np.ndarray, Fraction]:
        """Time stamps from decoding times of which not all are known, and their unit: evenly
        between those that are, and as far from each other before and behind; at the stream's own
        rate where, as in raw streams, there are none.
        """
        places, known = np.arange(len(dts)), np.flatnonzero(dts != NO_TIME)
        if not len(known):
            return places, 1 / self.rate
        spans = np.array([float(1 / self.rate / self.ticks)])
        if len(known) > 1:
            spans = np.diff(dts[known]) / np.diff(known)
        usual = np.median(spans)
        # Where it takes much longer there is a gap, after the last packet without a time.
        spans = np.append(np.where(spans > 2 * usual, usual, spans), usual)[: len(known)]
        before = np.maximum(np.searchsorted(known, places, side="right") - 1, 0)
        times = dts[known][before] + (places - known[before]) * spans[before]
        return np.rint(times).astype(np.int64), self.ticks

    def _typical_span(self, pts: np.ndarray, base: Fraction) -> Fraction:
        # Matroska need not say how long the last frame stays: as long as the others do.
        return int(np.median(np.diff(pts))) * base if len(pts) > 1 else 1 / self.rate


def scan_packets(
    container: InputContainer, stream: VideoStream, path: str, pulse: Pulse
) -> Packets:
    """Read the packets of `stream` once, from where the container stands to its end.

    Raises:
        VideoError: no frames, too many, or a file that cannot be read to its end.
    """
    stamps, decoded, spans, discarded = array("q"), array("q"), array("q"), bytearray()
    keys: list[Key] = []
    clock, context = Clock(container, stream), stream.codec_context
    form = container.format.name
    guesses = bool(container.format.flags & Flags.no_timestamps.value)
    try:
        for packet, time, shift in clock.follow(_pictures(container, stream)):
            pulse.beat()
            if len(stamps) >= _MOST_PACKETS:
                fail(path, f"it has more than {_MOST_PACKETS} frames; cut it into parts")
            place = -1 if packet.pos is None else packet.pos
            if packet.is_keyframe:
                keys.append(Key(len(stamps), time, place, shift, is_closed(packet, context)))
            # In program streams pictures share a time stamp; what the library makes of that
            # depends on where it began to read.
            guessed = guesses or (form == "mpeg" and place < 0)
            stamps.append(NO_TIME if guessed or packet.pts is None else packet.pts)
            decoded.append(NO_TIME if guessed or packet.dts is None else packet.dts)
            spans.append(packet.duration or 0)
            discarded.append(packet.is_discard)
    except FFmpegError:
        fail(path, "the file is damaged and cannot be read to its end; copy or convert it again")
    packets = Packets(
        pts=np.array(stamps, np.int64),
        dts=np.array(decoded, np.int64),
        spans=np.array(spans, np.int64),
        discarded=np.array(discarded, bool),
        keys=keys,
        ticks=rational(stream.time_base) or Fraction(1),
        rate=rational(stream.guessed_rate) or rational(stream.average_rate) or _RATE,
        jumped=clock.jumped,
        sought=form in _SOUGHT,
    )
    if not packets.shown.any():
        fail(path, "the video stream holds no frames; copy or convert the file again")
    return packets


def _pictures(container: InputContainer, stream: VideoStream) -> Iterator["Packet[VideoStream]"]:
    codec = stream.codec_context.name
    for packet in demux(container, stream):
        # Empty packets flush the decoder or repeat the picture before.
        if packet.size and not is_hidden(packet, codec) and not is_header(packet, codec):
            yield packet


def _delayed(dts: np.ndarray, given_at: int) -> np.ndarray:
    """When pictures come out of the decoder, which is when they are shown: the first of them with
    the packet that is decoded at `given_at`, those at the end as far apart as the others.
    """
    delay = int(np.searchsorted(dts, given_at))
    if not 0 < delay < len(dts):
        return dts
    span = max(1, int(np.median(np.diff(dts))))
    return np.concatenate([dts[delay:], dts[-1] + np.arange(1, delay + 1) * span])


def _apart(pts: np.ndarray, again: np.ndarray, time_base: Fraction) -> tuple[np.ndarray, Fraction]:
    """Ascending time stamps that are too coarse for the frames, as different ones: frames of one
    time follow each other within its unit.
    """
    places = np.arange(len(pts))
    since = places - np.maximum.accumulate(np.where(again, 0, places))
    parts = int(since.max()) + 1
    return pts * parts + since, time_base / parts
