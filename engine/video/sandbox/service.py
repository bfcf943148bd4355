"""What the decoder process does when asked: look at a file, or send frames through a ring.

Requests, each with the answers that may come. Before any of them may come `alive`, and {"open"},
a number among the paths of the request: {"opened"} comes back with that file's descriptor, or with
why there is none.
    {"hello"}: the same
    {"look": path}: the facts of `look`
    {"shapes": paths}: {"shapes", "stamps"} of pictures
    {"read": source, "group", "slots", "threads", "decoder"}, and the ring's descriptor: for each
        group {"slot", "count", "damaged"}, after the last {"done"}; {"free": slot} comes back
An input that cannot be served is answered by {"error": ...}, and so is an error of this program:
one of type InternalError. The process serves on after either.
"""

import gc
import logging
import os
from typing import Any

from av.error import FFmpegError

from spava_app.engine.media import FrameSource
from spava_app.engine.processes.wire import CONVERT, Disconnected, Message, Wire
from spava_app.engine.video.sandbox.backends import open_reader
from spava_app.engine.video.sandbox.files import Files
from spava_app.engine.video.sandbox.inspect import look, picture_shapes
from spava_app.engine.video.sandbox.pulse import Pulse
from spava_app.engine.video.shared_ring import map_ring
from spava_app.errors import InternalError, InvalidInput, VideoError, encode_error

logger = logging.getLogger(__name__)


def serve(wire: Wire) -> None:
    """Answer until the other side is gone."""
    pulse = Pulse(wire)
    while True:
        pulse.rest()
        request, _ = wire.receive()
        if _is_late(request, wire):
            continue
        pulse.beat()
        try:
            answer, payload = _answer(request, wire, pulse)
        except Disconnected:  # nobody is left to tell
            raise
        except InvalidInput as error:
            answer, payload = encode_error(error), b""
        except MemoryError:
            fix = f"decoding it takes too much memory; scale it down, or {CONVERT}"
            answer, payload = encode_error(VideoError("video", "this file", fix)), b""
        except FFmpegError as error:  # of data that nothing above was made for
            fix = f"the decoder failed on this file ({error.strerror}); {CONVERT}"
            answer, payload = encode_error(VideoError("video", _subject(request), fix)), b""
        # A fault of ours is not the file's. Where the other side is gone, sending ends the process.
        except Exception as error:
            fault = InternalError.of("the decoder process", error)
            logger.error("%s", fault, exc_info=error)
            answer, payload = encode_error(fault), b""
        wire.send(answer, payload)
        if "error" in answer:
            gc.collect()  # frames of an error's traceback hold the ring and its file


def _is_late(message: Message, wire: Wire) -> bool:
    """Whether it belongs to a request that has ended in an error."""
    if "opened" in message and "error" not in message:
        os.close(wire.take_file())
    return "opened" in message or "free" in message


def _subject(request: Message) -> str:
    """The file, or the first of the files, that a request is about."""
    if "read" in request:
        return FrameSource.from_dict(request["read"]).name
    return request["look"] if "look" in request else request["shapes"][0]


def _answer(request: Message, wire: Wire, pulse: Pulse) -> tuple[Message, bytes]:
    if "hello" in request:
        return {"hello": True}, b""
    if "look" in request:
        with Files(wire, [request["look"]], pulse) as files:
            return look(files.open_next(), pulse)
    if "shapes" in request:
        with Files(wire, request["shapes"], pulse) as files:
            return picture_shapes(files, len(request["shapes"]), pulse), b""
    _read(request, wire, pulse)
    return {"done": True}, b""


def _read(request: dict[str, Any], wire: Wire, pulse: Pulse) -> None:
    source = FrameSource.from_dict(request["read"])
    group: int = request["group"]
    groups = [range(first, len(source))[:group] for first in range(0, len(source), group)]
    slots: int = request["slots"]
    file = wire.take_file()
    try:
        ring = map_ring(file, slots, group, source.shape)
    finally:
        os.close(file)
    free = list(range(slots))
    with Files(wire, source.paths, pulse) as files:
        reader = open_reader(request["decoder"], source, files, request["threads"], pulse)
        try:
            for frames in groups:
                while not free:
                    pulse.rest()
                    free.append(wire.expect("free")["free"])
                    pulse.beat()
                slot = free.pop(0)
                whole = [reader.read(frame, ring[slot, i]) for i, frame in enumerate(frames)]
                damaged = [frame for frame, good in zip(frames, whole, strict=True) if not good]
                wire.send({"slot": slot, "count": len(frames), "damaged": damaged})
        finally:
            reader.close()
    pulse.rest()  # who takes the last frames may be as slow as with any other
    for _ in range(slots - len(free)):
        wire.expect("free")
