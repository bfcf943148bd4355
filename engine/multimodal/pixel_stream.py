"""The pixels of one rank: decode and prepare some units, a few at a time."""

import warnings
from collections.abc import Generator, Iterator, MutableMapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from itertools import chain
from time import perf_counter

import torch
from torch import Tensor

from spava_app.engine.layout import shard
from spava_app.engine.media import Media
from spava_app.engine.multimodal.processors import Processor
from spava_app.engine.video.decode import FrameGroup, decode_frames
from spava_app.errors import VideoWarning

# A decoder gains little from more threads; more processes decode other parts of the file instead.
_THREADS, _PROCESSES = 2, 16
# A process for fewer units would take longer to start than to decode them.
_LEAST_UNITS = 2


def stream_units(
    media: Media,
    units: Sequence[int],
    processor: Processor,
    *,
    batch_units: int,
    device: torch.device | str = "cpu",
    threads: int = 2,
    timings: MutableMapping[str, float] | None = None,
    damaged: set[int] | None = None,
) -> Iterator[tuple[Sequence[int], Tensor]]:
    """Decode and prepare some units of a medium; their pixels do not depend on the batches.

    Only the frames of `units` are decoded, in processes that run ahead by a bounded number of
    bytes. Here pictures of one unit are held, and the pixels of at most `batch_units`.

    Args:
        units: of the medium, ascending; may be none.
        batch_units: units per step, at least 1.
        device: where pictures are resized and pixels lie.
        threads: of all decoders together, at least 1. Every 2 are a process with a part of the
            units.
        timings: seconds spent are added to its "decode" (waiting for pictures) and "preprocess".
        damaged: units with frames that are damaged are added to it.

    Yields:
        The units of the step and their pixels, as the vision tower takes them, on `device`; each
        unit once, in ascending order only where there is one process.

    Raises:
        VideoError: the file was changed, or cannot be decoded.

    Warns:
        VideoWarning: frames are damaged and the nearest whole ones before them were taken.
    """
    span, spent = processor.frames_per_unit, timings if timings is not None else {}
    hurt, lost = damaged if damaged is not None else set(), list[float]()
    processes = num_processes(threads, len(units))
    with ExitStack() as stack:
        parts = [_Part(media, units[own.start : own.stop]) for own in _shards(units, processes)]
        streams = [
            stack.enter_context(closing(part.groups(span, min(threads, _THREADS))))
            for part in parts
        ]
        clock = perf_counter()
        started = list(zip(parts, _started(streams), strict=True))
        spent["decode"] = spent.get("decode", 0.0) + perf_counter() - clock
        # Some of each part at a time: all processes decode ahead while a step is worked on.
        each = units_per_process(batch_units, processes)
        for first in range(0, max(len(part.units) for part in parts), each):
            step: list[int] = []
            prepared: list[Tensor] = []
            for part, groups in started:
                clock = perf_counter()
                own = part.units[first : first + each]
                step += own
                for unit, group in zip(own, groups, strict=False):
                    decoded = perf_counter()
                    spent["decode"] += decoded - clock
                    pictures = torch.from_numpy(group.pictures).to(device)
                    prepared.append(processor.prepare(pictures, media))
                    if group.damaged:
                        hurt.add(unit)
                        lost += [media.times[part.places[place]] for place in group.damaged]
                    clock = perf_counter()
                    spent["preprocess"] = spent.get("preprocess", 0.0) + clock - decoded
            if prepared:
                clock = perf_counter()
                pixels = torch.cat(prepared)
                if pixels.is_cuda:  # what the GPU has still to do belongs to this stage
                    torch.cuda.synchronize(pixels.device)
                spent["preprocess"] += perf_counter() - clock
                yield step, pixels
        for _, groups in started:
            next(groups, None)  # the end: a process that has said it serves the next file
    if lost:
        warnings.warn(VideoWarning(media.path, tuple(sorted(lost))), stacklevel=2)


def num_processes(threads: int, num_units: int) -> int:
    """Decoder processes for so many units; each decodes ahead by `ring.PREFETCH_BYTES`."""
    return max(1, min(_PROCESSES, threads // _THREADS, num_units // _LEAST_UNITS))


def units_per_process(batch_units: int, processes: int) -> int:
    """Units of each process in a step of at least `batch_units`, if there are so many."""
    return -(-batch_units // processes)


class _Part:
    """The units that one process decodes."""

    def __init__(self, media: Media, units: Sequence[int]) -> None:
        self.media, self.units = media, units
        self.places: list[int] = []

    def groups(self, span: int, threads: int) -> Generator[FrameGroup, None, None]:
        """The frames of each unit, of `span` frames."""
        count = len(self.media.frames)
        for unit in self.units:
            self.places += range(unit * span, min((unit + 1) * span, count))
        source = self.media.source.pick(self.places)
        return decode_frames(source, group=span, threads=threads)


def _shards(units: Sequence[int], number: int) -> list[range]:
    return [shard(len(units), part, number) for part in range(number)]


def _started(streams: Sequence[Generator[FrameGroup, None, None]]) -> list[Iterator[FrameGroup]]:
    """The same, all of them decoding: a stream starts when its first group is asked for."""
    with ThreadPoolExecutor(len(streams)) as pool:
        firsts = list(pool.map(lambda stream: next(stream, None), streams))
    return [
        iter(()) if first is None else chain((first,), stream)
        for first, stream in zip(firsts, streams, strict=True)
    ]
