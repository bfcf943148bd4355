"""The towers' benchmark runs everywhere, if slowly: here with everything divided by 32."""

import json
from pathlib import Path

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from spava_app.engine.bench import vision as vision_bench
from spava_app.engine.models.flops import (
    GRIDS,
    internvit_config,
    internvit_flops,
    qwen_config,
    qwen_flops,
    qwen_grids,
)
from spava_app.engine.models.internvl3 import InternVisionTower
from spava_app.engine.models.qwen2_5_vl import VisionTower


def test_bench_prints_and_writes_every_tower(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "vision.json"
    arguments = ["--device", "cpu", "--dtype", "float32", "--divide", "32", "--runs", "1"]
    assert vision_bench.main([*arguments, "--json", str(path)]) == 0
    printed = capsys.readouterr().out
    report = json.loads(path.read_text())
    assert report["versions"]["torch"] == torch.__version__
    assert report["matmul"]["tflops"] > 0
    rows = report["towers"]
    assert [row["input"] for row in rows[:4]] == list(GRIDS) * 2
    assert [row["tower"] for row in rows[1::2]] == ["Qwen2.5-VL 3B", "Qwen2.5-VL 7B"]
    for row in rows:
        assert row["tower"] in printed
        assert row["tflops"] * row["seconds"] * 1e12 == pytest.approx(sum(row["flops"].values()))
        assert row["of_matmul"] == pytest.approx(row["tflops"] / report["matmul"]["tflops"])
        assert row["seconds"] == row["time"]["median_ms"] / 1e3
        assert row["peak_gib"] is None


def test_bench_refuses_what_it_cannot_use(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["--divide", "0"], ["--runs", "0"], ["--dtype", "int8"]):
        with pytest.raises(SystemExit) as ended:
            vision_bench.main(arguments)
        assert ended.value.code == 2
    assert "at least 1" in capsys.readouterr().err


def test_undivided_geometry_is_the_published_one() -> None:
    config = qwen_config(2048)
    assert (config.hidden_size, config.intermediate_size, config.depth) == (1280, 3420, 32)
    assert config.full_attention_layers == {7, 15, 23, 31}
    assert qwen_grids() == GRIDS
    assert internvit_config().num_patches == 1024
    assert internvit_config().num_layers == 24


@torch.no_grad()
def test_flops_are_those_of_the_products() -> None:
    """Counted by torch, with attention as two products."""
    config = qwen_config(96, 16)
    grid = (2, 10, 14)  # windows of four sizes
    tower = VisionTower(config)
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        tower(torch.randn(280, config.patch_dim), grid)
    padding = 2 * 280 * config.depth * config.hidden_size * (-config.intermediate_size % 8)
    assert counter.get_total_flops() - padding == qwen_flops(config, grid).total

    config = internvit_config(16)
    tower = InternVisionTower(config)
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        tower(torch.randn(3, 3, config.image_size, config.image_size))
    assert counter.get_total_flops() == internvit_flops(config, 3).total
