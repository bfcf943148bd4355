"""Which settings serve pictures and which videos, and where a folder keeps them."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from bare_media import bare_media

from spava_app.engine.multimodal.pixels.config import PixelConfig
from spava_app.engine.multimodal.pixels.patches import patchify_frames
from spava_app.engine.multimodal.processors import InternVLProcessor, QwenProcessor, make_processor
from spava_app.errors import CheckpointError

SMALL = PixelConfig(min_pixels=784, max_pixels=784 * 2, mean=(0.1, 0.2, 0.3))
LARGE = PixelConfig(min_pixels=784, max_pixels=784 * 40)
QWEN = {"architectures": ["Qwen2_5_VLForConditionalGeneration"]}
IDS = {"video_token_id": 5, "image_token_id": 6}
MEDIA = bare_media((1, 4, 6), 6, (0,), size=(56, 84))


def test_a_picture_has_its_own_settings() -> None:
    processor = QwenProcessor(SMALL, LARGE, frozenset((5, 6)))
    picture = processor.fit(1, 112, 140, picture=True)
    video = processor.fit(3, 112, 140, picture=False)
    assert (picture.size, picture.grid, picture.unit_tokens) == ((112, 140), (1, 8, 10), 20)
    assert (video.size, video.grid, video.unit_tokens) == ((28, 28), (2, 2, 2), 1)
    assert (picture.content, video.content) == ({"type": "image"}, {"type": "video"})
    assert (picture.runs, video.runs) == ((20,), (2,))
    frames = torch.randint(0, 256, (1, 56, 84, 3), dtype=torch.uint8)
    for is_picture, settings in ((True, LARGE), (False, SMALL)):
        expected, _ = patchify_frames(frames, settings, size=(56, 84))
        assert torch.equal(processor.prepare(frames, replace(MEDIA, picture=is_picture)), expected)


def test_settings_of_pictures_and_videos_in_their_files(tmp_path: Path) -> None:
    for name, most in (("video_preprocessor_config", 2000), ("preprocessor_config", 9000)):
        (tmp_path / f"{name}.json").write_text(json.dumps({"min_pixels": 784, "max_pixels": most}))
    processor = make_processor(tmp_path, QWEN | IDS)
    assert isinstance(processor, QwenProcessor)
    assert (processor.video.max_pixels, processor.picture.max_pixels) == (2000, 9000)
    (tmp_path / "preprocessor_config.json").unlink()
    processor = make_processor(tmp_path, QWEN | IDS)
    assert isinstance(processor, QwenProcessor)
    assert processor.picture.max_pixels == 2000
    parts = {"image_processor": {"max_pixels": 300_000}, "video_processor": {"max_pixels": 200_000}}
    (tmp_path / "processor_config.json").write_text(json.dumps(parts))
    processor = make_processor(tmp_path, QWEN | IDS)
    assert isinstance(processor, QwenProcessor)
    assert (processor.video.max_pixels, processor.picture.max_pixels) == (200_000, 300_000)


def test_folders_that_lack_something(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"config.json.*image_token_id='5'"):
        make_processor(tmp_path, QWEN | {"video_token_id": 5, "image_token_id": "5"})
    with pytest.raises(CheckpointError, match="must hold one of"):
        make_processor(tmp_path, QWEN | IDS)
    assert make_processor(tmp_path, {"architectures": ["Qwen2ForCausalLM"]}) is None


def test_tiles_must_be_those_of_the_tower(tmp_path: Path) -> None:
    config = {
        "architectures": ["InternVLForConditionalGeneration"],
        "text_config": {"hidden_size": 8},
        "vision_config": {
            "hidden_size": 8,
            "intermediate_size": 8,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "image_size": 56,
        },
    }
    processor = make_processor(tmp_path, config)
    assert isinstance(processor, InternVLProcessor)
    assert (processor.tiles.size, processor.tiles.max_tiles, processor.tile_tokens) == (56, 12, 4)
    settings = {"size": {"height": 448, "width": 448}, "image_mean": [0] * 3, "image_std": [1] * 3}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(settings))
    with pytest.raises(CheckpointError, match="image_size=56"):
        make_processor(tmp_path, config)
