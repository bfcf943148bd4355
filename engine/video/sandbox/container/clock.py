"""Time stamps that go on where a recording's clock does not.

Transport and program streams are cut and joined freely: a dashcam's next file, a broadcast's next
programme or a segment that was put behind another starts its clock anew. As `ffmpeg` does for such
formats, what lies between the last time stamp and the next is taken off from there on. Only the
decoder process runs this.
"""

from collections.abc import Iterable, Iterator
from fractions import Fraction
from typing import Any, NamedTuple

from av.container import InputContainer
from av.format import Flags
from av.packet import Packet
from av.video.stream import VideoStream

from spava_app.engine.video.sandbox.container.source import rational

# A longer gap is a jump, as in ffmpeg (-dts_delta_threshold); so is going back by more than this.
_GAP, _BACK = Fraction(10), Fraction(1, 10)  # seconds
# Decoders hold fewer pictures back.
_MOST_HELD = 32


class Read(NamedTuple):
    """A packet, its time stamp by the container's clock, and what that clock was shifted by."""

    packet: "Packet[Any]"
    time: int | None
    shift: int


class Clock:
    """Corrects the time stamps of a stream's packets.

    Args:
        container, stream: whose packets they are.
        shift: what is added from the first packet on, in units of the stream's time base.

    Attributes:
        jumped: whether that was changed on the way.
    """

    def __init__(self, container: InputContainer, stream: VideoStream, shift: int = 0) -> None:
        self.jumped = False
        base = rational(stream.time_base)
        may_gap = bool(container.format.flags & Flags.ts_discont.value)
        # Forwards only where clocks are known to jump: elsewhere a gap is one.
        self._gap = int(_GAP / base) if base and may_gap else 2**62
        # Any packet that is decoded before the one before it. Where pictures share a time stamp,
        # the library's guesses are not so exact.
        self._back = int(_BACK / base) if base and container.format.name != "mpegts" else 0
        self._shift = shift
        self._last: int | None = None
        self._shown = -(2**62)
        self._span = self._missing = 0  # of the last packet; packets without a time since then

    def follow(self, packets: Iterable["Packet[Any]"]) -> Iterator[Read]:
        """Packets in decoding order, with time stamps on a clock that goes on."""
        held: list[Read] = []
        for packet in packets:
            before, read = self._shift, Read(packet, packet.pts, self._correct(packet))
            if held and (self._shift != before or len(held) == _MOST_HELD):
                # The library told when it is shown by when the next is decoded: on the new clock.
                first = held[0].packet
                first.pts = first.dts if first.pts is None else first.pts + self._shift - before
                yield from held
                held = []
            ahead = self._is_ahead(packet)
            if packet.pts is not None and not ahead:
                self._shown = max(self._shown, packet.pts)
            if held or ahead:
                held.append(read)
            else:
                yield read
        yield from held

    def _is_ahead(self, packet: "Packet[Any]") -> bool:
        """Whether it is shown so long after it is decoded that a jump must lie between."""
        if packet.pts is None or packet.dts is None:
            return False
        return abs(packet.pts - packet.dts) > self._gap

    def _correct(self, packet: "Packet[Any]") -> int:
        if packet.dts is None:
            self._missing += 1
        else:
            self._go_on(packet.dts, packet.pts, packet.duration or 0)
            packet.dts += self._shift
        if self._shift and packet.pts is not None:
            packet.pts += self._shift
        return self._shift

    def _go_on(self, dts: int, pts: int | None, span: int) -> None:
        now = dts + self._shift
        if self._last is not None:
            ahead = now - self._last - self._span * (1 + self._missing)
            if abs(ahead) > self._gap or now + self._back < self._last:
                self._shift -= ahead
                if pts is not None:  # nothing of what follows is shown before what there was
                    self._shift += max(0, self._shown + self._span - (pts + self._shift))
                self.jumped = True
            else:
                span = span or (now - self._last) // (1 + self._missing)
        self._missing = 0
        self._last = dts + self._shift
        self._span = span or self._span
