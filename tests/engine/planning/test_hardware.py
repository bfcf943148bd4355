"""Rates: curves, what ranks share, and the file they are kept in."""

import json
import warnings
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from spava_app.engine.planning.hardware import Curve, Machine
from spava_app.engine.planning.hardware_profiles import (
    default_machine,
    machine_file,
    save_machine,
    this_machine,
)
from spava_app.errors import SpavaWarning

CPU = default_machine("cpu", "some processor", 8)


def test_a_curve_goes_through_its_points() -> None:
    curve = Curve(((10.0, 1.0), (1000.0, 100.0), (2000.0, 50.0)))
    assert curve.seconds(0) == 0
    assert curve.seconds(1) == curve.seconds(10) == 10
    assert curve.seconds(100) == pytest.approx(100 / 10)  # halfway in logarithms
    assert curve.seconds(1000) == pytest.approx(10)
    assert curve.seconds(2000) == 40
    assert curve.seconds(2_000_000) == 40_000


@given(st.floats(1, 1e12), st.floats(1, 1e12))
def test_more_work_takes_no_less(one: float, other: float) -> None:
    for curve in (CPU.matmul, CPU.attention, CPU.link):
        few, many = sorted((one, other))
        assert curve.seconds(few) <= curve.seconds(many) * (1 + 1e-9)


@pytest.mark.parametrize("points", [(), ((2.0, 1.0), (1.0, 1.0)), ((1.0, 0.0),), ((-1.0, 1.0),)])
def test_curves_are_checked(points: tuple[tuple[float, float], ...]) -> None:
    with pytest.raises(ValueError, match="positive pairs"):
        Curve(points)


def test_ranks_share_a_cpu_and_not_their_gpus() -> None:
    large = 1e12
    assert CPU.computed(CPU.matmul, large, 4) == pytest.approx(
        4 * CPU.computed(CPU.matmul, large, 1)
    )
    # Two processes for each core take turns.
    assert CPU.computed(CPU.matmul, large, 16) == 2 * CPU.computed(CPU.matmul, large, 8)
    assert CPU.moved(1e9, 4) == 4 * CPU.moved(1e9, 1)
    assert CPU.launched(9, 8) == CPU.launched(9, 1)
    assert CPU.launched(9, 16) == 2 * CPU.launched(9, 1)
    card = default_machine("cuda", "NVIDIA H200", 8)
    assert card.computed(card.matmul, large, 16) == card.computed(card.matmul, large, 1)
    assert card.moved(1e9, 16) == card.moved(1e9, 1)


def test_known_cards() -> None:
    names = ("NVIDIA H200", "NVIDIA H100 80GB HBM3", "NVIDIA A100-SXM4-80GB", "GeForce RTX 5090")
    flops = [default_machine("cuda", name, 8) for name in names]
    told = [machine.origin for machine in flops]
    assert told == [f"defaults for {kind}" for kind in ("H200", "H100", "A100", "other GPUs")]
    rates = [1e15 / machine.matmul.seconds(1e15) for machine in flops]
    assert rates[0] == rates[1] > 2 * rates[2] > 4 * rates[3]
    assert not any(machine.measured for machine in flops)


def measured() -> Machine:
    """Rates of this machine's CPU, as if measured."""
    return replace(this_machine("cpu"), memory=12345.0, origin="rates measured on a day")


def test_rates_are_kept(tmp_path: Path) -> None:
    assert not this_machine("cpu", tmp_path).measured
    path = save_machine(measured(), tmp_path)
    assert path == machine_file("cpu", tmp_path)
    again = this_machine("cpu", tmp_path)
    assert again == measured()
    assert again.measured
    # Written beside and put in its place: nothing else is left.
    save_machine(measured(), tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda kept: "{", "is broken"),
        (lambda kept: "[]", "is broken"),
        (lambda kept: json.dumps({**kept, "torch": "1.0"}), "made with torch 1.0"),
        (lambda kept: json.dumps({"torch": torch.__version__}), "is broken"),
        (lambda kept: _changed(kept, memory=-1.0), "is broken"),
        (lambda kept: _changed(kept, memory="fast"), "is broken"),
        (lambda kept: _changed(kept, matmul={"points": [[2, 1], [1, 1]]}), "is broken"),
        (lambda kept: _changed(kept, device="cuda"), "is broken"),
        (lambda kept: _changed(kept, unknown=1), "is broken"),
    ],
)
def test_a_file_that_cannot_be_used_is_told(tmp_path: Path, change: object, told: str) -> None:
    path = save_machine(measured(), tmp_path)
    assert callable(change)
    path.write_text(change(json.loads(path.read_text())))
    with pytest.warns(SpavaWarning, match=told) as caught:
        machine = this_machine("cpu", tmp_path)
    assert len(caught) == 1
    assert "spava doctor --calibrate" in str(caught[0].message)
    assert machine == this_machine("cpu", tmp_path / "none")


def test_a_file_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    machine_file("cpu", tmp_path).mkdir()
    with pytest.warns(SpavaWarning, match="cannot be read"):
        this_machine("cpu", tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        this_machine("cpu", tmp_path / "none")


def _changed(kept: dict, **values: object) -> str:
    return json.dumps({**kept, "machine": {**kept["machine"], **values}})
