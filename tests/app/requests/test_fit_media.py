"""An hour of video and a model of 32,768 positions: what is looked at fits, as the plan says."""

import re
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from av.video.stream import VideoStream
from internvl_layouts import write_tokenizer
from PIL import Image

from spava_app.engine.checkpoints.hub import EMBEDDED
from spava_app.engine.checkpoints.load import read_config
from spava_app.engine.multimodal.pixels.config import PixelConfig
from spava_app.engine.multimodal.pixels.tiles import TileConfig
from spava_app.engine.multimodal.processors import (
    InternVLProcessor,
    Processor,
    QwenProcessor,
    make_processor,
)
from spava_app.engine.planning.method_choice import variants
from spava_app.engine.planning.plan import Plan
from spava_app.engine.planning.predictor import Predictor
from spava_app.engine.request import Request
from spava_app.engine.video.probe import probe
from spava_app.engine.video.sample import sample_rule, sample_times
from spava_app.errors import InvalidInput
from spava_app.requests.builder import Preparer
from spava_app.requests.media_input import Question, look
from spava_app.requests.prompt import PromptBuilder

POSITIONS, ANSWER = 32_768, 64
PUBLISHED = PixelConfig(min_pixels=4 * 784, max_pixels=16384 * 784)


def write_grey(path: Path, times: list[int], size: tuple[int, int]) -> Path:
    """A video whose frames show at whole seconds."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=1)
        assert isinstance(stream, VideoStream)
        stream.width, stream.height = size
        stream.pix_fmt = "yuv420p"
        stream.time_base = stream.codec_context.time_base = Fraction(1, 1)
        for number, time in enumerate(times):
            grey = np.full((size[1], size[0], 3), number % 250, np.uint8)
            frame = av.VideoFrame.from_ndarray(grey, format="rgb24")
            frame.pts, frame.time_base = time, Fraction(1, 1)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


@pytest.fixture(scope="module")
def hour(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """3600 s at an uneven rate: 1350 frames of 320 x 240."""
    times = [time for time in range(3600) if time % 4 == 0 or time % 8 == 1]
    return write_grey(tmp_path_factory.mktemp("hour") / "hour.mkv", [*times, 3599], (320, 240))


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve seconds."""
    return write_grey(tmp_path_factory.mktemp("clip") / "clip.mkv", list(range(12)), (320, 240))


def preparer_of(prompts: PromptBuilder, processor: Processor) -> Preparer:
    """One rank on the CPU, with the embedded model behind the prompts."""
    config = read_config(EMBEDDED)
    how = {"device": "cpu", "world_size": 1, "dtype": torch.float32}
    predictor = Predictor.of(config, "embedded", **how)
    return Preparer(prompts, processor, POSITIONS, variants("full", {}, 1), predictor)


@pytest.fixture(scope="module")
def qwen() -> Preparer:
    """Qwen2.5-VL as published, with the embedded model's tokenizer."""
    own = make_processor(EMBEDDED, read_config(EMBEDDED))
    assert isinstance(own, QwenProcessor)
    processor = QwenProcessor(PUBLISHED, PUBLISHED, own.placeholder_ids)
    prompts = PromptBuilder(EMBEDDED, processor, read_config(EMBEDDED))
    return preparer_of(prompts, processor)


@pytest.fixture(scope="module")
def internvl(tmp_path_factory: pytest.TempPathFactory) -> Preparer:
    """A frame takes 256 tokens and 8 to 16 more of text around it."""
    folder = tmp_path_factory.mktemp("internvl")
    write_tokenizer(folder)
    processor = InternVLProcessor(TileConfig(size=448), tile_tokens=256)
    prompts = PromptBuilder(folder, processor, {})
    return preparer_of(prompts, processor)


def ask(preparer: Preparer, video: Path | list[Path], **how: Any) -> tuple[Request, Plan]:
    given = {"num_frames": None, "fps": None, "history": (), "max_new_tokens": ANSWER, **how}
    asked = Question(video, question="What is in it?", **given).checked()
    return preparer(asked, look(asked))


def check(request: Request, *, limit: int = POSITIONS) -> None:
    """It fits, and every frame has its true time."""
    assert len(request.token_ids) + request.max_new_tokens <= limit
    for medium in request.media:
        if not medium.picture:
            times = probe(medium.path).index.times
            assert medium.times == tuple(times[list(medium.frames)].tolist())
        assert medium.starts[-1] + medium.unit_tokens <= len(request.token_ids)


