"""The pixels of one rank: decode and prepare a range of units, a few at a time."""

import warnings
from collections.abc import Iterator, MutableMapping, Sequence
from contextlib import closing
from itertools import islice
from time import perf_counter

import torch
from torch import Tensor

from spava_app.engine.media import Media
from spava_app.engine.processors import Processor
from spava_app.engine.video.decode import decode_frames
from spava_app.errors import VideoWarning


def stream_units(
    media: Media,
    units: Sequence[int],
    processor: Processor,
    *,
    batch_units: int,
    device: torch.device | str = "cpu",
    threads: int = 2,
    timings: MutableMapping[str, float] | None = None,
    damaged: list[float] | None = None,
) -> Iterator[tuple[Sequence[int], Tensor]]:
    """Decode and prepare some units of a medium; their pixels do not depend on the batches.

    Only the frames of `units` are decoded, in a process that runs ahead by a bounded number of
    bytes. Here pictures of one unit are held, and the pixels of at most `batch_units`.

    Args:
        units: of the medium, ascending; may be none.
        batch_units: units per step, at least 1.
        device: where pictures are resized and pixels lie.
        threads: decoder threads.
        timings: host seconds spent are added to its "decode" (waiting for pictures) and
            "preprocess".
        damaged: seconds of frames that are damaged are added to it.

    Yields:
        The units of the step and their pixels, as the vision tower takes them, on `device`.

    Raises:
        VideoError: the file was changed, or cannot be decoded.

    Warns:
        VideoWarning: frames are damaged and the nearest whole ones before them were taken.
    """
    span, spent = processor.frames_per_unit, timings if timings is not None else {}
    count = len(media.frames)
    places = [i for unit in units for i in range(unit * span, min((unit + 1) * span, count))]
    source = media.source.pick(places)
    lost = damaged if damaged is not None else []
    with closing(decode_frames(source, group=span, threads=threads)) as groups:
        for start in range(0, len(units), batch_units):
            step, prepared = units[start : start + batch_units], []
            clock = perf_counter()
            for group in islice(groups, len(step)):
                decoded = perf_counter()
                spent["decode"] = spent.get("decode", 0.0) + decoded - clock
                pictures = torch.from_numpy(group.pictures).to(device)
                prepared.append(processor.prepare(pictures, media))
                lost += [media.times[places[place]] for place in group.damaged]
                clock = perf_counter()
                spent["preprocess"] = spent.get("preprocess", 0.0) + clock - decoded
            yield step, torch.cat(prepared)
    if lost:
        warnings.warn(VideoWarning(media.path, tuple(lost)), stacklevel=2)
