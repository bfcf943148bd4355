"""Makes video_processor.npz: what transformers' Qwen2VLVideoProcessor gives, for exact comparison;
and random_videos.npz: its grids, checksums and some values for 50 random sizes and lengths. Prints
how far `patchify_frames` is from it on these.

Run from anywhere, in an environment that has torchvision next to torch:

    python tests/golden/make_video_processor.py

The stored file was made with transformers 5.23.0, torch 2.13.0+cpu and torchvision 0.28.0 on
Python 3.11 (x86-64). A torchvision whose compiled operators do not fit the torch (a CUDA build next
to a CPU torch) works too: only the two operators that its import looks up are declared below.
"""

import sys
from collections.abc import Callable
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import torch

from spava_app.engine.multimodal.pixels.patches import PixelConfig, patchify_frames, smart_resize

sys.path.insert(0, str(Path(__file__).parents[1] / "support" / "media"))
from golden_frames import frames_for, random_videos

# Kept of each random video, evenly from its patches, besides the checksum of all.
VALUES = 256
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


def main() -> None:
    library = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    from transformers.models.qwen2_vl import video_processing_qwen2_vl as theirs

    def process(frames: np.ndarray, settings: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
        """Its patches and grid."""
        video = torch.from_numpy(frames).permute(0, 3, 1, 2)
        processor = theirs.Qwen2VLVideoProcessor(**settings)
        out = processor(videos=[video], return_tensors="pt", do_sample_frames=False)
        return out["pixel_values_videos"].numpy(), out["video_grid_thw"][0].numpy()

    folder = Path(__file__).parent
    np.savez_compressed(folder / "random_videos.npz", **compared(process))
    arrays: dict[str, np.ndarray] = {}
    for name, (count, height, width, settings) in CASES.items():
        frames = frames_for(count, height, width)
        arrays[f"{name}.frames"] = frames
        arrays[f"{name}.patches"], arrays[f"{name}.grid"] = process(frames, settings)
    rng = np.random.default_rng(0)
    rows = []
    for _ in range(400):
        height, width = (int(2**p) for p in rng.uniform(3.5, 11.5, 2))
        low = int(2 ** rng.uniform(8, 18))
        high = low * int(rng.integers(2, 200))
        try:
            size = theirs.smart_resize(height, width, 28, low, high)
            rows.append((height, width, low, high, *size))
        except ValueError:  # an aspect ratio above 200
            rows.append((height, width, low, high, 0, 0))
    arrays["sizes"] = np.array(rows, dtype=np.int32)
    np.savez_compressed(folder / "video_processor.npz", **arrays)


def compared(process: Callable[..., tuple[np.ndarray, np.ndarray]]) -> dict[str, np.ndarray]:
    """Grids, checksums and values of the random videos; says how far the package is from them."""
    grids, sums, values = [], [], []
    largest = total = count = same = 0.0
    for num_frames, height, width, settings in random_videos():
        frames = frames_for(num_frames, height, width)
        patches, grid = process(frames, settings)
        grids.append(grid)
        sums.append(np.frombuffer(blake2b(patches.tobytes(), digest_size=16).digest(), np.uint8))
        values.append(patches.reshape(-1)[:: patches.size // VALUES][:VALUES])
        config = PixelConfig.from_dict(settings)
        size = smart_resize(height, width, config, num_frames=num_frames)
        ours, our_grid = patchify_frames(torch.from_numpy(frames), config, size=size)
        same += our_grid == tuple(grid)
        off = np.abs(ours.numpy() - patches)
        largest, total, count = max(largest, off.max()), total + off.sum(), count + off.size
    told = (
        f"{len(grids)} videos: {same:.0f} grids the same, {count:.0f} values, largest difference "
    )
    sys.stdout.write(f"{told}{largest}, mean {total / count}\n")
    return {"grids": np.array(grids), "sums": np.array(sums), "values": np.array(values)}


if __name__ == "__main__":
    main()
