"""What a path is: a video with its frame index, a picture, or a folder of pictures.

Only the decoder process runs this.
"""

from pathlib import Path
from typing import Any

from av.error import FFmpegError
from av.video.frame import VideoFrame

from spava_app.engine.video.card_mark import is_card_video
from spava_app.engine.video.picture import FORMATS, picture_size
from spava_app.engine.video.pulse import Pulse
from spava_app.engine.video.scan import check_whole, scan_frames
from spava_app.engine.video.source import (
    MOST_PIXELS,
    check_file,
    fail,
    open_video,
    stamp,
    status,
    video_stream,
)

_MOST_PICTURES = 100_000


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
    """One pass over the packets, then one frame for size and rotation. Mirrored pictures and pixels
    that are not square are taken as stored.
    """
    before = stamp(path)
    with open_video(path) as container:
        stream = video_stream(container, path)
        codec, cards = stream.codec_context.name, is_card_video(container.metadata)
        pulse.beat()
        scan = scan_frames(container, stream, path, pulse)
    with open_video(path) as container:
        end = int(scan.pts[-1]) * scan.time_base + scan.last_span
        check_whole(container, path, end, pulse)
    first = _first_picture(path)
    # The rotation is a property of the stream, but the library shows it on decoded frames only.
    rotation = round(first.rotation / 90) % 4 * 90
    shape = (first.height, first.width)
    facts = {
        "kind": "video",
        "stamp": before,
        "shape": shape[::-1] if rotation % 180 else shape,
        "codec": codec,
        "cards": cards,
        "rotation": rotation,
        "time_base": scan.time_base.as_integer_ratio(),
        "last_span": scan.last_span.as_integer_ratio(),
    }
    return facts, scan.pts.tobytes() + scan.is_key.tobytes()


def _first_picture(path: str) -> VideoFrame:
    with open_video(path) as container:
        stream = video_stream(container, path)
        context = stream.codec_context
        if context.width * context.height > MOST_PIXELS:
            fail(path, f"its frames have more than {MOST_PIXELS} pixels; scale the video down")
        context.thread_count = 1
        try:
            for picture in container.decode(stream):
                return picture
        except FFmpegError:
            pass
    fail(path, "its first frame cannot be decoded; copy or convert the file again")
