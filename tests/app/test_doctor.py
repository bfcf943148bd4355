"""What `diagnose` finds on this machine, and on ones with less."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from spava_app.doctor import Check, Diagnosis, diagnose
from spava_app.engine.machine_file import save_machine, this_machine


def found(name: str) -> Check:
    [check] = [check for check in diagnose().checks if check.name == name]
    return check


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache folder."""
    monkeypatch.setenv("SPAVA_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_this_machine(cache: Path) -> None:
    diagnosis = diagnose()
    checks = {check.name: check for check in diagnosis.checks}
    for name in ("python", "torch", "transformers", "av", "cores", "memory", "cache", "attention"):
        assert checks[name].found
    assert checks["torch"].found[0].isdigit()
    assert not cache.exists()  # looking writes nothing
    for check in diagnosis.checks:
        assert bool(check.fix) == (check.status != "ok"), check
    assert json.loads(json.dumps(diagnosis.to_dict()))["status"] == diagnosis.status
    assert len(str(diagnosis).splitlines()) == len(checks) + sum(
        bool(check.fix) for check in diagnosis.checks
    )


def test_the_worst_counts() -> None:
    fine, slow, bad = Check("a", "x"), Check("b", "x", "warning", "y"), Check("c", "", "problem")
    assert Diagnosis((fine,)).status == "ok"
    assert Diagnosis((fine, slow)).status == "warning"
    assert Diagnosis((bad, fine, slow)).status == "problem"
    assert "-> y" in str(Diagnosis((fine, slow)))


def test_predictions_come_from_defaults_until_measured(cache: Path) -> None:
    check = found("predictions")
    assert check.status == "warning"
    assert "defaults" in check.found
    assert "--calibrate" in check.fix
    path = save_machine(replace(this_machine("cpu"), origin="rates measured on a day"))
    assert path.is_relative_to(cache)
    assert found("predictions") == Check("predictions", "from rates measured on a day")
    path.write_text("{")
    assert "is broken" in found("predictions").found


def test_the_cache_is_measured_and_must_be_writable(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (cache / "embeddings").mkdir(parents=True)
    with (cache / "embeddings" / "unit").open("wb") as file:
        file.truncate(2**29)
    assert found("cache") == Check("cache", f"{cache}, 0.50 GiB")
    monkeypatch.setenv("SPAVA_CACHE", "/proc/spava")
    check = found("cache")
    assert check.status == "warning"
    assert "cannot be written" in check.found


SMI = """#!/bin/sh
case "$1" in
topo) printf 'GPU0\\tX\\tNV18\\nGPU1\\tNV18\\tX\\n' ;;
*) printf '0, GPU-aa, NVIDIA H200, 143771, 143000\\n1, GPU-bb, NVIDIA H200, 143771, 100\\n' ;;
esac
"""


@pytest.fixture
def smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Puts a program called nvidia-smi in front of all others."""

    def write(text: str) -> None:
        program = tmp_path / "nvidia-smi"
        program.write_text(text)
        program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")

    return write


def test_cards_that_torch_cannot_use_are_a_problem(
    smi: Callable[[str], None], monkeypatch: pytest.MonkeyPatch, cache: Path
) -> None:
    import torch

    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if torch.cuda.device_count() >= 2:
        pytest.skip("torch can use the cards here")
    smi(SMI)
    check = found("GPUs")
    assert check.status == "problem"
    assert "139.6 of 140.4 GiB free" in check.found
    assert found("links") == Check("links", "NV18")
