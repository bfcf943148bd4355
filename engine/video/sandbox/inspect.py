"""What a file is: a video or animation with its frame index, or a picture.

Only the decoder process runs this.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
from av.error import FFmpegError

from spava_app.engine.media import Stamp
from spava_app.engine.video.card_mark import is_card_video
from spava_app.engine.video.media_file import MediaFile, fail
from spava_app.engine.video.picture_formats import FORMATS, MOST_PIXELS
from spava_app.engine.video.sandbox.container.orientation import orientation, swaps_sides
from spava_app.engine.video.sandbox.container.packets import Packets, scan_packets
from spava_app.engine.video.sandbox.container.source import open_video, rational
from spava_app.engine.video.sandbox.container.streams import candidates, stream_at
from spava_app.engine.video.sandbox.files import Files
from spava_app.engine.video.sandbox.pictures.animation import Animation, find_animation
from spava_app.engine.video.sandbox.pictures.picture import picture_size
from spava_app.engine.video.sandbox.pictures.spans import SECOND
from spava_app.engine.video.sandbox.pulse import Pulse
from spava_app.engine.video.sandbox.truncation.cut_short import cut_short
from spava_app.errors import VideoError

# Pictures that are looked at for their order; encoders that make B-frames begin at once.
_PICTURES_COMPARED = 64
# More than this of its bytes missing, and a file is refused.
_MISSING_SHARE = 0.05
# Of a pixel, beside its height: beyond that it is a mistake.
_WIDEST = 10


def look(file: MediaFile, pulse: Pulse) -> tuple[dict[str, Any], bytes]:
    """What a file is: facts for JSON, and of a video or animation its time stamps and after them
    its entries, as in a `FrameIndex`.

    Raises:
        VideoError: nothing that can be read.
    """
    with file.open() as stream:
        if found := find_animation(stream, file.path, pulse):
            return _animation(found, file.stamp)
        if size := picture_size(stream, file.path):
            return {"kind": "picture", "shape": size, "stamp": file.stamp}, b""
    return _look_at_video(file, pulse)


def picture_shapes(files: Files, count: int, pulse: Pulse) -> dict[str, Any]:
    """(height, width) and stamp of each picture file.

    Raises:
        VideoError: one of them is no picture, or several in one file.
    """
    shapes, stamps = [], []
    for _ in range(count):
        file = files.open_next()
        with file.open() as stream:
            if find_animation(stream, file.path, pulse):
                fail(file.path, "this file holds several pictures; give it by itself, as a video")
            size = picture_size(stream, file.path)
        if size is None:
            fail(file.path, f"this is no picture; give {', '.join(FORMATS)}")
        shapes.append(size)
        stamps.append(file.stamp)
    return {"shapes": shapes, "stamps": stamps}


def _animation(found: Animation, stamp: Stamp) -> tuple[dict[str, Any], bytes]:
    keys = np.flatnonzero(found.spans.keys)
    nothing = np.zeros_like(keys)
    entries = np.stack([keys, found.starts[keys], nothing, nothing], 1)
    facts = {
        "kind": "animation",
        "stamp": stamp,
        "shape": found.shape,
        "codec": found.form.lower(),
        "time_base": (1, SECOND),
        "last_span": (found.spans.lengths[-1], SECOND),
        "frames": len(found.starts),
    }
    return facts, found.starts.tobytes() + entries.tobytes()


def _look_at_video(file: MediaFile, pulse: Pulse) -> tuple[dict[str, Any], bytes]:
    """One pass over the packets, then the first pictures for what only they tell."""
    with open_video(file) as container:
        pulse.beat()
        streams = [stream.index for stream in candidates(container, file.path)]
        cards = is_card_video(container.metadata)
        notes = _missing(file, container.format.name)
    index, codec, packets = _scan_best(file, streams, pulse)
    first = _first_pictures(file, index, pulse, all_ascend=packets.ascend)
    scan = packets.frames(first.pts, first.dts, disordered=first.disordered)
    notes += scan.notes
    if len(streams) > 1:
        size = f"{first.width}x{first.height}"
        notes.append(f"it has {len(streams)} video streams: stream {index} ({size}) is looked at")
    entries = scan.entries()
    facts = {
        "kind": "video",
        "stamp": file.stamp,
        "shape": _shape(file.path, first),
        "codec": codec,
        "cards": cards,
        "stream": index,
        "orientation": first.orientation,
        "time_base": scan.time_base.as_integer_ratio(),
        "last_span": scan.last_span.as_integer_ratio(),
        "by_bytes": scan.jumped,
        "counted": scan.counted,
        "frames": len(scan.pts),
        "notes": notes,
    }
    return facts, scan.pts.tobytes() + entries.tobytes()


def _scan_best(file: MediaFile, streams: Sequence[int], pulse: Pulse) -> tuple[int, str, Packets]:
    """The first of some streams that has more than one frame, else the first of all: its index, its
    codec and its packets.

    Raises:
        VideoError: none has any.
    """
    best = error = None
    for index in streams:
        with open_video(file) as container:
            stream = stream_at(container, index, file.path)
            try:
                packets = scan_packets(container, stream, file.path, pulse)
            except VideoError as problem:
                error = error or problem
                continue
            found = index, stream.codec_context.name, packets
        if packets.shown.sum() > 1:
            return found
        best = best or found
    if best is None:
        assert error is not None
        raise error
    return best


def _missing(file: MediaFile, form: str) -> list[str]:
    """A sentence if bytes are missing at the file's end.

    Raises:
        VideoError: too many of them.
    """
    with file.open() as stream:
        found = cut_short(stream, form)
    if found is None:
        return []
    there = _amount(found.size)
    if found.missing is None:
        return [f"it is cut short: what follows its {there} is missing"]
    part = f"{there} of {_amount(found.size + found.missing)} are there"
    if (found.share or 0) > _MISSING_SHARE:
        fail(file.path, f"it is cut short, {part}; copy or download it again")
    return [f"it is cut short: {part}"]


def _amount(size: int) -> str:
    return f"{size / 2**20:.1f} MiB" if size >= 2**20 else f"{size / 2**10:.1f} KiB"


@dataclass
class _First:
    """What the first pictures tell: their size as stored, how wide a pixel is (of a height of 1),
    how they are turned, when the first one is shown, the decoding time of the packet with which it
    came out, and whether they come in another order than their packets say.
    """

    width: int
    height: int
    aspect: Fraction
    orientation: int
    pts: int | None
    dts: int | None
    disordered: bool = False


def _first_pictures(
    file: MediaFile, stream_index: int, pulse: Pulse, *, all_ascend: bool
) -> _First:
    """Decode the first picture, and some more where those tell their order.

    Args:
        all_ascend: whether packets come in the order of their time stamps. Where the decoder
            reorders pictures, that is right if there are no B-frames in fact; else the container
            knows decoding times only.
    """
    first, last, path = None, 0, file.path
    with open_video(file) as container:
        stream = stream_at(container, stream_index, path)
        context = stream.codec_context
        if context.width * context.height > MOST_PIXELS:
            fail(path, f"its frames have more than {MOST_PIXELS} pixels; scale the video down")
        context.thread_count = 1
        try:
            for number, picture in enumerate(container.decode(stream)):
                pulse.beat()
                if first is None:
                    aspect, way = rational(stream.sample_aspect_ratio), orientation(picture)
                    whole = None if picture.is_corrupt else picture.pts
                    size = picture.width, picture.height
                    first = _First(*size, aspect, way, whole, picture.dts)
                elif picture.pts is not None and picture.pts < last:
                    first.disordered = True
                    break
                last = picture.pts or last
                if not (all_ascend and context.has_b_frames) or number >= _PICTURES_COMPARED:
                    break
        except FFmpegError:
            pass
    if first is None:
        fail(path, "its first frame cannot be decoded; copy or convert the file again")
    return first


def _shape(path: str, first: _First) -> tuple[int, int]:
    """(height, width) as displayed: pixels that are not square are as wide as they are meant."""
    height, width = first.height, first.width
    if first.aspect and 1 / _WIDEST <= first.aspect <= _WIDEST:
        width = max(1, round(width * first.aspect))
    if width * height > MOST_PIXELS:
        fail(path, f"its frames have more than {MOST_PIXELS} pixels; scale the video down")
    return (width, height) if swaps_sides(first.orientation) else (height, width)
