"""The benchmark runs everywhere, if slowly: here with everything divided by 512."""

import json
from pathlib import Path

import pytest
import torch

from spava_app.kernels.bench import __main__ as bench
from spava_app.kernels.bench.stopwatch import time_stages


def test_bench_prints_and_writes_every_shape(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "kernels.json"
    arguments = ["--device", "cpu", "--dtype", "float32", "--divide", "512", "--runs", "1"]
    assert bench.main([*arguments, "--json", str(path)]) == 0
    printed = capsys.readouterr().out
    report = json.loads(path.read_text())
    assert report["versions"]["torch"] == torch.__version__
    assert report["matmul"]["tflops"] > 0
    assert report["missing"]["cudnn"] == "runs on NVIDIA GPUs, not on cpu"
    rows = report["attention"]
    assert len(rows) == len(bench.HEADS) * len(bench.LENGTHS)
    assert {row["backend"] for row in rows} == {"sdpa"}
    assert printed.count("sdpa (auto)") == len(rows)
    causal = rows[2]  # 16K rows x 32K keys, divided: 32 x 64
    pairs = sum(64 - 32 + row + 1 for row in range(32))
    flops = causal["tflops"] * 1e12 * causal["time"]["median_ms"] / 1e3
    assert flops == pytest.approx(4 * 128 * 28 * pairs)
    assert causal["composed"]
    layer = report["layer"]
    medians = {name: layer[name]["median_ms"] for name in ("linear", "selection", "attention")}
    assert layer["share"] == pytest.approx(medians["selection"] / sum(medians.values()))
    assert f"({layer['share']:.2%})" in printed


def test_bench_refuses_what_it_cannot_use(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["--divide", "0"], ["--runs", "0"], ["--backends", "fast"]):
        with pytest.raises(SystemExit) as ended:
            bench.main(arguments)
        assert ended.value.code == 2
    assert "at least 1" in capsys.readouterr().err


def test_stages_are_timed_in_order_and_summed_up_apart() -> None:
    calls: list[str] = []
    stages = [lambda: calls.append("a"), lambda: calls.append("b")]
    timings = time_stages(stages, torch.device("cpu"), runs=4)
    assert calls == ["a", "b"] * 6  # two to warm up
    assert [timing.runs for timing in timings] == [4, 4]
    for timing in timings:
        assert 0 <= timing.p10_ms <= timing.median_ms <= timing.p90_ms
