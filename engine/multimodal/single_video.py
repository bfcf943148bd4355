"""A video by itself, without a prompt around it: what benchmarks and measurements look at."""

from pathlib import Path

from spava_app.engine.media import Media
from spava_app.engine.multimodal.processors import Processor
from spava_app.engine.video.probe import probe
from spava_app.engine.video.sample import sample_times


def video_alone(
    path: Path,
    processor: Processor,
    *,
    num_frames: int | None = None,
    fps: float | None = None,
    first: int = 0,
) -> Media:
    """Frames of a file, evenly spaced, whose units follow each other from token `first` on.

    Args:
        num_frames, fps: as for `sample_times`; one of them.

    Raises:
        VideoError: the file cannot be read.
        InvalidInput: no number of frames, or no rate.
    """
    info = probe(path)
    sample = sample_times(info, num_frames=num_frames, fps=fps)
    fit = processor.fit(len(sample), info.height, info.width, picture=False)
    stop = first + fit.grid[0] * fit.unit_tokens
    return Media(
        path=info.path,
        picture=False,
        frames=sample.frames,
        times=sample.times,
        size=fit.size,
        grid=fit.grid,
        unit_tokens=fit.unit_tokens,
        starts=tuple(range(first, stop, fit.unit_tokens)),
        source=info.source(sample.frames),
    )
