"""Files that a user names for results are never overwritten without `--force`."""

import argparse
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from tiny_geometry import tiny
from typer.testing import CliRunner

from spava_app.cli import main as cli
from spava_app.engine.bench import __main__ as engine_bench
from spava_app.engine.bench import frames
from spava_app.engine.bench import video as video_bench
from spava_app.engine.bench import vision as vision_bench
from spava_app.engine.checkpoints.random import write_random_checkpoint
from spava_app.engine.models.geometries import GEOMETRIES
from spava_app.engine.training.cards import train as tiny_vl
from spava_app.errors import CheckpointError
from spava_app.eval import predictions
from spava_app.kernels.bench import __main__ as kernel_bench
from spava_app.output_file import JsonFile, add_json_option

WORDS = ["--seconds", "4", "--cards", "1"]


def test_synth_overwrites_a_file_only_with_force(tmp_path: Path) -> None:
    recording = tmp_path / "holiday.mp4"
    recording.write_bytes(b"a recording that there is once")
    done = CliRunner().invoke(cli.app, ["synth", str(recording), *WORDS])
    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr == f"error: OUT='{recording}': exists; use --force to overwrite it\n"
    assert recording.read_bytes() == b"a recording that there is once"
    done = CliRunner().invoke(cli.app, ["synth", str(recording), *WORDS, "--force"])
    assert done.exit_code == 0
    assert recording.stat().st_size > 1000


@pytest.mark.parametrize(
    ("main", "words"),
    [
        (engine_bench.main, ["--geometry", "Qwen2.5-VL-3B"]),
        (frames.main, []),
        (vision_bench.main, []),
        (video_bench.main, []),
        (predictions.main, []),
        (kernel_bench.main, []),
    ],
)
def test_a_benchmark_does_not_start_where_results_would_be_lost(
    main: Callable[[list[str]], int],
    words: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    results = tmp_path / "results.json"
    results.write_text("older results")
    with pytest.raises(SystemExit) as ended:
        main([*words, "--json", str(results)])
    assert ended.value.code == 2
    assert f"{results} exists; use --force to overwrite it" in capsys.readouterr().err
    assert results.read_text() == "older results"


def json_file(*words: str) -> JsonFile:
    parser = argparse.ArgumentParser()
    add_json_option(parser)
    return JsonFile(parser, parser.parse_args(words))


def test_results_are_written_as_they_come(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    file = json_file("--json", str(path))
    for rows in ([1], [1, 2]):
        assert file.save({"rows": rows}) == 0
        assert json.loads(path.read_text()) == {"rows": rows}
    assert json_file("--json", str(path), "--force").save({}) == 0
    assert path.read_text() == "{}\n"
    assert list(tmp_path.iterdir()) == [path]
    assert json_file().save({}) == 0


def test_results_that_cannot_be_written_are_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "results.json"
    late = json_file("--json", str(path))
    path.write_text("from another run meanwhile")
    assert late.save({}) == 2
    assert path.read_text() == "from another run meanwhile"
    assert json_file("--json", str(tmp_path / "no" / "results.json")).save({}) == 2
    told = capsys.readouterr().err.splitlines()
    assert "exists; use --force" in told[0]
    assert "cannot be written: No such file or directory" in told[1]


def test_weights_are_never_overwritten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "small"
    folder.mkdir()
    weights = folder / "model.safetensors"
    weights.write_bytes(b"a real model")
    with pytest.raises(CheckpointError, match="is not empty"):
        write_random_checkpoint(tiny("Qwen2.5-14B"), folder)
    monkeypatch.setitem(GEOMETRIES, "small", tiny("Qwen2.5-14B"))  # type: ignore[arg-type]
    words = ["--geometry", "small", "--tokens", "500", "--device", "cpu", "--checkpoint"]
    assert engine_bench.main([*words, str(tmp_path)]) == 2
    assert "is not empty; name a new folder" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        tiny_vl.main(["--minutes", "0", "--out", str(folder)])
    assert list(folder.iterdir()) == [weights]
    assert weights.read_bytes() == b"a real model"
