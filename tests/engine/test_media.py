"""Prompts of several videos and pictures: transformers' logits and greedy tokens, over every exact
method and any number of ranks, for checkpoints that transformers saved.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from dist import RankPool
from generation import Text, Vision, generate_logits, media_request
from PIL import Image
from torch import Tensor
from transformers import (
    InternVLConfig,
    InternVLForConditionalGeneration,
    PreTrainedModel,
    Qwen2_5_VLForConditionalGeneration,
)

from spava_app.engine.media import Media
from spava_app.engine.models.positions import multimodal_positions, spans_of
from spava_app.engine.multimodal.pixels.config import PixelConfig
from spava_app.engine.multimodal.pixels.tiles import TileConfig
from spava_app.engine.multimodal.processors import InternVLProcessor, Processor, QwenProcessor
from spava_app.engine.request import Request
from spava_app.engine.video.decode import decode_frames

IMAGE_ID, VIDEO_ID = 291, 290
NEW_TOKENS = 32
Ranks = Callable[[int], RankPool]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Two videos and a picture of three shapes, of moving noise."""
    folder = tmp_path_factory.mktemp("media")
    random = np.random.default_rng(0)
    for name, (height, width) in {"wide": (64, 112), "tall": (96, 64)}.items():
        with av.open(str(folder / f"{name}.mp4"), "w") as container:
            stream = container.add_stream("libx264", rate=10)
            stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
            blocks = random.integers(0, 256, (30, height // 16, width // 16, 3), dtype=np.uint8)
            for picture in blocks.repeat(16, 1).repeat(16, 2):
                container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
            container.mux(stream.encode(None))
    noise = random.integers(0, 256, (7, 5, 3), dtype=np.uint8).repeat(15, 0).repeat(15, 1)
    Image.fromarray(noise).save(folder / "picture.png")
    return {path.stem: str(path) for path in folder.iterdir()}


# Text runs by their length, media by file and number of frames; the last run is the question.
PROMPTS: dict[str, Sequence[Text | Vision]] = {
    "one frame": [3, ("wide", 1), 5],
    "odd frames": [3, ("tall", 7), 5],
    "two videos": [3, ("wide", 6), 4, ("tall", 5), 6],
    "picture": [2, ("picture", 1), 5],
    "picture and video": [3, ("picture", 1), ("wide", 5), 4],
    "several turns": [3, ("tall", 3), 20, ("picture", 1), 15, ("wide", 2), 30, 5],
}


@dataclass(frozen=True)
class Family:
    """A family of models: a checkpoint, transformers' model of it, and how it sees."""

    folder: Path
    oracle: PreTrainedModel
    processor: Processor
    inputs: Callable[[Request, Tensor], dict[str, Any]]


def frames_of(media: Media) -> Tensor:
    """All its frames, decoded in one piece."""
    [group] = decode_frames(media.source, group=len(media.frames))
    return torch.from_numpy(group.pictures.copy())


def qwen(oracle: Qwen2_5_VLForConditionalGeneration, folder: Path) -> Family:
    processor = QwenProcessor(
        PixelConfig(min_pixels=28 * 28, max_pixels=84 * 112),
        PixelConfig(min_pixels=28 * 28, max_pixels=140 * 140),
        frozenset((VIDEO_ID, IMAGE_ID)),
    )

    def inputs(request: Request, ids: Tensor) -> dict[str, Any]:
        positions = multimodal_positions(spans_of(request, 2, 2), 2)
        later = torch.arange(1, 1 + len(ids) - positions.shape[1]) + positions.max()
        positions = torch.cat((positions, later.expand(3, -1)), dim=1)
        given: dict[str, Any] = {
            "position_ids": positions[:, None],
            "mm_token_type_ids": ((ids == IMAGE_ID).long() + (ids == VIDEO_ID).long() * 2)[None],
        }
        for picture, pixels, grid in (
            (True, "pixel_values", "image_grid_thw"),
            (False, "pixel_values_videos", "video_grid_thw"),
        ):
            media = [medium for medium in request.media if medium.picture == picture]
            if media:
                given[pixels] = torch.cat([processor.prepare(frames_of(m), m) for m in media])
                given[grid] = torch.tensor([medium.grid for medium in media])
        return given

    return Family(folder, oracle, processor, inputs)


def internvl(folder: Path) -> Family:
    config = InternVLConfig(
        text_config={
            "model_type": "qwen2",
            "vocab_size": 300,
            "hidden_size": 64,
            "intermediate_size": 96,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 4,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e6},
            "bos_token_id": None,
            "eos_token_id": None,
        },
        vision_config={
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "image_size": 56,
            "patch_size": 14,
            "attention_bias": True,
        },
        tie_word_embeddings=False,
        image_token_id=IMAGE_ID,
        architectures=["InternVLForConditionalGeneration"],
    )
    torch.manual_seed(1)
    oracle = InternVLForConditionalGeneration._from_config(config, attn_implementation="sdpa")
    with torch.no_grad():
        for parameter in oracle.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    oracle.eval().save_pretrained(folder)
    processor = InternVLProcessor(TileConfig(size=56, max_tiles=4), tile_tokens=4)

    def inputs(request: Request, ids: Tensor) -> dict[str, Any]:
        pixels = [processor.prepare(frames_of(medium), medium) for medium in request.media]
        return {"pixel_values": torch.cat(pixels)}

    return Family(folder, oracle, processor, inputs)


@pytest.fixture(scope="module", params=["qwen2.5-vl", "internvl3"])
def family(
    request: pytest.FixtureRequest,
    oracle: Qwen2_5_VLForConditionalGeneration,
    checkpoint: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Family:
    if request.param == "internvl3":
        return internvl(tmp_path_factory.mktemp("internvl"))
    return qwen(oracle, checkpoint)


@dataclass(frozen=True)
class Case:
    """A request, transformers' greedy tokens, and its logits before each of them."""

    request: Request
    tokens: list[int]
    logits: Tensor


@pytest.fixture(scope="module", params=PROMPTS)
def case(request: pytest.FixtureRequest, family: Family, files: dict[str, str]) -> Case:
    parts = [
        part if isinstance(part, int) else (files[part[0]], part[1])
        for part in PROMPTS[request.param]
    ]
    video_id = IMAGE_ID if isinstance(family.processor, InternVLProcessor) else VIDEO_ID
    asked = media_request(
        family.processor, parts, picture_id=IMAGE_ID, video_id=video_id, text_ids=280
    )
    ids = list(asked.token_ids)
    for _ in range(NEW_TOKENS + 1):
        prompt = torch.tensor(ids)
        with torch.no_grad():
            given = family.inputs(asked, prompt)
            logits = family.oracle(input_ids=prompt[None], **given).logits[0]
        ids.append(int(logits[-1].argmax()))
    start = len(asked.token_ids)
    tokens = ids[start : start + NEW_TOKENS]
    assert len(set(tokens)) > 3  # not a constant that anything would reproduce
    return Case(
        replace(asked, max_new_tokens=NEW_TOKENS),
        tokens,
        logits[start - 1 : start - 1 + NEW_TOKENS],
    )


@pytest.mark.parametrize("world_size", [1, 2, 4])
@pytest.mark.parametrize("method", ["full", "ring", "zigzag_ring", "ulysses", "spava"])
def test_logits_and_greedy_tokens(
    ranks: Ranks, family: Family, case: Case, method: str, world_size: int
) -> None:
    options = {"passing_fraction": 1.0, "virtual_hosts": 6} if method == "spava" else {}
    asked = replace(case.request, method=method, options=options)
    asked = Request.from_json(asked.to_json())  # as it travels to the workers
    answers = ranks(world_size).run(generate_logits, family.folder, family.processor, asked)
    assert [tokens for tokens, _ in answers] == [case.tokens] * world_size
    [logits] = [torch.tensor(rows) for _, rows in answers if rows]
    torch.testing.assert_close(logits, case.logits, atol=1e-4, rtol=0)


def test_spans_of_a_picture_and_a_video(files: dict[str, str], checkpoint: Path) -> None:
    """By hand: text 0 and 1 and the start mark, a picture of 4 x 3 tokens, its end mark, ..."""
    processor = QwenProcessor(PixelConfig(min_pixels=1), PixelConfig(min_pixels=1), frozenset())
    parts = [2, (files["picture"], 1), 1, (files["wide"], 30), 3]
    asked = media_request(processor, parts, picture_id=IMAGE_ID, video_id=VIDEO_ID, text_ids=280)
    picture, video = asked.media
    assert picture.grid == (1, 8, 6)
    assert video.grid == (15, 4, 8)
    positions = multimodal_positions(spans_of(asked, 2, 2), 2)
    assert positions[:, :3].tolist() == [[0, 1, 2]] * 3
    assert positions[0, 3:15].tolist() == [3] * 12
    assert positions[1, 3:15].tolist() == [3 + row for row in range(4) for _ in range(3)]
    assert positions[2, 3:15].tolist() == [3, 4, 5] * 4
    # The largest so far is 6, the last row's: mark, text and mark at 7, 8, 9, the video from 10.
    assert positions[:, 15:18].tolist() == [[7, 8, 9]] * 3
    # 30 frames at 10 a second: units start 0.2 s apart, in ticks of half a second.
    assert positions[0, 18::8][:15].tolist() == [10 + int(0.4 * unit + 1e-9) for unit in range(15)]
    # Ticks reach 5, columns only 3.
    assert positions[:, -4:].tolist() == [[16, 17, 18, 19]] * 3


def test_a_request_survives_its_journey(files: dict[str, str]) -> None:
    processor = QwenProcessor(PixelConfig(), PixelConfig(), frozenset())
    parts = [2, (files["picture"], 1), 1, (files["wide"], 5), 3]
    asked = media_request(processor, parts, picture_id=IMAGE_ID, video_id=VIDEO_ID, text_ids=280)
    assert Request.from_json(asked.to_json()) == asked
    assert json.loads(asked.to_json())["media"][0]["picture"] is True
