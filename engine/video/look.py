"""What a path is: a video with its frame index, a picture, or a folder of pictures.

Only the decoder process runs this.
"""

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from av.error import FFmpegError

from spava_app.engine.video.card_mark import is_card_video
from spava_app.engine.video.orientation import orientation, swaps_sides
from spava_app.engine.video.picture import FORMATS, picture_size
from spava_app.engine.video.pulse import Pulse
from spava_app.engine.video.scan import scan_frames
from spava_app.engine.video.source import (
    MOST_PIXELS,
    check_file,
    fail,
    open_video,
    rational,
    stamp,
    status,
)
from spava_app.engine.video.streams import candidates

_MOST_PICTURES = 100_000
# Pictures that are looked at for their order; encoders that make B-frames begin at once.
_PICTURES_COMPARED = 64
# Of a pixel, beside its height: beyond that it is a mistake.
_WIDEST = 10


def look(path: str, pulse: Pulse) -> tuple[dict[str, Any], bytes]:
    """What there is at `path`: facts for JSON, and of a video its time stamps (int64) and after
    them which frames are keys (bool).

    Raises:
        VideoError: nothing that can be read.
    """
    if status(path).is_folder:
        return {"kind": "folder", "names": _pictures_in(path)}, b""
    check_file(path)
    if size := picture_size(path):
        return {"kind": "picture", "shape": size, "stamp": stamp(path)}, b""
    return _look_at_video(path, pulse)


def picture_shapes(paths: list[str], pulse: Pulse) -> dict[str, Any]:
    """(height, width) and stamp of each picture file.

    Raises:
        VideoError: one of them is no picture.
    """
    shapes = []
    for path in paths:
        pulse.beat()
        check_file(path)
        size = picture_size(path)
        if size is None:
            fail(path, f"this is no picture; give {', '.join(FORMATS)}")
        shapes.append(size)
    return {"shapes": shapes, "stamps": [stamp(path) for path in paths]}


def _pictures_in(path: str) -> list[str]:
    endings = {ending for endings in FORMATS.values() for ending in endings}
    try:
        found = [
            entry.name
            for entry in Path(path).iterdir()
            if entry.suffix.lower() in endings and not entry.name.startswith(".")
        ]
    except OSError:
        fail(path, "this folder may not be read; change its permissions")
    if not found:
        fail(path, "this is a folder without pictures; give a video file or a folder of pictures")
    if len(found) > _MOST_PICTURES:
        fail(path, f"this folder has more than {_MOST_PICTURES} pictures; make it a video")
    return found


def _look_at_video(path: str, pulse: Pulse) -> tuple[dict[str, Any], bytes]:
    """One pass over the packets, then the first pictures for what only they tell."""
    before = stamp(path)
    with open_video(path) as container:
        streams = candidates(container, path)
        number, cards = len(streams), is_card_video(container.metadata)
        stream, codec = streams[0].index, streams[0].codec_context.name
        pulse.beat()
        scan = scan_frames(container, streams[0], path, pulse)
    first, disordered = _first_pictures(path, stream, pulse, all_ascend=scan.ascending)
    if disordered:
        scan = scan.as_counted()
    notes = list(scan.notes)
    if number > 1:
        size = f"{first.width}x{first.height}"
        notes.append(f"it has {number} video streams: stream {stream} ({size}) is looked at")
    entries = scan.entries()
    facts = {
        "kind": "video",
        "stamp": before,
        "shape": _shape(path, first),
        "codec": codec,
        "cards": cards,
        "stream": stream,
        "orientation": first.orientation,
        "time_base": scan.time_base.as_integer_ratio(),
        "last_span": scan.last_span.as_integer_ratio(),
        "by_bytes": scan.jumped,
        "counted": scan.counted,
        "frames": len(scan.pts),
        "notes": notes,
    }
    return facts, scan.pts.tobytes() + entries.tobytes()


@dataclass(frozen=True)
class _First:
    """Of the first picture: its size as stored, how wide its pixels are (of a height of 1), and how
    it is turned.
    """

    width: int
    height: int
    aspect: Fraction
    orientation: int


def _first_pictures(
    path: str, stream_index: int, pulse: Pulse, *, all_ascend: bool
) -> tuple[_First, bool]:
    """The first picture, and whether pictures come in another order than their packets say.

    Args:
        all_ascend: whether packets come in the order of their time stamps. Where the decoder
            reorders pictures, that is right if there are no B-frames in fact; else the container
            knows decoding times only.
    """
    first, last = None, 0
    with open_video(path) as container:
        stream = container.streams[stream_index]
        context = stream.codec_context
        if context.width * context.height > MOST_PIXELS:
            fail(path, f"its frames have more than {MOST_PIXELS} pixels; scale the video down")
        context.thread_count = 1
        try:
            for number, picture in enumerate(container.decode(stream)):
                pulse.beat()
                if first is None:
                    aspect = rational(stream.sample_aspect_ratio)
                    first = _First(picture.width, picture.height, aspect, orientation(picture))
                elif picture.pts is not None and picture.pts < last:
                    return first, True
                last = picture.pts or last
                if not (all_ascend and context.has_b_frames) or number >= _PICTURES_COMPARED:
                    return first, False
        except FFmpegError:
            pass
    if first is None:
        fail(path, "its first frame cannot be decoded; copy or convert the file again")
    return first, False


def _shape(path: str, first: _First) -> tuple[int, int]:
    """(height, width) as displayed: pixels that are not square are as wide as they are meant."""
    height, width = first.height, first.width
    if first.aspect and 1 / _WIDEST <= first.aspect <= _WIDEST:
        width = max(1, round(width * first.aspect))
    if width * height > MOST_PIXELS:
        fail(path, f"its frames have more than {MOST_PIXELS} pixels; scale the video down")
    return (width, height) if swaps_sides(first.orientation) else (height, width)
