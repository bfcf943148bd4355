"""What `diagnose` finds on this machine, and on ones with less."""

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from spava_app.doctor import Check, Diagnosis, _optional, diagnose
from spava_app.engine.planning.hardware_profiles import save_machine, this_machine
from spava_app.versions import TESTED


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
        assert bool(check.fix) == (check.status in {"warning", "problem"}), check
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
    absent = Check("a", "x", "absent")
    assert Diagnosis((absent,)).status == "ok"
    assert str(Diagnosis((absent,))) == "--       a  x"


@pytest.mark.parametrize(
    ("name", "version", "status"),
    [
        ("av", "16.0.0", "ok"),
        ("av", "15.1.0", "warning"),
        ("av", "20.0.0rc1", "warning"),
        ("transformers", "5.17", "ok"),
        ("transformers", "4.57.6", "warning"),
        ("transformers", "6.0.0.dev0", "warning"),
        ("torch", "2.11.0+cu130", "ok"),
        ("torch", "2.10.1", "warning"),
        ("torch", "3.0.0a0+git1", "warning"),
    ],
)
def test_versions_outside_the_version_range(
    name: str, version: str, status: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / f"{name}-{version}.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    monkeypatch.syspath_prepend(tmp_path)
    check = found(name)
    assert check.status == status
    if status == "ok":
        assert check == Check(name, version)
    else:
        oldest, untested = TESTED[name]
        assert check.found == f"{version}, outside the tested range >={oldest},<{untested}"
        assert check.fix == f"pip install '{name}>={oldest},<{untested}'"


@pytest.mark.parametrize("version", ["3.10.13", "3.14.0"])
def test_python_outside_the_version_range(version: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.python_version", lambda: version)
    check = found("python")
    assert (check.status, check.fix) == ("warning", "make an environment with python>=3.11,<3.14")


def test_a_library_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.path", [])
    check = found("av")
    assert check == Check("av", "not installed", "problem", "pip install 'av>=16,<20'")


def test_what_is_optional_is_advised_on_gpus_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.path", [])
    monkeypatch.setattr("sys.modules", sys.modules.copy())
    for name in ("triton", "flash_attn"):
        sys.modules.pop(name, None)
    assert _optional(on_gpu=False) == [
        Check("flash-attn", "not installed (optional)", "absent"),
        Check("triton", "not installed (optional)", "absent"),
    ]
    assert _optional(on_gpu=True) == [
        Check("flash-attn", "not installed (optional: another attention backend)", "absent"),
        Check("triton", "not installed (fused kernels)", "warning", "pip install triton"),
    ]


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
    (cache / "embeddings").chmod(0o777)
    check = found("cache")
    assert check.status == "warning"
    assert "embeddings is not used: others may write to it" in check.found
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
        pytest.skip("torch can use the GPUs here")
    smi(SMI)
    check = found("GPUs")
    assert check.status == "problem"
    assert "139.6 of 140.4 GiB free" in check.found
    assert found("links") == Check("links", "NV18")