def test_an_hour_is_shrunk_to_fit(qwen: Preparer, hour: Path) -> None:
    """768 frames at 99 tokens a pair are 38,016: over the limit, and 99 is below the floor."""
    request, plan = ask(qwen, hour)
    check(request)
    [media] = plan.media
    assert media.size == (9 * 28, 11 * 28)
    assert media.lowered == ("frames",)
    assert media.num_frames == len(request.media[0].frames)
    # Evenly spaced over the whole hour, as many as there is room for: one more pair has none.
    wanted = sample_times(probe(hour), num_frames=660)
    assert request.media[0].frames == wanted.frames
    assert len(request.token_ids) + ANSWER + 99 > POSITIONS
    assert "(frames lowered to fit)" in str(plan)
    # The same, asked for outright, is the same.
    assert ask(qwen, hour, num_frames=660)[0] == request


def test_size_goes_first(internvl: Preparer, qwen: Preparer, clip: Path, tmp_path: Path) -> None:
    large = write_grey(tmp_path / "large.mkv", list(range(12)), (1280, 720))
    request, plan = ask(qwen, large, max_visual_tokens=3000)  # 26 x 46 squares in each of 6 units
    assert plan.media[0].lowered == ("size",)
    assert plan.media[0].num_frames == 12
    assert plan.media[0].size == (16 * 28, 29 * 28)  # 464 of the 500 tokens of a unit
    assert plan.num_visual == 6 * 464
    check(request)
    request, plan = ask(qwen, clip)
    assert plan.media[0].lowered == ()
    assert "lowered" not in str(plan)
    request, plan = ask(internvl, clip, max_visual_tokens=5 * 256 + 255)
    assert (plan.media[0].num_frames, plan.media[0].lowered) == (5, ("frames",))


def test_the_text_around_frames_is_counted(internvl: Preparer, hour: Path) -> None:
    request, plan = ask(internvl, hour)
    check(request)
    assert plan.media[0].lowered == ("frames",)
    # Nearly full: less than two frames are left.
    assert len(request.token_ids) + ANSWER > POSITIONS - 2 * 280
    # Without counting the text it would have been this many.
    assert plan.media[0].num_frames < (POSITIONS - ANSWER) // 256 - 3


@pytest.mark.parametrize("family", ["qwen", "internvl"])
def test_no_limit_is_exceeded_by_a_token(
    family: str, request: pytest.FixtureRequest, clip: Path
) -> None:
    preparer: Preparer = request.getfixturevalue(family)
    full = ask(preparer, clip)[0]
    largest = len(full.token_ids) + ANSWER
    lengths = set()
    for limit in range(largest - 290, largest + 1):
        asked, _ = ask(replace(preparer, max_tokens=limit), clip)
        check(asked, limit=limit)
        lengths.add(len(asked.token_ids))
    assert asked == full
    assert len(lengths) > 2


@pytest.mark.parametrize("family", ["qwen", "internvl"])
def test_a_number_that_was_given_is_kept_or_refused_with_the_largest(
    family: str, request: pytest.FixtureRequest, hour: Path
) -> None:
    preparer: Preparer = request.getfixturevalue(family)
    with pytest.raises(InvalidInput, match="the most that fits is") as error:
        ask(preparer, hour, num_frames=1200)
    assert (error.value.field, error.value.value) == ("num_frames", 1200)
    most = int(error.value.fix.split(" is ")[1].split(":")[0])
    asked, plan = ask(preparer, hour, num_frames=most)
    check(asked)
    assert asked.media[0].frames == sample_times(probe(hour), num_frames=most).frames
    assert plan.media[0].lowered == ()
    with pytest.raises(InvalidInput, match=f"is {most}:"):
        ask(preparer, hour, num_frames=most + 1)
    with pytest.raises(InvalidInput, match=r"the most that fits is 0\.\d+:") as error:
        ask(preparer, hour, fps=0.3)
    assert error.value.field == "fps"
    rate = float(error.value.fix.split(" is ")[1].split(":")[0])
    asked, _ = ask(preparer, hour, fps=rate)
    check(asked)
    assert asked.media[0].frames == sample_times(probe(hour), fps=rate).frames
    with pytest.raises(InvalidInput, match="fps"):
        ask(preparer, hour, fps=rate + 0.001)


def test_what_fits_nowhere_names_the_question_or_the_budget(
    qwen: Preparer, hour: Path, clip: Path
) -> None:
    with pytest.raises(InvalidInput, match="give at least 198 for these") as error:
        ask(qwen, [hour, clip], max_visual_tokens=197)
    assert error.value.field == "max_visual_tokens"
    request, _ = ask(qwen, [hour, clip], max_visual_tokens=198)
    assert [len(medium.frames) for medium in request.media] == [2, 2]
    for how in ({}, {"num_frames": 8}, {"max_visual_tokens": 99}):
        with pytest.raises(InvalidInput, match="the most that fits is 32") as error:
            ask(qwen, clip, max_new_tokens=POSITIONS - 60, **how)
        assert error.value.field == "max_new_tokens"


