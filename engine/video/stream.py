"""The pixels of one rank: decode and patchify a range of units, a few at a time.

A unit is one temporal patch: `temporal_patch_size` sampled frames, which no other unit shares.
"""

from collections.abc import Generator, Iterator, MutableMapping
from contextlib import closing
from time import perf_counter

import numpy as np
import torch

from spava_app.engine.video.decode import decode_frames
from spava_app.engine.video.preprocess import PixelConfig, patchify_frames
from spava_app.engine.video.probe import VideoInfo
from spava_app.engine.video.sample import FrameSample
from spava_app.errors import InvalidInput


def stream_patches(
    info: VideoInfo,
    sample: FrameSample,
    units: range,
    config: PixelConfig,
    size: tuple[int, int],
    *,
    batch_units: int = 8,
    device: torch.device | str = "cpu",
    threads: int = 2,
    timings: MutableMapping[str, float] | None = None,
) -> Iterator[tuple[range, torch.Tensor]]:
    """Decode and preprocess some units of a video; the patches do not depend on the batches.

    Only the frames of `units` are decoded. At most `batch_units` units of pictures are held.

    Args:
        units: consecutive units, within those of the sample; may be empty.
        size: (height, width) to resize to, from `smart_resize`.
        batch_units: units per step.
        device: where pictures are resized and patches lie.
        threads: decoder threads.
        timings: host seconds spent are added to its "decode" and "preprocess".

    Yields:
        The units of the step and their patches, [len * h * w, 3 * TP * P * P] float32 on `device`.

    Raises:
        InvalidInput: units outside the sample, or a batch of none.
        VideoError: a frame cannot be decoded.
    """
    span = config.temporal_patch_size
    available = -(-len(sample) // span)
    if units.step != 1 or units.start < 0 or max(units.stop, units.start) > available:
        fix = f"give consecutive units from 0 up to {available}"
        raise InvalidInput("units", units, fix)
    if batch_units < 1:
        raise InvalidInput("batch_units", batch_units, "give at least 1")
    frames = sample.frames[units.start * span : units.stop * span]
    spent = timings if timings is not None else {}
    pictures = decode_frames(info, frames, threads=threads)
    return _steps(pictures, units, batch_units, config, size, torch.device(device), spent)


def _steps(
    source: Generator[tuple[int, np.ndarray], None, None],
    units: range,
    batch_units: int,
    config: PixelConfig,
    size: tuple[int, int],
    device: torch.device,
    timings: MutableMapping[str, float],
) -> Iterator[tuple[range, torch.Tensor]]:
    with closing(source) as pictures:
        for first in range(0, len(units), batch_units):
            step = units[first : first + batch_units]
            started = perf_counter()
            wanted = zip(range(len(step) * config.temporal_patch_size), pictures, strict=False)
            batch = np.stack([picture for _, (_, picture) in wanted])
            decoded = perf_counter()
            patches, _ = patchify_frames(torch.from_numpy(batch).to(device), config, size=size)
            done = perf_counter()
            timings["decode"] = timings.get("decode", 0.0) + decoded - started
            timings["preprocess"] = timings.get("preprocess", 0.0) + done - decoded
            yield step, patches
