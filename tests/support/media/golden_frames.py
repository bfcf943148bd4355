"""Frames for comparisons with other programs, and 50 random videos of them."""

from typing import Any

import numpy as np

# How checkpoints set the processor: its own defaults, Qwen2.5-VL's file, and a budget per video.
SETTINGS: tuple[dict[str, Any], ...] = (
    {},
    {"min_pixels": 3136, "max_pixels": 12_845_056},
    {"cap_pixels_per_frame": True, "max_video_tokens": 600},
)


def frames_for(num_frames: int, height: int, width: int) -> np.ndarray:
    """[N, H, W, 3] uint8: slopes, edges and fine texture, different in each channel and frame."""
    n, y, x = np.ogrid[:num_frames, :height, :width]
    red = 255 * ((x // 5 + y // 7 + n) % 2) + 0 * y
    green = (x * 3 + y * 5 + n * 40) % 256
    blue = (x * x + 3 * y * y + 17 * n) % 251
    return np.stack(np.broadcast_arrays(red, green, blue), axis=-1).astype(np.uint8)


def random_videos() -> list[tuple[int, int, int, dict[str, Any]]]:
    """Frames, height, width and settings of each; sides from half a patch square to full HD."""
    rng = np.random.default_rng(5)
    sides = np.exp(rng.uniform(np.log(14), np.log(1920), (50, 2))).astype(int)
    videos = []
    for i, (height, width) in enumerate(sides.tolist()):
        most = max(1, min(9, 1_500_000 // (height * width)))
        videos.append((int(rng.integers(1, most + 1)), height, width, SETTINGS[i % 3]))
    return videos
