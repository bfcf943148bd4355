"""The pixels of one rank: decode and prepare a range of units, a few at a time."""

from collections.abc import Generator, Iterator, MutableMapping, Sequence
from contextlib import closing
from time import perf_counter

import numpy as np
import torch
from torch import Tensor

from spava_app.engine.media import Media
from spava_app.engine.processors import Processor
from spava_app.engine.video.decode import decode_frames
from spava_app.engine.video.picture import read_picture
from spava_app.engine.video.probe import probe


def stream_units(
    media: Media,
    units: Sequence[int],
    processor: Processor,
    *,
    batch_units: int,
    device: torch.device | str = "cpu",
    threads: int = 2,
    timings: MutableMapping[str, float] | None = None,
) -> Iterator[tuple[Sequence[int], Tensor]]:
    """Decode and prepare some units of a medium; their pixels do not depend on the batches.

    Only the frames of `units` are decoded. At most `batch_units` units of pictures are held.

    Args:
        units: of the medium, ascending; may be none.
        batch_units: units per step, at least 1.
        device: where pictures are resized and pixels lie.
        threads: decoder threads.
        timings: host seconds spent are added to its "decode" and "preprocess".

    Yields:
        The units of the step and their pixels, as the vision tower takes them, on `device`.

    Raises:
        VideoError: a frame cannot be decoded.
    """
    span, spent = processor.frames_per_unit, timings if timings is not None else {}
    with closing(_pictures(media, units, span, threads)) as pictures:
        for first in range(0, len(units), batch_units):
            step = units[first : first + batch_units]
            started = perf_counter()
            # The last unit of a video may be short of frames.
            wanted = zip(range(len(step) * span), pictures, strict=False)
            batch = np.stack([picture for _, picture in wanted])
            decoded = perf_counter()
            pixels = processor.prepare(torch.from_numpy(batch).to(device), media)
            done = perf_counter()
            spent["decode"] = spent.get("decode", 0.0) + decoded - started
            spent["preprocess"] = spent.get("preprocess", 0.0) + done - decoded
            yield step, pixels


def _pictures(
    media: Media, units: Sequence[int], frames_per_unit: int, threads: int
) -> Generator[np.ndarray, None, None]:
    if not len(units):
        return
    if media.picture:
        yield read_picture(media.path)
        return
    frames = [
        frame
        for unit in units
        for frame in media.frames[unit * frames_per_unit : (unit + 1) * frames_per_unit]
    ]
    with closing(decode_frames(probe(media.path), frames, threads=threads)) as decoded:
        for _, picture in decoded:
            yield picture
