"""A request from file to tokens: the same on any number of ranks, and transformers' own where the
method is exact.
"""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from dist import RankPool
from generation import deadlines, error_when_only_the_last_fails, generate
from safetensors.torch import load_file, save_file
from transformers import Qwen2_5_VLForConditionalGeneration

from spava_app.engine.checkpoints.load import load_model
from spava_app.engine.models.positions import multimodal_positions, spans_of
from spava_app.engine.multimodal.pixels.config import PixelConfig
from spava_app.engine.multimodal.pixels.patches import patchify_frames
from spava_app.engine.multimodal.processors import QwenProcessor
from spava_app.engine.request import Request
from spava_app.engine.timing import deadline_for
from spava_app.engine.video.decode import decode_frames

VIDEO_ID, VISION_START, VISION_END = 290, 292, 293
PIXELS = PixelConfig(min_pixels=28 * 28, max_pixels=84 * 84)
PROCESSOR = QwenProcessor(PIXELS, PIXELS, frozenset((VIDEO_ID, 291)))
NEW_TOKENS = 10
Ranks = Callable[[int], RankPool]


@pytest.fixture(scope="module")
def expected(oracle: Qwen2_5_VLForConditionalGeneration, request_: Request) -> list[int]:
    """transformers' greedy tokens for the same pixels, with our positions passed explicitly."""
    [video] = request_.media
    [group] = decode_frames(video.source, group=len(video.frames))
    patches, grid = patchify_frames(torch.from_numpy(group.pictures), PIXELS, size=video.size)
    ids = list(request_.token_ids)
    positions = multimodal_positions(spans_of(request_, 2, 2), 2)
    for _ in range(NEW_TOKENS):
        prompt = torch.tensor(ids)
        with torch.no_grad():
            logits = oracle(
                input_ids=prompt[None],
                position_ids=positions[:, None],
                mm_token_type_ids=(prompt == VIDEO_ID).long()[None] * 2,
                pixel_values_videos=patches,
                video_grid_thw=torch.tensor([grid]),
            ).logits[0, -1]
        ids.append(int(logits.argmax()))
        positions = torch.cat((positions, positions.max().expand(3, 1) + 1), dim=1)
    return ids[len(request_.token_ids) :]


@pytest.mark.parametrize("world_size", [1, 2, 4])
@pytest.mark.parametrize(
    ("method", "options"),
    [("full", {}), ("spava", {"passing_fraction": 1.0, "anchor_len": 20, "virtual_hosts": 6})],
)
def test_exact_methods_give_transformers_tokens(
    ranks: Ranks,
    checkpoint: Path,
    request_: Request,
    expected: list[int],
    world_size: int,
    method: str,
    options: dict[str, Any],
) -> None:
    asked = replace(request_, method=method, options=options)
    for tokens, stages in ranks(world_size).run(generate, checkpoint, PROCESSOR, asked):
        assert tokens == expected
        assert stages == ["decode", "vision", "exchange", "prefill", "generate"]


def test_spava_gives_the_same_tokens_on_any_number_of_ranks(
    ranks: Ranks, checkpoint: Path, request_: Request
) -> None:
    options = {"virtual_hosts": 8, "anchor_len": 12, "passing_len": 3}
    asked = replace(request_, method="spava", options=options)
    answers = [
        tokens
        for world_size in (1, 2, 4)
        for tokens, _ in ranks(world_size).run(generate, checkpoint, PROCESSOR, asked)
    ]
    assert len(answers[0]) == NEW_TOKENS
    assert all(tokens == answers[0] for tokens in answers)


def test_deadlines_count_neither_the_embedding_nor_more_logits_than_there_are(
    ranks: Ranks, checkpoint: Path, request_: Request
) -> None:
    """Of a prompt one row gets logits, and of each token its own."""
    asked = replace(request_, method="full", options={})
    rows, pairs = len(asked.token_ids), len(asked.token_ids) * (len(asked.token_ids) + 1) // 2
    decoder = load_model(checkpoint).decoder
    config, width = decoder.config, decoder.config.num_heads * decoder.config.head_dim
    weights = sum(weight.numel() for weight in decoder.layers.parameters())
    logits = 2 * config.vocab_size * config.hidden_size
    per_pair = 4 * width * config.num_layers
    found = ranks(1).run(deadlines, checkpoint, PROCESSOR, asked)[0]
    prefill = 2 * weights * rows + per_pair * pairs + logits
    assert found["prefill"] == pytest.approx(deadline_for(prefill, "cpu"), abs=1e-9)
    token = 2 * weights + per_pair * rows + logits
    assert found["generate"] == pytest.approx(deadline_for(token, "cpu"), abs=1e-9)


def test_generation_ends_at_a_stop_id_even_if_it_comes_first(
    ranks: Ranks, checkpoint: Path, request_: Request, expected: list[int]
) -> None:
    for stop in (expected[0], expected[3]):
        asked = replace(request_, stop_ids=(stop,))
        [(tokens, _)] = ranks(1).run(generate, checkpoint, PROCESSOR, asked)
        assert tokens == expected[: expected.index(stop)]


def test_one_token_is_enough(
    ranks: Ranks, checkpoint: Path, request_: Request, expected: list[int]
) -> None:
    for tokens, _ in ranks(2).run(
        generate, checkpoint, PROCESSOR, replace(request_, max_new_tokens=1)
    ):
        assert tokens == expected[:1]


def test_fewer_units_than_ranks(ranks: Ranks, checkpoint: Path, request_: Request) -> None:
    [video] = request_.media
    per_unit = video.unit_tokens
    first = replace(
        video,
        frames=video.frames[:3],
        times=video.times[:3],
        grid=(2, *video.grid[1:]),
        starts=(1, 1 + per_unit),
    )
    short = replace(
        request_,
        media=(first,),
        token_ids=(3, *[VIDEO_ID] * 2 * per_unit, 5, 6),
        query_len=2,
        system_len=1,
        question_len=1,
    )
    [(single, _)] = ranks(1).run(generate, checkpoint, PROCESSOR, short)
    for tokens, _ in ranks(4).run(generate, checkpoint, PROCESSOR, short):
        assert tokens == single


def test_a_rank_that_fails_alone_ends_the_request_on_all(
    ranks: Ranks, checkpoint: Path, request_: Request, expected: list[int]
) -> None:
    [video] = request_.media
    source = replace(video.source, paths=(video.path + ".gone",))
    lost = replace(request_, media=(replace(video, source=source),))
    classes = ranks(2).run(error_when_only_the_last_fails, checkpoint, PROCESSOR, request_, lost)
    assert classes == ["PeerError", "VideoError"]
    for tokens, _ in ranks(2).run(generate, checkpoint, PROCESSOR, request_):
        assert tokens == expected


def test_a_model_that_produces_nan_is_told_on_all_ranks(
    ranks: Ranks, checkpoint: Path, request_: Request, expected: list[int], tmp_path: Path
) -> None:
    """Only the query owner samples: the others must not wait for a token that never comes."""
    broken = Path(shutil.copytree(checkpoint, tmp_path / "nan"))
    tensors = load_file(broken / "model.safetensors")
    tensors["model.norm.weight"] = tensors["model.norm.weight"] * torch.nan
    save_file(tensors, broken / "model.safetensors")
    classes = ranks(2).run(error_when_only_the_last_fails, broken, PROCESSOR, request_, request_)
    assert classes == ["EngineError", "PeerError"]
    for tokens, _ in ranks(2).run(generate, checkpoint, PROCESSOR, request_):
        assert tokens == expected
