"""Predictions from first principles against the committed measurements, with the default rates."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from bare_media import bare_media

from spava_app.engine.bench.cases import read_case
from spava_app.engine.layout import PromptShape
from spava_app.engine.media import FrameSource
from spava_app.engine.models.config.decoder import DecoderConfig
from spava_app.engine.models.flops import internvit_config, qwen_config
from spava_app.engine.models.geometries import GEOMETRIES
from spava_app.engine.models.internvl3 import InternVisionTower
from spava_app.engine.models.qwen2_5_vl import VisionConfig, VisionTower
from spava_app.engine.parallel.base import make_method
from spava_app.engine.parallel.buffers import HeadShape
from spava_app.engine.planning.decoder_time import DecoderTime
from spava_app.engine.planning.encoder_time import EncoderTime
from spava_app.engine.planning.hardware import Curve, Machine
from spava_app.engine.planning.hardware_profiles import default_machine
from spava_app.engine.planning.video_time import Decoding

RESULTS = Path(__file__).parents[3] / "docs" / "results"
# Good enough to choose by: machines of one kind differ by half of it.
WITHIN = 0.2
H200 = default_machine("cuda", "NVIDIA H200", 16)


def load(name: str) -> dict[str, Any]:
    return json.loads((RESULTS / name).read_text())


PREFILLS = [
    (report["ranks"], case)
    for report in (load("engine-h200.json"), load("engine-h200-x2.json"))
    for case in report["cases"]
]
TOWERS = load("vision-h200.json")["towers"]
FRAMES = load("frames-h200.json")


def name_of(value: object) -> str:
    if isinstance(value, dict) and "method" in value:
        return f"{value['model']}-{value['method']}-{value['tokens']}"
    if isinstance(value, dict):
        return f"{value['tower']}-{value['input']}".replace(" ", "-")
    return str(value)


def costs_of(geometry: str) -> DecoderTime:
    return DecoderTime(DecoderConfig.from_hf(GEOMETRIES[geometry]), H200, torch.bfloat16)


@pytest.mark.parametrize(("ranks", "case"), PREFILLS, ids=name_of)
def test_prefills_on_h200s(ranks: int, case: dict[str, Any]) -> None:
    asked = read_case(
        f"{case['model']} {case['method']} {case['tokens']}", ranks=ranks, checkpoint=None
    )
    method = make_method(case["method"], case["options"])
    layout = method.layout(asked.request(8).shape, ranks)
    predicted = costs_of(case["model"]).prefill(method, layout)
    assert predicted == pytest.approx(case["seconds"]["prefill"], rel=WITHIN)


@pytest.mark.parametrize("row", TOWERS, ids=name_of)
def test_vision_towers_on_an_h200(row: dict[str, Any]) -> None:
    shape = row["geometry"]
    with torch.device("meta"):
        if "tiles" in shape:
            tower, units = InternVisionTower(internvit_config()), shape["tiles"]
            media = bare_media((units, 1, 1), 256, ())
        else:
            tower, units = VisionTower(qwen_config(shape["out_hidden"])), shape["units"]
            grid = (units, shape["height"], shape["width"])
            media = bare_media(grid, grid[1] * grid[2] // 4, ())
    predicted = EncoderTime(tower, H200, torch.bfloat16).vision_seconds(media, units)
    assert predicted == pytest.approx(row["seconds"], rel=WITHIN)


@pytest.mark.parametrize("row", FRAMES["rows"], ids=lambda row: f"{row['ranks']}-ranks")
def test_the_way_from_a_file_on_h200s(row: dict[str, Any]) -> None:
    """An hour of 640 x 360 at 30 frames a second, one looked at each second, on 32 cores."""
    tokens, units = FRAMES["tokens"], 1800
    every = FRAMES["rate"]
    source = FrameSource(
        "video",
        ("",),
        ((0, 0),),
        (360, 640),
        tuple(range(0, 3600 * every, every)),
        # A key frame every 250.
        tuple(
            ((frame // 250 * 250, 0, 0, 0),) if frame >= 250 else ()
            for frame in range(0, 108_000, every)
        ),
    )
    media = bare_media(
        (units, 26, 46),
        tokens // units,
        range(32, 32 + tokens, tokens // units),
        source=source,
        frames=tuple(range(0, 108_000, every)),
        size=(364, 644),
    )
    config = VisionConfig.from_hf(GEOMETRIES["Qwen2.5-VL-7B"])
    with torch.device("meta"):
        tower = VisionTower(config)
    layout = make_method("spava").layout(PromptShape(tokens + 64, 32, 32), row["ranks"])
    machine = default_machine("cuda", "NVIDIA H200", 32)
    predicted = EncoderTime(tower, machine, torch.bfloat16).seconds([media], layout)
    measured = row["slowest"]
    assert predicted["vision"] == pytest.approx(measured["vision"], rel=WITHIN)
    # From the file to embeddings; how much of decoding is hidden moves between the stages.
    assert sum(predicted.values()) == pytest.approx(measured["total"], rel=WITHIN)
    alone = Decoding.of(media, range(units), machine.cores).pixels / machine.decode
    assert alone == pytest.approx(measured["decode_alone"], rel=WITHIN)


def test_a_token_is_bound_by_the_host_or_by_what_is_read() -> None:
    costs = costs_of("Qwen2.5-VL-7B")
    method = make_method("full")
    short, long = (method.layout(PromptShape(n, 64), 1) for n in (2**14, 2**24))
    host = (28 * 33 + 30) * H200.launch_seconds
    assert costs.token(short) == pytest.approx(host, rel=0.05)
    read = 28 * 2**24 * 2 * 4 * 128 * 2 / H200.memory
    assert costs.token(long) == pytest.approx(read, rel=0.05)
    # A cache spread over ranks is read by all of them at once.
    spread = make_method("zigzag_ring").layout(PromptShape(2**24, 64), 8)
    assert costs.token(spread) < 0.25 * costs.token(long)


def test_what_travels_is_hidden_behind_what_is_computed() -> None:
    """With a link a thousand times slower a ring waits for it; without overlap spava waits too."""
    slow = replace(H200, link=Curve(((1e3, 4e7), (1e8, 3e8))))
    costs = costs_of("Qwen2.5-VL-7B")
    shape = PromptShape(2**17, 64)

    def prefill(machine: Machine, name: str, **options: Any) -> float:
        method = make_method(name, options)
        return replace(costs, machine=machine).prefill(method, method.layout(shape, 4))

    at_once = replace(H200, link=Curve(((1e3, 1e30),)))
    # All of it is hidden, but for the token that all are told at the end.
    assert prefill(H200, "zigzag_ring") == pytest.approx(prefill(at_once, "zigzag_ring"), rel=1e-4)
    assert prefill(slow, "zigzag_ring") > 5 * prefill(H200, "zigzag_ring")
    method = make_method("spava")
    steps = method.steps(method.layout(shape, 4), 0, HeadShape(28, 4, 128, 2))
    travels = sum(28 * slow.link.seconds(step.received) for step in steps)
    hidden = prefill(slow, "spava", overlap=False) - prefill(slow, "spava")
    assert 0 < hidden < travels
    waits = prefill(slow, "spava", overlap=False) - prefill(H200, "spava", overlap=False)
    assert waits == pytest.approx(travels, rel=0.05)
