"""What the system says of GPUs and memory, read from its own words."""

from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from spava_app.engine import devices
from spava_app.engine.devices import Gpu, available_memory, host_memory, num_cores, visible_gpus

MIB = 2**20
FIRST, SECOND = (
    Gpu("NVIDIA H200", 143771 * MIB, 143000 * MIB),
    Gpu("NVIDIA H200", 143771 * MIB, 9000 * MIB),
)
LINES = "0, GPU-aabb, NVIDIA H200, 143771, 143000\n1, GPU-ccdd, NVIDIA H200, 143771, 9000\n"


@pytest.fixture
def smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """A program called nvidia-smi that runs `script`, in front of all others."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)

    def write(script: str) -> None:
        program = tmp_path / "nvidia-smi"
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")

    return write


def test_cards_that_may_be_used(
    smi: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    smi(f"printf '{LINES}'".replace("\n", "\\n"))
    assert visible_gpus() == (FIRST, SECOND)
    for visible, expected in {
        "1": (SECOND,),
        "1,0": (SECOND, FIRST),
        "GPU-cc": (SECOND,),
        "GPU-ccdd,0": (SECOND, FIRST),
        "": (),
        "-1,0": (),
        "0,7,1": (FIRST,),
    }.items():
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
        assert visible_gpus() == expected, visible
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    assert available_memory("cuda", 1) == FIRST.free
    assert available_memory("cuda", 2) == SECOND.free


@pytest.mark.parametrize("script", ["exit 9", "echo 0, GPU-aa, H200, [N/A], [N/A]", "true"])
def test_cards_that_say_nothing(smi: Callable[[str], None], script: str) -> None:
    smi(script)
    assert visible_gpus() == ()


def test_a_tool_that_hangs_is_given_up(
    smi: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(devices, "_SECONDS", 0.2)
    smi("exec sleep 60")
    assert visible_gpus() == ()


def test_the_host() -> None:
    total, available = host_memory()
    assert 0 < available <= total <= psutil.virtual_memory().total
    assert available_memory("cpu", 4) == pytest.approx(host_memory()[1] / 4, rel=0.1)
    assert num_cores() >= 1


@pytest.mark.parametrize(
    ("line", "limit", "used"),
    [
        ("0::/app", "memory.max", "memory.current"),
        ("5:cpu,memory:/app", "memory.limit_in_bytes", "memory.usage_in_bytes"),
    ],
)
def test_a_control_group_limits_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str, limit: str, used: str
) -> None:
    root = tmp_path / ("memory" if "memory" in line else "")
    for folder, bound in (("app", str(2**30)), ("", "max")):
        (root / folder).mkdir(parents=True, exist_ok=True)
        (root / folder / limit).write_text(f"{bound}\n")
        (root / folder / used).write_text(f"{600 * MIB}\n")
    (root / "app" / "memory.stat").write_text(f"anon 5\ninactive_file {100 * MIB}\n")
    groups = tmp_path / "cgroup"
    groups.write_text(f"{line}\n3:freezer:/other\n")
    monkeypatch.setattr(devices, "_CGROUPS", tmp_path)
    monkeypatch.setattr(devices, "_OWN_GROUPS", groups)
    assert host_memory() == (2**30, (1024 - 600 + 100) * MIB)
    # In a container the path is the host's, and the group itself stands at the root.
    groups.write_text(f"{line}/unknown/here\n".replace("/app/unknown", "/unknown"))
    (root / limit).write_text(f"{2**30}\n")
    assert host_memory() == (2**30, (1024 - 600) * MIB)
