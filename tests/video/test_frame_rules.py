"""The rules of benchmarks against their published formulas, and those of qwen-vl-utils against the
library itself.
"""

import importlib
import math
import sys
from fractions import Fraction
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from bare_media import bare_media
from hypothesis import assume, given
from hypothesis import strategies as st
from published import qwen_vl

from spava_app.engine.checkpoints.load import read_config
from spava_app.engine.models.positions import TextSpan, multimodal_positions, span_of
from spava_app.engine.multimodal.pixels.patches import PixelConfig, smart_resize
from spava_app.engine.multimodal.processors import make_processor
from spava_app.engine.video.frame_rules import RULES, smart_nframes
from spava_app.engine.video.probe import probe
from spava_app.engine.video.sample import sample_rule, sample_times
from spava_app.errors import InvalidInput

totals = st.integers(1, 60) | st.integers(1, 200_000)
rates = st.sampled_from([12.5, 24.0, 25.0, 30000 / 1001, 30.0, 60.0])
asked = st.integers(1, 800)


@given(total=totals, fps=rates, num_frames=asked)
def test_what_every_rule_keeps(total: int, fps: float, num_frames: int) -> None:
    for name, rule in RULES.items():
        if name == "qwen-vl-utils" and num_frames == 1:
            continue
        frames = rule(total, total / fps, num_frames)
        assert 1 <= len(frames) <= max(2, num_frames + 1)
        assert 0 <= frames[0] <= frames[-1] < total
        assert (np.diff(frames) > 0).all()
        assert all(type(frame) is int for frame in frames)


@given(total=totals, rate=st.sampled_from([8.0, 16.0, 25.0, 32.0]), num_frames=asked)
def test_longvideobench_as_its_loader_has_it(total: int, rate: float, num_frames: int) -> None:
    """longvideobench_dataset.py: at most int(duration) frames, int(valid / n) apart."""
    duration = total / rate
    assume(duration >= 1)
    valid = total  # int(duration * fps), for rates where that is exact
    count = min(num_frames, int(duration))
    expected = [int(valid / count) * i for i in range(count)]
    assert RULES["longvideobench"](total, duration, num_frames) == tuple(expected)


def test_longvideobench_by_hand() -> None:
    rule = RULES["longvideobench"]
    assert rule(300, 10.0, 64) == tuple(range(0, 300, 30))
    assert rule(301, 10.03, 4) == (0, 75, 150, 225)
    assert rule(12, 0.5, 64) == (0,)  # the original divides by zero
    # 10 s at 12.5 frames a second: only the first half is seen, as in the original.
    assert RULES["spava-short"](125, 10.0, 64) == tuple(range(64))
    assert RULES["spava-short"](40, 1.6, 64) == tuple(range(40))


@given(total=totals, num_frames=asked)
def test_vnbench_as_its_loader_has_it(total: int, num_frames: int) -> None:
    frames = np.linspace(0, total - 1, num_frames, dtype=int)
    assert RULES["vnbench"](total, total / 25, num_frames) == tuple(sorted(set(frames.tolist())))


def test_vnbench_by_hand() -> None:
    assert RULES["vnbench"](101, 4.0, 5) == (0, 25, 50, 75, 100)
    assert RULES["vnbench"](10, 0.4, 4) == (0, 3, 6, 9)
    assert RULES["vnbench"](10, 0.4, 1) == (0,)
    assert RULES["vnbench"](3, 0.1, 64) == (0, 1, 2)


@given(total=totals, num_frames=asked)
def test_internvl_as_its_loader_has_it(total: int, num_frames: int) -> None:
    """get_index without a bound: int(start + segment / 2 + round(segment * i))."""
    size = float(total - 1) / num_frames
    frames = [int(0 + (size / 2) + np.round(size * i)) for i in range(num_frames)]
    assert RULES["internvl"](total, total / 25, num_frames) == tuple(sorted(set(frames)))


def test_internvl_by_hand() -> None:
    assert RULES["internvl"](101, 4.0, 4) == (12, 37, 62, 87)
    assert RULES["internvl"](1, 0.04, 64) == (0,)


# qwen-vl-utils. It imports torchvision for its file reader and its resize; its rules are plain
# Python. The stand-in serves that import, and tells what size the library resizes to.


def _resize_to(video: torch.Tensor, size: list[int], **_: object) -> torch.Tensor:
    return torch.empty(*video.shape[:2], *size, device="meta")


