"""The benchmark runs, and what it says of a way is right in kind."""

import json
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from spava_app.engine.bench.video import main
from spava_app.engine.synthetic.long_clip import repeat, write_minute
from spava_app.engine.video.probe import probe


def test_the_clip_is_one_minute_copied(tmp_path: Path) -> None:
    minute, path = tmp_path / "minute.mp4", tmp_path / "three.mp4"
    write_minute(minute, size=(72, 128), fps=5, key_every=20)
    repeat(minute, path, 3)
    once, info = probe(minute), probe(path)
    assert (once.num_frames, info.num_frames) == (300, 900)
    np.testing.assert_allclose(info.index.times, np.arange(900) / 5, atol=1e-6)
    assert info.index.entries[:, 0].tolist() == list(range(0, 900, 20))


@pytest.mark.slow
def test_a_small_run(tmp_path: Path) -> None:
    out = tmp_path / "video.json"
    small = ["--minutes", "1", "--height", "72", "--frames", "6", "--rounds", "2"]
    small += ["--key-every", "40", "--threads", "1", "--json", str(out)]
    assert main(small) == 0
    report = json.loads(out.read_text())
    rows = {row["way"]: row for row in report["rows"]}
    assert {"spava, 1 rank", "spava, 2 ranks", "transformers"} <= set(rows)
    assert ("decord" in rows) == (find_spec("decord") is not None)
    ours = rows["spava, 1 rank"]
    assert set(ours["seconds"]) == {"probe", "decode", "preprocess", "total"}
    assert len(ours["totals"]) == 2
    assert ours["seconds"]["total"] > ours["seconds"]["probe"] > 0
    assert report["video"] == {"minutes": 1, "height": 72, "frames": 6}


@pytest.mark.parametrize("wrong", [["--frames", "0"], ["--height", "100"], ["--key-every", "0"]])
def test_options_that_cannot_be_used(wrong: list[str]) -> None:
    with pytest.raises(SystemExit) as error:
        main(wrong)
    assert error.value.code == 2
