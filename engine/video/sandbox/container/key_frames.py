"""What a packet's first bytes say of its picture, without decoding."""

from av.packet import Packet
from av.video.codeccontext import VideoCodecContext
from av.video.stream import VideoStream

_IDR_SLICE, _FIRST_SLICES = 5, range(1, 6)  # NAL unit types, H.264 table 7-1
# Parameter sets and messages stand before the first slice.
_HEADERS = 2**14


def is_closed(packet: "Packet[VideoStream]", context: VideoCodecContext) -> bool:
    """Whether all pictures before this packet's are shown before it, and all after it after it; no
    where that is not known of the codec.
    """
    if context.name != "h264":
        return False
    record = context.extradata or b""
    data = bytes(memoryview(packet)[:_HEADERS])
    length = (record[4] & 3) + 1 if len(record) > 4 and record[0] == 1 else 0
    at = 0
    while 0 <= at < len(data):
        if length:
            unit, at = at + length, at + length + int.from_bytes(data[at : at + length])
        else:  # units stand behind start codes (annex B)
            unit = data.find(b"\0\0\1", at) + 3
            at = unit if unit >= 3 else -1
        if at >= 0 and unit < len(data) and (kind := data[unit] & 31) in _FIRST_SLICES:
            return kind == _IDR_SLICE
    return False


def is_hidden(packet: "Packet[VideoStream]", codec: str) -> bool:
    """Whether its picture is for reference only: VP8's show_frame bit is 0 (RFC 6386, 9.1)."""
    return codec == "vp8" and not _first_byte(packet) & 0x10


def is_header(packet: "Packet[VideoStream]", codec: str) -> bool:
    """Whether it is no picture: Theora's headers come again where files were put together."""
    return codec == "theora" and bool(_first_byte(packet) & 0x80)


def _first_byte(packet: "Packet[VideoStream]") -> int:
    return memoryview(packet)[0]
