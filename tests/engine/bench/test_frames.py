"""The front end's benchmark on two CPU processes: its report, and options that cannot be used."""

import json
from pathlib import Path

import pytest

from spava_app.engine.bench.frames import main


def test_a_report_of_one_and_two_ranks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "frames.json"
    small = ["--minutes", "2", "--height", "64", "--rate", "2", "--fps", "0.5", "--device", "cpu"]
    assert main([*small, "--geometry", "embedded", "--ranks", "1", "2", "--json", str(file)]) == 0
    report = json.loads(file.read_text())
    assert [row["ranks"] for row in report["rows"]] == [1, 2]
    for row in report["rows"]:
        assert len(row["by_rank"]) == row["ranks"]
        slowest = row["slowest"]
        assert set(slowest) == {"decode", "preprocess", "vision", "total", "decode_alone"}
        assert slowest["total"] >= slowest["vision"] > 0
        assert row["hidden"] < 1
        for memory in row["memory"]:
            assert memory["share"] == 30 * 8 // row["ranks"] * 256 * 4
            assert 0 < memory["host"] < 2**30
    # 60 frames are 30 units of 112 x 64 pixels, which become 112 x 56.
    assert report["tokens"] == 30 * 4 * 2
    assert "60 frames of 2 min" in capsys.readouterr().out


@pytest.mark.parametrize(
    "wrong", [["--minutes", "0"], ["--height", "65"], ["--geometry", "x"], ["--fps", "-1"]]
)
def test_wrong_options(wrong: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(wrong)
    assert ended.value.code == 2
