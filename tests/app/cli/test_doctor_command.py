"""`spava doctor` as a user meets it."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from spava_app import doctor
from spava_app.cli import main as cli
from spava_app.doctor import Check, Diagnosis
from spava_app.engine.planning.hardware import Machine
from spava_app.engine.planning.hardware_profiles import machine_file, this_machine


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache folder."""
    monkeypatch.setenv("SPAVA_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def spava(*words: str) -> subprocess.CompletedProcess[str]:
    """Run the command as a user does, its output into pipes."""
    return subprocess.run(
        [sys.executable, "-m", "spava_app", *words],
        env=os.environ | {"PYTHONSAFEPATH": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_what_was_found_is_told_in_lines_of_100_columns(cache: Path) -> None:
    done = spava("doctor")
    assert (done.returncode, re.sub(r"\w+ \d+\.\d\d s\n", "", done.stderr)) == (0, "")
    lines = done.stdout.splitlines()
    names = [line.split()[1] for line in lines if "->" not in line]
    assert names[:4] == ["python", "torch", "transformers", "av"]
    assert {"GPUs", "cores", "memory", "predictions"} <= set(names)
    assert "spava doctor --calibrate" in lines[-1]
    assert max(len(line) for line in lines if str(cache) not in line) <= 100
    assert not cache.exists()


def test_a_problem_is_code_1(monkeypatch: pytest.MonkeyPatch) -> None:
    def code(*checks: Check) -> int:
        monkeypatch.setattr(doctor, "diagnose", lambda: Diagnosis(checks))
        return CliRunner().invoke(cli.app, ["doctor"]).exit_code

    slow, bad = Check("a", "x", "warning", "y"), Check("b", "x", "problem", "y")
    assert (code(slow), code(slow, bad)) == (0, 1)


@pytest.mark.slow
def test_rates_are_measured_kept_and_told(cache: Path) -> None:
    """As a process, on whatever this machine has."""
    done = spava("doctor", "--calibrate", "--json")
    assert done.stderr == ""
    told = json.loads(done.stdout)
    assert done.returncode == (1 if told["status"] == "problem" else 0)
    machine = Machine.from_dict(told["rates"])
    assert machine == this_machine(machine.device)
    assert machine.measured
    assert told["rates_file"] == str(machine_file(machine.device))
    assert told["rates_file"].startswith(str(cache))
    [check] = [check for check in told["checks"] if check["name"] == "predictions"]
    assert (check["status"], check["found"]) == ("ok", f"from {machine.origin}")


def test_a_cache_that_cannot_be_written_is_told_before_anything_is_measured(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SPAVA_CACHE", "/proc/spava")
    done = CliRunner().invoke(cli.app, ["doctor", "--calibrate"])
    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr.startswith("error: SPAVA_CACHE=")
    assert done.stderr.count("\n") == 1