@pytest.fixture(scope="module")
def qwen_vl_utils() -> ModuleType:
    """The library's module of rules."""
    names = ("torchvision", "torchvision.transforms", "torchvision.io")
    stand_ins = {name: ModuleType(name) for name in names}
    torchvision, transforms, io = stand_ins.values()
    vars(torchvision).update(__version__="0.0", io=io, transforms=transforms)
    functional = ModuleType("functional")
    vars(functional).update(resize=_resize_to)
    interpolation = type("InterpolationMode", (), {"BICUBIC": "bicubic"})
    vars(transforms).update(functional=functional, InterpolationMode=interpolation)
    with pytest.MonkeyPatch.context() as patch:
        for name, module in stand_ins.items():
            patch.setitem(sys.modules, name, module)
        package = "qwen_vl_utils"
        pytest.importorskip(package, reason="qwen-vl-utils is not installed (extra: dev)")
        module = importlib.import_module(f"{package}.vision_process")
        for name in [name for name in sys.modules if name.split(".")[0] == package]:
            patch.delitem(sys.modules, name)
    return module


@given(data=st.data(), total=totals, video_fps=rates)
def test_smart_nframes_is_the_librarys(
    qwen_vl_utils: ModuleType, data: st.DataObject, total: int, video_fps: float
) -> None:
    count = st.integers(1, 30) | st.integers(1, 2000)
    if data.draw(st.booleans()):
        options = {"nframes": data.draw(count)}
    else:
        optional = {"fps": st.floats(0.01, 60), "min_frames": count, "max_frames": count}
        options = data.draw(st.fixed_dictionaries({}, optional=optional))
    try:
        expected = qwen_vl_utils.smart_nframes(options, total, video_fps)
    except ValueError:
        with pytest.raises(InvalidInput, match=f"to {total} frames"):
            smart_nframes(total, video_fps, **options)
    else:
        assert smart_nframes(total, video_fps, **options) == expected


@pytest.mark.parametrize("options", [{"min_frames": 7}, {"max_frames": 3}, {"fps": 0.01}])
def test_odd_limits_are_rounded_as_the_library_does(
    qwen_vl_utils: ModuleType, options: dict[str, float]
) -> None:
    expected = qwen_vl_utils.smart_nframes(options, 60, 30.0)
    assert smart_nframes(60, 30.0, **options) == expected


@given(total=st.integers(2, 200_000), video_fps=rates, num_frames=st.none() | st.integers(2, 800))
def test_its_frames_are_the_librarys(
    qwen_vl_utils: ModuleType, total: int, video_fps: float, num_frames: int | None
) -> None:
    options = {} if num_frames is None else {"nframes": num_frames}
    assume(num_frames is None or num_frames <= total - total % 2)
    duration = total / video_fps
    count = qwen_vl_utils.smart_nframes(options, total, total / duration)
    expected = torch.linspace(0, total - 1, count).round().long().tolist()  # as its readers do
    assert RULES["qwen-vl-utils"](total, duration, num_frames) == tuple(expected)


def test_where_the_library_refuses_all_frames_are_taken() -> None:
    assert RULES["qwen-vl-utils"](1, 0.04, None) == (0,)
    assert RULES["qwen-vl-utils"](11, 0.44, 64) == (0, 1, 2, 3, 4, 6, 7, 8, 9, 10)
    with pytest.raises(InvalidInput, match="to 11 frames"):
        RULES["qwen-vl-utils"](11, 0.44, 1)


@given(
    height=st.integers(1, 3000),
    width=st.integers(1, 3000),
    low=st.integers(4, 400).map(lambda tokens: tokens * 784),
    times=st.integers(1, 100),
)
def test_smart_resize_is_the_librarys(
    qwen_vl_utils: ModuleType, height: int, width: int, low: int, times: int
) -> None:
    config = PixelConfig(min_pixels=low, max_pixels=low * times)
    if max(height, width) > 200 * min(height, width):
        with pytest.raises(ValueError, match="200"):
            qwen_vl_utils.smart_resize(height, width, 28, low, low * times)
        with pytest.raises(InvalidInput, match="200"):
            smart_resize(height, width, config)
        return
    expected = qwen_vl_utils.smart_resize(height, width, 28, low, low * times)
    # Of slips thinner than a token the library makes nothing, or counts half a token as one.
    # There transformers' rule is ours.
    assume(min(height, width) > 14 and min(expected) > 0)
    assert smart_resize(height, width, config) == expected


