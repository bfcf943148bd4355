"""From a source to its frames: decoded in the decoder process, ahead of who takes them.

G = frames of a group, H, W = height and width as displayed.
"""

import os
from collections.abc import Generator
from dataclasses import dataclass

import numpy as np

from spava_app.engine.media import FrameSource
from spava_app.engine.processes.wire import Message
from spava_app.engine.video.array_files import open_array
from spava_app.engine.video.decoder_process import decoder_process
from spava_app.engine.video.shared_ring import map_ring, num_slots, shared_file
from spava_app.errors import InvalidInput

# Seconds that a frame may take, even a large one far behind its key frame, and any number of them.
_PER_FRAME, _AT_LEAST = 2.0, 30.0


@dataclass(frozen=True)
class FrameGroup:
    """Some frames that follow each other in a source.

    Attributes:
        pictures: `[G, H, W, 3]` uint8 RGB as displayed; overwritten once the next group is taken.
        damaged: places in the source of frames that could not be decoded; they are copies of the
            nearest whole frames before them.
    """

    pictures: np.ndarray
    damaged: tuple[int, ...] = ()


def decode_frames(
    source: FrameSource, *, group: int = 1, threads: int = 2, decoder: str = "pyav"
) -> Generator[FrameGroup, None, None]:
    """Decode all frames of a source, in its order; ascending ones are faster.

    Args:
        source: of a video, pictures or an array.
        group: frames that are yielded together, at least 1; the last group may be short.
        threads: decoder threads, at least 1.
        decoder: "pyav"; "decord" and "torchcodec" take a source whose `rows` are frame numbers.

    Raises:
        InvalidInput: no threads or no group, or a decoder that is not installed.
        VideoError: the file was changed since it was looked at, nothing before a frame can be
            decoded, or decoding fails, hangs or takes too long.
    """
    if threads < 1:
        raise InvalidInput("threads", threads, "give at least 1")
    if group < 1:
        raise InvalidInput("group", group, "give at least 1")
    if decoder not in {"pyav", "decord", "torchcodec"}:
        raise InvalidInput("decoder", decoder, "choose pyav, decord or torchcodec")
    if source.kind == "array":
        return _array(source, group)
    return _decode(source, group, threads, decoder)


def _decode(
    source: FrameSource, group: int, threads: int, decoder: str
) -> Generator[FrameGroup, None, None]:
    if not len(source):
        return
    height, width = source.shape
    frame_bytes = height * width * 3
    slots = num_slots(group * frame_bytes, -(-len(source) // group))
    file = shared_file(slots * group * frame_bytes)
    try:
        ring = map_ring(file, slots, group, source.shape)
        request: Message = {"read": source.to_dict(), "group": group, "slots": slots}
        request |= {"threads": threads, "decoder": decoder}
        with decoder_process(decoder) as process:
            seconds = _AT_LEAST + _PER_FRAME * len(source)
            process.ask(source.paths, request, seconds=seconds, file=file, stamps=source.stamps)
            for first in range(0, len(source), group):
                due = range(len(source))[first : first + group]
                message, _ = process.answer(last=False)
                with process.checked():
                    slot, damaged = _checked(message, due, slots)
                yield FrameGroup(ring[slot, : len(due)], damaged)
                process.tell({"free": slot})
            message, _ = process.answer(last=False)
            with process.checked():
                if "done" not in message:
                    raise ValueError("more than was asked for")
    finally:
        os.close(file)


def _checked(message: Message, due: range, slots: int) -> tuple[int, tuple[int, ...]]:
    """The slot of the group that is due, and which of its frames are damaged.

    Raises:
        ValueError, TypeError, KeyError: a message that says something else.
    """
    slot, damaged = int(message["slot"]), tuple(map(int, message["damaged"]))
    if not 0 <= slot < slots or int(message["count"]) != len(due):
        raise ValueError("not the group that is due")
    if not set(damaged) <= set(due) or len(set(damaged)) < len(damaged):
        raise ValueError("not frames of the group")
    return slot, damaged


def _array(source: FrameSource, group: int) -> Generator[FrameGroup, None, None]:
    frames = open_array(source)  # nothing of a media file: plain numbers
    for first in range(0, len(source), group):
        yield FrameGroup(frames[list(source.rows[first : first + group])])
