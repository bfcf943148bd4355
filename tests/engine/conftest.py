"""A tiny Qwen2.5-VL checkpoint with random weights, saved by transformers itself."""

from pathlib import Path

import pytest
import torch
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

from spava_app.engine.multimodal.pixels.config import PixelConfig
from spava_app.engine.multimodal.processors import QwenProcessor
from spava_app.engine.multimodal.single_video import video_alone
from spava_app.engine.request import Request
from spava_app.engine.synthetic.cards import random_scene, write_video

VIDEO_ID, VISION_START, VISION_END = 290, 292, 293
PIXELS = PixelConfig(min_pixels=28 * 28, max_pixels=84 * 84)
PROCESSOR = QwenProcessor(PIXELS, PIXELS, frozenset((VIDEO_ID, 291)))
NEW_TOKENS = 10


@pytest.fixture(scope="session")
def oracle() -> Qwen2_5_VLForConditionalGeneration:
    """transformers' model, in float32, with weights large enough that every part of it matters."""
    config = Qwen2_5_VLConfig(
        text_config={
            "vocab_size": 300,
            "hidden_size": 64,
            "intermediate_size": 96,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "rms_norm_eps": 1e-6,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 1e6,
                "mrope_section": [2, 3, 3],
            },
            "bos_token_id": None,
            "eos_token_id": None,
        },
        vision_config={
            "depth": 3,
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_heads": 2,
            "out_hidden_size": 64,
            "fullatt_block_indexes": [1],
            "window_size": 56,
            "patch_size": 14,
            "tokens_per_second": 2,
        },
        video_token_id=VIDEO_ID,
        image_token_id=291,
        vision_start_token_id=VISION_START,
        vision_end_token_id=VISION_END,
        architectures=["Qwen2_5_VLForConditionalGeneration"],
    )
    torch.manual_seed(0)
    model = Qwen2_5_VLForConditionalGeneration._from_config(config, attn_implementation="sdpa")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model.eval()


@pytest.fixture(scope="session")
def checkpoint(
    oracle: Qwen2_5_VLForConditionalGeneration, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The folder it was saved to, without a tokenizer."""
    folder = tmp_path_factory.mktemp("checkpoint")
    oracle.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def request_(tmp_path_factory: pytest.TempPathFactory) -> Request:
    """27 frames (an odd number) of a generated file, and a prompt around them."""
    path = tmp_path_factory.mktemp("video") / "cards.mp4"
    write_video(random_scene(9, 1, 0), path, size=96)
    media = video_alone(path, PROCESSOR, num_frames=27, first=3)
    ids = (3, 4, VISION_START, *[VIDEO_ID] * media.num_tokens, VISION_END, 7, 8, 9, 10)
    return Request(
        media=(media,),
        token_ids=ids,
        query_len=4,
        system_len=2,
        question_len=3,
        method="full",
        options={},
        max_new_tokens=NEW_TOKENS,
        stop_ids=(),
    )
