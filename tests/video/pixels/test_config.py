"""Pixel settings as checkpoints write them, old and new."""

import json

import pytest

from spava_app.engine.multimodal.pixels.config import PixelConfig
from spava_app.errors import CheckpointError

# As in the Qwen2.5-VL checkpoints.
QWEN2_5_VL = {
    "min_pixels": 3136,
    "max_pixels": 12845056,
    "patch_size": 14,
    "temporal_patch_size": 2,
    "merge_size": 2,
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
    "image_processor_type": "Qwen2VLImageProcessor",
    "processor_class": "Qwen2_5_VLProcessor",
}


def test_old_and_new_spelling_agree():
    old = PixelConfig.from_dict(QWEN2_5_VL)
    assert (old.min_pixels, old.max_pixels, old.factor) == (3136, 12845056, 28)
    new = {k: v for k, v in QWEN2_5_VL.items() if "pixels" not in k}
    new |= {"size": {"shortest_edge": 3136, "longest_edge": 12845056}, "min_pixels": None}
    new |= {"do_resize": True, "resample": 3, "rescale_factor": 0.00392156862745098}
    assert PixelConfig.from_dict(new) == old
    assert PixelConfig.from_dict(new | {"max_pixels": 5000}).max_pixels == 5000
    assert PixelConfig.from_dict({}) == PixelConfig()


def test_the_video_file_wins_over_the_image_file(tmp_path):
    image, video = (
        tmp_path / "preprocessor_config.json",
        tmp_path / "video_preprocessor_config.json",
    )
    image.write_text(json.dumps(QWEN2_5_VL))
    assert PixelConfig.from_folder(tmp_path, picture=True).max_pixels == 12845056
    alone = PixelConfig.from_folder(tmp_path)
    assert (alone.min_pixels, alone.max_pixels) == (128 * 28 * 28, 768 * 28 * 28)
    assert alone.cap_pixels_per_frame
    video.write_text(json.dumps(QWEN2_5_VL | {"max_pixels": 7840}))
    assert PixelConfig.from_folder(tmp_path).max_pixels == 7840
    both = tmp_path / "processor_config.json"
    both.write_text(json.dumps({"processor_class": "Qwen2_5_VLProcessor"}))
    assert PixelConfig.from_folder(tmp_path).max_pixels == 7840
    both.write_text(json.dumps({"video_processor": {"max_pixels": 784_000}}))
    assert PixelConfig.from_folder(tmp_path).max_pixels == 784_000


def test_folders_without_settings(tmp_path):
    with pytest.raises(CheckpointError, match="must hold one of"):
        PixelConfig.from_folder(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text("{")
    with pytest.raises(CheckpointError, match="JSON"):
        PixelConfig.from_folder(tmp_path)


@pytest.mark.parametrize(
    "settings",
    [
        {"do_normalize": False},
        {"resample": 2},
        {"rescale_factor": 1 / 127.5},
        {"do_center_crop": True},
        {"patch_size": 0},
        {"patch_size": "14"},
        {"min_pixels": 9000, "max_pixels": 8000},
        {"image_std": [0.1, 0.1, 0]},
        {"image_mean": [0.5]},
    ],
)
def test_settings_that_cannot_be_met(settings):
    with pytest.raises(CheckpointError, match=next(iter(settings))):
        PixelConfig.from_dict(settings)
