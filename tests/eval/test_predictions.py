"""Plans beside what they took, on two CPU processes with a published model in miniature."""

import json
from pathlib import Path
from typing import cast

import pytest
from tiny_geometry import tiny

from spava_app.engine.models.geometries import GEOMETRIES
from spava_app.eval.predictions import main

SMALL = ["--minutes", "1", "--height", "64", "--rate", "2", "--device", "cpu", "--frames", "8"]


def test_a_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    small = {**tiny("Qwen2.5-VL-3B"), "vocab_size": 1100}
    monkeypatch.setitem(cast(dict, GEOMETRIES), "tiny", small)
    file = tmp_path / "report.json"
    where = ["--checkpoint", str(tmp_path / "tiny"), "--json", str(file)]
    how = ["--model", "tiny", "--ranks", "2", "--methods", "auto", "spava", "--new-tokens", "4"]
    assert main([*SMALL, *how, *where]) == 0
    report = json.loads(file.read_text())
    assert [row["asked"] for row in report["rows"]] == ["auto", "spava"]
    for row in report["rows"]:
        plan = row["plan"]
        assert (plan["world_size"], plan["media"][0]["num_frames"]) == (2, 8)
        stages = row["seconds"]
        assert list(stages) == list(plan["seconds"])
        assert all(pair["measured"] > 0 for pair in stages.values())
        steps = min(row["answer_tokens"], 3)
        told = plan["seconds"]["generate"] * steps / 3
        assert stages["generate"]["predicted"] == pytest.approx(told)
        for pair, planned in zip(row["memory"], plan["memory"], strict=True):
            assert pair["predicted"] == planned + plan["margin"]
            assert planned < pair["measured"]
    told = capsys.readouterr().out
    assert "rank 1" in told
    assert "2 x cpu, spava: spava" in told


@pytest.mark.parametrize("wrong", [["--frames", "0"], ["--height", "65"], ["--ranks", "-1"]])
def test_wrong_options(wrong: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(wrong)
    assert ended.value.code == 2


def test_what_cannot_be_asked_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*SMALL, "--methods", "fastest", "--ranks", "1"]) == 2
    assert capsys.readouterr().err.startswith("method='fastest'")
