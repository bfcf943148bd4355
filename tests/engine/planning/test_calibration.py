"""A calibration of this machine's CPU, for real."""

from pathlib import Path

import pytest

from spava_app.engine.devices import visible_gpus
from spava_app.engine.planning import calibration as calibration
from spava_app.engine.planning.calibration import calibrate
from spava_app.engine.planning.hardware_profiles import default_machine, this_machine
from spava_app.errors import EngineDown, InvalidInput


@pytest.mark.slow
def test_a_cpu_is_measured_and_its_rates_are_used(tmp_path: Path) -> None:
    steps: list[str] = []
    machine, path = calibrate("cpu", tmp_path, steps.append)
    assert (steps[0], steps[-1]) == ("link", "decoding")
    assert len(set(steps)) == 9
    assert path.parent == tmp_path
    assert machine.measured
    assert this_machine("cpu", tmp_path) == machine
    default = default_machine("cpu", machine.name, machine.cores)
    rates = ("matmul", "attention", "link", "memory", "launch_seconds", "gather_seconds")
    for name in (*rates, "decode", "decode_start", "prepare", "unit_seconds", "place_seconds"):
        assert getattr(machine, name) != getattr(default, name), name


def test_what_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="choose cpu or cuda"):
        calibrate("tpu", tmp_path)
    if visible_gpus():
        pytest.skip("there are GPUs")
    with pytest.raises(InvalidInput, match="no GPU"):
        calibrate("cuda", tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_process_that_fails_or_hangs_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calibration, "DEADLINE", 0.1)
    with pytest.raises(EngineDown, match="longer than"):
        calibrate("cpu", tmp_path)
    monkeypatch.setattr(calibration, "DEADLINE", 60.0)
    monkeypatch.setattr(calibration, "_MODULE", "spava_app.engine.no_such_module")
    with pytest.raises(EngineDown, match=r"rank \d ended with code 1 .*no_such_module"):
        calibrate("cpu", tmp_path)
    assert not list(tmp_path.iterdir())
