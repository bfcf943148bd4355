"""Which frames benchmarks and other programs look at: their rules, to be comparable with them.

They count frames, as if all were shown equally long; `sample_times` goes by time and is the better
choice where nothing must be repeated. Each rule is a function of the frames in the file, its
duration in seconds and the number of frames asked for (None: the rule's own choice). It gives frame
numbers, ascending; what the originals cannot do (a clip shorter than a second, fewer frames than
asked for) ends in the frames that there are. docs/video.md has the sources.
"""

import math
from collections.abc import Callable, Mapping

import numpy as np
import torch

from spava_app.errors import InvalidInput

Rule = Callable[[int, float, int | None], tuple[int, ...]]

FRAME_FACTOR = 2
_FPS, _MIN_FRAMES, _MAX_FRAMES = 2.0, 4, 768


def longvideobench(total: int, duration: float, num_frames: int | None) -> tuple[int, ...]:
    """The loader of LongVideoBench (arXiv 2407.15754): at most one frame per second, at a whole
    number of frames from each other, from the first on; the end of the file may stay unseen.
    """
    return _strided(total, min(_given(num_frames), int(duration)))


def spava_short(total: int, duration: float, num_frames: int | None) -> tuple[int, ...]:
    """Spava's runs of LongVideoBench for its groups of up to 15 and 60 seconds (thunlp/APB): as
    `longvideobench` without the limit of one per second.
    """
    return _strided(total, _given(num_frames))


def vnbench(total: int, duration: float, num_frames: int | None) -> tuple[int, ...]:
    """VNBench (arXiv 2406.09367): evenly from the first to the last frame, rounded down."""
    return _distinct(np.linspace(0, total - 1, _given(num_frames)).astype(int))


def internvl(total: int, duration: float, num_frames: int | None) -> tuple[int, ...]:
    """InternVL's own loader, and Spava's runs of LongVideoBench and VNBench with it: the middle of
    each of `num_frames` segments.
    """
    count = _given(num_frames)
    segment = (total - 1) / count
    starts = np.round(segment * np.arange(count))
    return _distinct((segment / 2 + starts).astype(int))


def qwen_vl_utils(total: int, duration: float, num_frames: int | None) -> tuple[int, ...]:
    """qwen-vl-utils: `smart_nframes` frames, evenly from the first to the last, rounded."""
    if total < FRAME_FACTOR:
        return (0,)
    if num_frames is not None:
        num_frames = min(num_frames, total // FRAME_FACTOR * FRAME_FACTOR)
    count = smart_nframes(total, total / duration, nframes=num_frames)
    # Its own float32 steps: they decide which way a half is rounded.
    return _distinct(torch.linspace(0, total - 1, count).round().long().numpy())


RULES: Mapping[str, Rule] = {
    "longvideobench": longvideobench,
    "spava-short": spava_short,
    "vnbench": vnbench,
    "internvl": internvl,
    "qwen-vl-utils": qwen_vl_utils,
}


def smart_nframes(
    total_frames: int,
    video_fps: float,
    *,
    nframes: int | None = None,
    fps: float = _FPS,
    min_frames: int = _MIN_FRAMES,
    max_frames: int = _MAX_FRAMES,
) -> int:
    """How many frames qwen-vl-utils looks at: `nframes`, or `fps` within limits; an even number.

    Raises:
        InvalidInput: it would be fewer than two or more than there are.
    """
    if nframes is not None:
        count = round(nframes / FRAME_FACTOR) * FRAME_FACTOR
    else:
        least = math.ceil(min_frames / FRAME_FACTOR) * FRAME_FACTOR
        most = math.floor(max_frames / FRAME_FACTOR) * FRAME_FACTOR
        wanted = min(max(total_frames / video_fps * fps, least), most, total_frames)
        count = math.floor(wanted / FRAME_FACTOR) * FRAME_FACTOR
    if not FRAME_FACTOR <= count <= total_frames:
        fix = f"must come to {FRAME_FACTOR} to {total_frames} frames, it comes to {count}"
        raise InvalidInput("nframes, fps", (nframes, fps), fix)
    return count


def _given(num_frames: int | None) -> int:
    if num_frames is None:
        raise InvalidInput("num_frames", num_frames, "give the number of frames for this rule")
    return num_frames


def _strided(total: int, num_frames: int) -> tuple[int, ...]:
    count = max(1, min(num_frames, total))
    return tuple(range(0, total // count * count, total // count))


def _distinct(frames: np.ndarray) -> tuple[int, ...]:
    return tuple(np.unique(frames).tolist())