@given(
    num_frames=st.integers(1, 384).map(lambda pairs: 2 * pairs),
    height=st.integers(40, 2200),
    width=st.integers(40, 4000),
)
def test_sizes_of_videos_are_the_librarys(
    qwen_vl_utils: ModuleType, num_frames: int, height: int, width: int
) -> None:
    """Its whole rule for a file: 128 to 768 tokens a frame pair, and a share of all pixels."""
    expected = _size_of_video(qwen_vl_utils, num_frames, height, width)
    config = PixelConfig(cap_pixels_per_frame=True)
    assert smart_resize(height, width, config, num_frames=num_frames) == expected


def _size_of_video(
    qwen_vl_utils: ModuleType, num_frames: int, height: int, width: int, **options: int
) -> tuple[int, ...]:
    """What the library resizes a file to."""
    video = torch.empty(num_frames, 3, height, width, device="meta")
    with pytest.MonkeyPatch.context() as patch:
        readers = {"torchvision": lambda ele: (video, {}, 2.0)}
        patch.setattr(qwen_vl_utils, "VIDEO_READER_BACKENDS", readers)
        patch.setattr(qwen_vl_utils, "get_video_reader_backend", lambda: "torchvision")
        return tuple(qwen_vl_utils.fetch_video({"video": "file", **options}).shape[2:])


@pytest.mark.parametrize("shape", [(2, 1080, 1920), (120, 720, 1280), (768, 1080, 1920), (4, 9, 9)])
def test_videos_of_a_published_folder(
    qwen_vl_utils: ModuleType, shape: tuple[int, int, int], tmp_path: Path
) -> None:
    """Which has no settings for videos: the pictures' 12,845,056 pixels are not for them. What a
    question asks for replaces the limit, upwards too.
    """
    folder = qwen_vl(tmp_path / "model")
    processor = make_processor(folder, read_config(folder))
    assert processor is not None

    def size(**given: int) -> tuple[int, ...]:
        return processor.fit(*shape, picture=False, **given).size

    assert size() == _size_of_video(qwen_vl_utils, *shape)
    assert size(max_pixels=160_000) == _size_of_video(qwen_vl_utils, *shape, max_pixels=160_000)
    enough = math.prod(shape[1:])
    assert size(max_pixels=4 * enough + 200_000) >= size()
    if enough > 768 * 28 * 28:
        assert math.prod(size(max_pixels=4 * enough)) > 768 * 28 * 28 >= math.prod(size())


def test_a_rule_on_a_file_keeps_true_times(videos) -> None:
    info = probe(videos.variable)
    sample = sample_rule(info, "vnbench", 8)
    frames = [math.floor(i * (info.num_frames - 1) / 7) for i in range(8)]
    assert sample.frames == tuple(frames)
    assert sample.times == tuple(info.index.times[frames].tolist())
    assert sample.times != sample_times(info, num_frames=8).times


def exact_positions(pts: list[int], base: Fraction, rows: int, cols: int) -> list[list[int]]:
    """The paper's rule in whole numbers, for text of 5, a video in pairs of frames, and text of 2:
    a pair's time is its first frame's, since that of the first; 2 positions a second.
    """
    expected = [[i] * 3 for i in range(5)]
    for first in pts[::2]:
        tick = math.floor((first - pts[0]) * base * 2)
        expected += [[5 + tick, 5 + row, 5 + col] for row in range(rows) for col in range(cols)]
    after = max(map(max, expected)) + 1
    return [*expected, [after] * 3, [after + 1] * 3]


@pytest.mark.parametrize("name", ["variable", "gop250", "short", "old"])
@pytest.mark.parametrize("rule", [*RULES, {"num_frames": 9}, {"fps": 3.0}, {"fps": 1.0}], ids=str)
def test_positions_are_those_of_the_paper(name: str, rule: str | dict[str, float], videos) -> None:
    info = probe(getattr(videos, name))
    named = isinstance(rule, str)
    sample = sample_rule(info, rule, 12) if named else sample_times(info, **rule)
    units = -(-len(sample) // 2)
    media = bare_media((units, 4, 6), 6, (), frames=sample.frames, times=sample.times)
    spans = [TextSpan(5), span_of(media, frames_per_unit=2, merge_size=2), TextSpan(2)]
    pts = info.index.pts[list(sample.frames)].tolist()
    expected = exact_positions(pts, info.index.time_base, 2, 3)
    assert multimodal_positions(spans, 2).T.tolist() == expected


@pytest.mark.parametrize(
    ("rule", "num_frames", "field"),
    [("lvb", 8, "frame_rule"), ("vnbench", None, "num_frames"), ("vnbench", 0, "num_frames")],
)
def test_wrong_rules(rule: str, num_frames: int | None, field: str, videos) -> None:
    with pytest.raises(InvalidInput) as error:
        sample_rule(probe(videos.short_gops), rule, num_frames)
    assert error.value.field == field
