"""The engine's benchmark runs anywhere, here over gloo with a tiny model in float32."""

import json
from pathlib import Path

import pytest
from tiny_geometry import tiny

from spava_app.engine.bench import cases
from spava_app.engine.bench.__main__ import main
from spava_app.engine.checkpoints.random import write_random_checkpoint
from spava_app.engine.models.geometries import GEOMETRIES

CPU = ["--device", "cpu", "--dtype", "float32", "--new-tokens", "3"]


def test_cases_of_two_models_in_one_group(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folders = [tmp_path / "text", tmp_path / "seeing"]
    for folder, name in zip(folders, ("Llama-3.1-8B", "Qwen2.5-VL-3B"), strict=True):
        write_random_checkpoint(tiny(name), folder)
    arguments = [*CPU, "--ranks", "2", "--json", str(tmp_path / "out.json"), "--profile", "3"]
    for case in (f"{folders[0]} full 300", f"{folders[0]} spava 2K", f"{folders[1]} apb 300"):
        arguments += ["--case", case]
    assert main([*arguments, "--case", f"{folders[1]} spava 300 virtual_hosts=6"]) == 0
    report = json.loads((tmp_path / "out.json").read_text())
    assert report["ranks"] == 2
    assert len(report["matmul_tflops"]) == 2
    assert [load["model"] for load in report["loads"]] == [str(folder) for folder in folders]
    for load in report["loads"]:
        for rank in load["ranks"]:
            assert rank["cold"]["bytes"] > 100_000
            assert rank["cold"]["gb_per_s"] > 0
            assert rank["host_after"]["peak"] >= rank["host_before"]["peak"] > 10**8
    rows = report["cases"]
    assert [row["tokens"] for row in rows] == [300, 2048, 300, 300]
    assert rows[3]["options"] == {"virtual_hosts": 6}
    for row in rows:
        assert set(row["seconds"]) == {"prefill", "generate"}
        assert row["seconds_per_token"] == pytest.approx(row["seconds"]["generate"] / 2)
        assert 0 < row["prefill_of_matmul"] < 2
        assert len(row["memory"]) == 2
        assert row["memory"][0]["predicted"]["total"] > 0
        assert len(row["profile"]) == 3
    # All the work of a full prefill is one rank's, of the exact causal kind.
    layers = 2 * (64 * (64 + 2 * 32) + 64 * 64 + 3 * 64 * 96 + 2 * 64)
    assert rows[0]["prefill_flops"] == 2 * 300 * layers + 4 * 16 * 4 * 2 * 300 * 301 // 2
    printed = capsys.readouterr().out
    assert printed.count("GB/s; warm") == 2
    assert len([line for line in printed.splitlines() if line.startswith("spava")]) == 2


def test_geometries_are_written_and_loaded_or_made_on_the_device(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(GEOMETRIES, "small", tiny("InternVL3-2B"))  # type: ignore[arg-type]
    arguments = [*CPU, "--geometry", "small", "--tokens", "500", "--option", "backend=reference"]
    assert main([*arguments, "--checkpoint", str(tmp_path)]) == 0
    assert "wrote small: 0.00 GB" in capsys.readouterr().out
    assert (tmp_path / "small" / "model.safetensors.index.json").is_file()
    assert main(arguments) == 0
    assert "weights made on the device" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("case", "said"),
    [
        ("Qwen2.5-VL-7B full", "give a model, a method and a number of tokens"),
        ("Qwen2.5-VL-7B full many", "many is no number of tokens"),
        ("Qwen2.5-VL-7B full 0", "0 is no number of tokens"),
        ("Qwen2.5-VL-7B slow 16K", "method='slow': choose one of"),
        ("Qwen2.5-VL-7B spava 16K hosts=3", "hosts=3: method spava takes"),
        ("Qwen2.5-VL-7B spava 16K hosts", "hosts is not OPTION=VALUE"),
        ("Qwen2.5-VL-7B ulysses 16K", "ranks=3: ulysses cannot spread"),
        ("Qwen2.5-VL-7B ring 2", "use at most as many ranks"),
        ("GPT-5 full 16K", "model='GPT-5': give a folder, or one of Qwen2.5-VL-3B"),
    ],
)
def test_what_cannot_run_is_refused_in_a_line(
    case: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--ranks", "3", "--case", case]) == 2
    printed = capsys.readouterr()
    assert not printed.out
    assert said in printed.err
    assert printed.err.count("\n") == 1


def test_lengths_and_options_are_read() -> None:
    case = cases.read_case(
        "Qwen2.5-14B spava 128K passing_fraction=0.5 placement=contiguous overlap=false",
        ranks=2,
        checkpoint=Path("/somewhere"),
    )
    assert case.num_tokens == 131_072
    assert case.options == {
        "passing_fraction": 0.5,
        "placement": "contiguous",
        "overlap": False,
    }
    assert case.folder == Path("/somewhere/Qwen2.5-14B")
    request = case.request(5)
    assert len(request.token_ids) == 131_072
    assert max(request.token_ids) < 152_064
    assert (request.query_len, request.max_new_tokens) == (64, 5)
    assert request == case.request(5)


def test_a_rank_that_fails_ends_the_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_random_checkpoint(tiny("Qwen2.5-14B"), tmp_path)
    next(tmp_path.glob("*.safetensors")).write_bytes(b"cut short")
    assert main([*CPU, "--model", str(tmp_path), "--tokens", "100"]) == 1
    assert "is truncated or not safetensors" in capsys.readouterr().err
