"""Makes video_processor.npz: what transformers' Qwen2VLVideoProcessor gives, for exact comparison.

Run from anywhere, in an environment that has torchvision next to torch:

    python tests/golden/make_video_processor.py

The stored file was made with transformers 5.23.0, torch 2.13.0+cpu and torchvision 0.28.0 on
Python 3.11 (x86-64). A torchvision whose compiled operators do not fit the torch (a CUDA build next
to a CPU torch) works too: only the two operators that its import looks up are declared below.
"""

from pathlib import Path

import numpy as np
import torch

# name: frames, height, width, settings. Odd counts, growing, shrinking, no resize, other patches.
CASES = {
    "shrink_odd_count": (3, 61, 97, {"min_pixels": 784, "max_pixels": 28 * 28 * 3}),
    "grow": (2, 20, 31, {"min_pixels": 28 * 28 * 2, "max_pixels": 28 * 28 * 9}),
    "far_shrink": (2, 70, 131, {"min_pixels": 784, "max_pixels": 28 * 28 * 2}),
    "same_size_one_frame": (1, 56, 28, {"min_pixels": 784, "max_pixels": 28 * 28 * 4}),
    "other_patches": (
        5,
        45,
        37,
        {
            "min_pixels": 64,
            "max_pixels": 1200,
            "patch_size": 8,
            "temporal_patch_size": 3,
            "merge_size": 1,
            "image_mean": [0.5, 0.4, 0.3],
            "image_std": [0.2, 0.3, 0.5],
        },
    ),
    "capped": (
        6,
        50,
        70,
        {
            "min_pixels": 400,
            "max_pixels": 12800,
            "patch_size": 5,
            "cap_pixels_per_frame": True,
            "max_video_tokens": 40,
        },
    ),
}


def frames_for(num_frames: int, height: int, width: int) -> np.ndarray:
    """[N, H, W, 3] uint8: slopes, edges and fine texture, different in each channel and frame."""
    n, y, x = np.ogrid[:num_frames, :height, :width]
    red = 255 * ((x // 5 + y // 7 + n) % 2) + 0 * y
    green = (x * 3 + y * 5 + n * 40) % 256
    blue = (x * x + 3 * y * y + 17 * n) % 251
    return np.stack(np.broadcast_arrays(red, green, blue), axis=-1).astype(np.uint8)


def main() -> None:
    library = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    from transformers.models.qwen2_vl.video_processing_qwen2_vl import (
        Qwen2VLVideoProcessor,
        smart_resize,
    )

    arrays: dict[str, np.ndarray] = {}
    for name, (count, height, width, settings) in CASES.items():
        frames = frames_for(count, height, width)
        processor = Qwen2VLVideoProcessor(**settings)
        video = torch.from_numpy(frames).permute(0, 3, 1, 2)
        out = processor(videos=[video], return_tensors="pt", do_sample_frames=False)
        arrays[f"{name}.frames"] = frames
        arrays[f"{name}.patches"] = out["pixel_values_videos"].numpy()
        arrays[f"{name}.grid"] = out["video_grid_thw"][0].numpy()
    rng = np.random.default_rng(0)
    rows = []
    for _ in range(400):
        height, width = (int(2**p) for p in rng.uniform(3.5, 11.5, 2))
        low = int(2 ** rng.uniform(8, 18))
        high = low * int(rng.integers(2, 200))
        try:
            rows.append((height, width, low, high, *smart_resize(height, width, 28, low, high)))
        except ValueError:  # an aspect ratio above 200
            rows.append((height, width, low, high, 0, 0))
    arrays["sizes"] = np.array(rows, dtype=np.int32)
    np.savez_compressed(Path(__file__).with_name("video_processor.npz"), **arrays)


if __name__ == "__main__":
    main()
