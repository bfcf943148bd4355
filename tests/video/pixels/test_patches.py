"""Patches are bit-exact with transformers' video processor; golden/make_video_processor.py has
how.
"""

from hashlib import blake2b
from pathlib import Path

import numpy as np
import pytest
import torch
from golden_frames import frames_for, random_videos
from hypothesis import given
from hypothesis import strategies as st

from spava_app.engine.multimodal.pixels import patches as preprocess
from spava_app.engine.multimodal.pixels.patches import (
    PixelConfig,
    grid_for,
    patchify_frames,
    smart_resize,
)
from spava_app.errors import InvalidInput, VideoError

GOLDEN = Path(__file__).parents[2] / "golden" / "video_processor.npz"
CASES = {
    "shrink_odd_count": {"min_pixels": 784, "max_pixels": 784 * 3},
    "grow": {"min_pixels": 784 * 2, "max_pixels": 784 * 9},
    "far_shrink": {"size": {"shortest_edge": 784, "longest_edge": 784 * 2}},
    "same_size_one_frame": {"size": {"min_pixels": 784, "max_pixels": 784 * 4}},
    "other_patches": {
        "size": {"shortest_edge": 64, "longest_edge": 1200},
        "patch_size": 8,
        "temporal_patch_size": 3,
        "merge_size": 1,
        "image_mean": [0.5, 0.4, 0.3],
        "image_std": [0.2, 0.3, 0.5],
    },
    "capped": {
        "min_pixels": 400,
        "max_pixels": 12800,
        "patch_size": 5,
        "cap_pixels_per_frame": True,
        "max_video_tokens": 40,
    },
}


@pytest.fixture(scope="module")
def golden() -> dict[str, np.ndarray]:
    with np.load(GOLDEN) as arrays:
        return dict(arrays)


@pytest.mark.parametrize("case", CASES)
def test_patches_are_bit_exact_with_transformers(case, golden):
    frames = torch.from_numpy(golden[f"{case}.frames"])
    config = PixelConfig.from_dict(CASES[case])
    count, height, width, _ = frames.shape
    size = smart_resize(height, width, config, num_frames=count)
    patches, grid = patchify_frames(frames, config, size=size)
    assert grid == tuple(golden[f"{case}.grid"]) == grid_for(count, height, width, config)
    assert patches.dtype == torch.float32
    np.testing.assert_array_equal(patches.numpy(), golden[f"{case}.patches"])


def test_random_videos_are_bit_exact_with_transformers():
    """Grid, number of tokens and all pixels of 50 random sizes and lengths."""
    with np.load(GOLDEN.with_name("random_videos.npz")) as arrays:
        golden = dict(arrays)
    videos = random_videos()
    assert len(videos) == len(golden["grids"]) == 50
    for i, (count, height, width, settings) in enumerate(videos):
        config = PixelConfig.from_dict(settings)
        size = smart_resize(height, width, config, num_frames=count)
        frames = torch.from_numpy(frames_for(count, height, width))
        patches, grid = patchify_frames(frames, config, size=size)
        assert grid == tuple(golden["grids"][i]) == grid_for(count, height, width, config)
        flat = patches.numpy().reshape(-1)
        kept = golden["values"][i]
        off = np.abs(flat[:: flat.size // len(kept)][: len(kept)] - kept)
        assert off.max() == 0, (off.max(), off.mean())
        assert blake2b(flat.tobytes(), digest_size=16).digest() == golden["sums"][i].tobytes()


def test_sizes_are_those_of_transformers(golden):
    for height, width, low, high, *expected in golden["sizes"].tolist():
        config = PixelConfig(min_pixels=low, max_pixels=high)
        if expected == [0, 0]:
            with pytest.raises(VideoError, match="200 times"):
                smart_resize(height, width, config)
        else:
            assert smart_resize(height, width, config) == tuple(expected)
    assert [0, 0] in golden["sizes"][:, 4:].tolist()


@given(
    num_frames=st.integers(1, 2000),
    height=st.integers(30, 3000),
    width=st.integers(30, 3000),
    low=st.integers(1, 10**6),
    high=st.integers(0, 10**7),
)
def test_grids_hold_whole_tokens_within_the_limits(num_frames, height, width, low, high):
    config = PixelConfig(min_pixels=low, max_pixels=low + 28 * 28 * 30 + high)
    t, h, w = grid_for(num_frames, height, width, config)
    assert t == (num_frames + 1) // 2
    assert h % 2 == w % 2 == 0
    assert h > 0 < w
    if max(height, width) <= 3 * min(height, width):
        assert h * w * 196 <= config.max_pixels + 28 * 28 * 30


def test_one_patch_by_hand():
    """The order of rows and columns, written out with indices."""
    config = PixelConfig(patch_size=2, merge_size=2, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    frames = torch.randint(0, 256, (4, 8, 12, 3), dtype=torch.uint8)
    patches, grid = patchify_frames(frames, config, size=(8, 12))
    assert grid == (2, 4, 6)
    row = 0
    for t in range(2):
        for top in (0, 4):
            for left in (0, 4, 8):
                for y, x in ((0, 0), (0, 2), (2, 0), (2, 2)):
                    region = frames[2 * t : 2 * t + 2, top + y : top + y + 2, left + x :][:, :, :2]
                    expected = region.permute(3, 0, 1, 2).flatten() / 255
                    torch.testing.assert_close(patches[row], expected, rtol=1e-6, atol=0)
                    row += 1


@given(
    seed=st.integers(0, 2**32 - 1),
    old=st.tuples(st.integers(9, 90), st.integers(9, 90)),
    new=st.tuples(st.integers(9, 90), st.integers(9, 90)),
)
def test_resize_of_other_devices_is_hardly_off(seed, old, new):
    # The path a GPU takes, run here on noise, the worst case. The CPU's weights have 16 bits, so
    # a value may round the other way; 2 levels where that happens in both directions.
    torch.manual_seed(seed)
    pictures = torch.randint(0, 256, (1, 3, *old), dtype=torch.uint8)
    expected = torch.nn.functional.interpolate(pictures, new, mode="bicubic", antialias=True)
    off = (preprocess._resize_floats(pictures, new).int() - expected.int()).abs()
    assert off.max() <= 2
    assert (off > 0).float().mean() < 0.02


@pytest.mark.parametrize(
    ("shape", "dtype", "size"),
    [
        ((2, 28, 28, 3), torch.float32, (28, 28)),
        ((28, 28, 3), torch.uint8, (28, 28)),
        ((2, 3, 28, 28), torch.uint8, (28, 28)),
        ((0, 28, 28, 3), torch.uint8, (28, 28)),
        ((2, 28, 28, 3), torch.uint8, (28, 30)),
        ((2, 28, 28, 3), torch.uint8, (0, 28)),
    ],
)
def test_wrong_frames(shape, dtype, size):
    with pytest.raises(InvalidInput, match="give"):
        patchify_frames(torch.zeros(shape, dtype=dtype), PixelConfig(), size=size)


def test_the_cap_needs_the_number_of_frames():
    with pytest.raises(InvalidInput, match="number of frames"):
        smart_resize(56, 56, PixelConfig(cap_pixels_per_frame=True))


def test_the_cap_leaves_a_little_above_the_smallest_size():
    low = 28 * 28 * 20
    capped = PixelConfig(min_pixels=low, cap_pixels_per_frame=True, max_video_tokens=1)
    assert smart_resize(4 * 84, 4 * 196, capped, num_frames=500) == (84, 196)  # 1.05 x low
    assert grid_for(500, 4 * 84, 4 * 196, capped) == (250, 6, 14)
