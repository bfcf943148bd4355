"""Time stamps that go on where a recording's clock does not.

Transport and program streams are cut and joined freely: a dashcam's next file, a broadcast's next
programme or a segment that was put behind another starts its clock anew. As `ffmpeg` does for such
formats, what lies between the last time stamp and the next is taken off from there on. Only the
decoder process runs this.
"""

from fractions import Fraction
from typing import Any

from av.container import InputContainer
from av.format import Flags
from av.packet import Packet
from av.video.stream import VideoStream

from spava_app.engine.video.source import rational

# A longer gap is a jump, as in ffmpeg (-dts_delta_threshold); so is going back by more than this.
_GAP, _BACK = Fraction(10), Fraction(1, 10)  # seconds


class Clock:
    """Corrects the time stamps of a stream's packets, which come in decoding order.

    Args:
        container, stream: whose packets they are.
        shift: what is added from the first packet on, in units of the stream's time base.

    Attributes:
        shift: what was added to the last packet.
        jumped: whether it was ever changed.
    """

    def __init__(self, container: InputContainer, stream: VideoStream, shift: int = 0) -> None:
        self.shift, self.jumped = shift, False
        base = rational(stream.time_base)
        self._may_jump = bool(container.format.flags & Flags.ts_discont.value) and base > 0
        self._gap, self._back = (int(s / base) for s in (_GAP, _BACK)) if base else (0, 0)
        self._last: int | None = None
        self._span = 0

    def correct(self, packet: "Packet[Any]") -> None:
        """Change the packet's time stamps to what they are on a clock that goes on."""
        if not self._may_jump:
            return
        if packet.dts is not None:
            self._follow(packet.dts, packet.duration or 0)
            packet.dts += self.shift
        if packet.pts is not None:
            packet.pts += self.shift

    def _follow(self, dts: int, span: int) -> None:
        now = dts + self.shift
        if self._last is not None:
            ahead = now - self._last - self._span
            if abs(ahead) > self._gap or now + self._back < self._last:
                self.shift -= ahead
                self.jumped = True
            else:
                span = span or now - self._last
        self._last = dts + self.shift
        self._span = span or self._span