@pytest.mark.parametrize(
    "how",
    [
        {},
        {"num_frames": 1},
        {"max_visual_tokens": 600},
        {"history": [("And what is not in it? " * 300, "Yes.")]},
    ],
)
@pytest.mark.parametrize("family", ["qwen", "internvl"])
def test_the_longest_answer_that_is_named_is_taken(
    family: str, how: dict[str, Any], request: pytest.FixtureRequest, clip: Path
) -> None:
    """Also where each frame has a line of text, of which there is less with fewer frames."""
    preparer: Preparer = request.getfixturevalue(family)
    for videos in (clip, [clip, clip]):
        most = _longest(preparer, videos, **how)
        made, _ = ask(preparer, videos, max_new_tokens=most, **how)
        assert len(made.token_ids) + most == POSITIONS
        fix = _refused(preparer, videos, max_new_tokens=most + 1, **how)
        assert fix == f"the most that fits is {most}"


def test_the_question_is_named_with_all_that_comes_with_the_least(
    qwen: Preparer, clip: Path
) -> None:
    """The numbers add up: with a token more in the model it would be the answer that is long."""
    least, _ = ask(qwen, clip, max_new_tokens=_longest(qwen, clip))
    length = len(least.token_ids)
    told = _refused(replace(qwen, max_tokens=length), clip, max_new_tokens=1)
    answered, needed, taken = (int(word) for word in re.findall(r"\d+", told))
    assert (answered + needed, taken) == (length + 1, length)
    one_more = replace(qwen, max_tokens=length + 1)
    assert _refused(one_more, clip, max_new_tokens=2) == "the most that fits is 1"


def _longest(preparer: Preparer, videos: Path | list[Path], **how: Any) -> int:
    """The longest answer that an error names."""
    return int(_refused(preparer, videos, max_new_tokens=POSITIONS - 1, **how).rpartition(" ")[2])


def _refused(preparer: Preparer, videos: Path | list[Path], **how: Any) -> str:
    with pytest.raises(InvalidInput) as error:
        ask(preparer, videos, **how)
    return error.value.fix


def test_a_clip_beside_an_hour_is_seen_whole(qwen: Preparer, hour: Path, clip: Path) -> None:
    request, plan = ask(qwen, [hour, clip])
    check(request)
    assert [media.lowered for media in plan.media] == [("frames",), ()]
    assert plan.media[1].num_frames == 12


def test_pictures_shrink_too(qwen: Preparer, internvl: Preparer, tmp_path: Path) -> None:
    path = tmp_path / "picture.png"
    Image.fromarray(np.zeros((2000, 2000, 3), np.uint8)).save(path)
    request, plan = ask(qwen, path, max_visual_tokens=1000)
    assert plan.media[0].lowered == ("size",)
    assert plan.media[0].size == (31 * 28, 31 * 28)
    assert "(size lowered to fit)" in str(plan)
    request, plan = ask(internvl, path, max_visual_tokens=1300)
    assert (request.media[0].grid, plan.media[0].lowered) == ((1, 2, 2), ("size",))


def test_rules_of_benchmarks(qwen: Preparer, hour: Path, clip: Path) -> None:
    request, plan = ask(qwen, clip, num_frames=4, frame_rule="longvideobench")
    assert request.media[0].frames == (0, 3, 6, 9)
    assert plan.media[0].interval == 3
    with pytest.raises(InvalidInput, match="the most that fits is 661:"):  # it rounds to pairs
        ask(qwen, hour, frame_rule="qwen-vl-utils")
    request, _ = ask(qwen, hour, num_frames=661, frame_rule="qwen-vl-utils")
    assert request.media[0].frames == sample_rule(probe(hour), "qwen-vl-utils", 660).frames
    with pytest.raises(InvalidInput, match="takes num_frames"):
        ask(qwen, clip, fps=1.0, frame_rule="vnbench")


def test_frames_are_made_no_larger_than_asked(qwen: Preparer, tmp_path: Path) -> None:
    clip = write_grey(tmp_path / "large.mkv", list(range(6)), (1280, 720))
    own, wide = (ask(qwen, clip, **how)[1].media[0] for how in ({}, {"max_pixels": 10**7}))
    small = ask(qwen, clip, max_pixels=400 * 400)[1].media[0]
    assert wide == own
    assert own.size[0] * own.size[1] > 400 * 400 >= small.size[0] * small.size[1]
    # As wished, so nothing was lowered to fit.
    assert (small.lowered, small.num_frames) == ((), own.num_frames)
    with pytest.raises(InvalidInput, match="at least 100352"):
        ask(qwen, clip, max_pixels=280 * 280)
