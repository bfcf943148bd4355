"""What a rank holds while it encodes: its share of the embeddings and the work of one step, however
long the video is and however few the ranks are.
"""

from collections.abc import Callable
from pathlib import Path

import pytest
from dist import RankPool
from generation import bytes_of_encoding, media_request

from spava_app.engine.multimodal.pixels.config import PixelConfig
from spava_app.engine.multimodal.processors import QwenProcessor
from spava_app.engine.request import Request
from spava_app.engine.synthetic.cards import random_scene, write_video

# 400 patches a unit, of which a CPU takes ten at a time.
PIXELS = PixelConfig(min_pixels=280 * 280, max_pixels=280 * 280)
PROCESSOR = QwenProcessor(PIXELS, PIXELS, frozenset())
UNITS, STEP = 60, 10
Ranks = Callable[[int], RankPool]


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("minute") / "cards.mp4"
    write_video(random_scene(60, 1, seed=3), path)
    return path


def asking(file: Path, units: int) -> Request:
    """About so many pairs of frames."""
    parts = [8, (str(file), 2 * units), 8]
    return media_request(PROCESSOR, parts, picture_id=291, video_id=290, text_ids=280)


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_a_share_and_a_step(world_size: int, ranks: Ranks, checkpoint: Path, file: Path) -> None:
    request = asking(file, UNITS)
    unit_bytes = request.media[0].unit_tokens * 64 * 4
    [(share, peak)] = ranks(1).run(bytes_of_encoding, checkpoint, PROCESSOR, asking(file, STEP))
    step = peak - share
    found = ranks(world_size).run(bytes_of_encoding, checkpoint, PROCESSOR, request)
    assert sum(share for share, _ in found) == UNITS * unit_bytes
    for share, peak in found:
        assert share == UNITS // world_size * unit_bytes
        assert share + 0.9 * step < peak < share + 1.1 * step
    # Otherwise the bound would say nothing: all pixels take far more.
    assert step < UNITS * 2 * 280 * 280 * 3 * 4
