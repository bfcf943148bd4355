"""Measures a machine's rates in processes of their own and keeps them for predictions."""

import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from datetime import date
from pathlib import Path

from spava_app.engine.devices import cards, device_name, num_cores
from spava_app.engine.known_machines import default_machine
from spava_app.engine.machine import Machine
from spava_app.engine.machine_file import save_machine
from spava_app.errors import EngineDown, InvalidInput

# Ranks that measure the link between processes on a CPU.
_CPU_RANKS = 2
DEADLINE = 300.0
_MODULE = "spava_app.engine.calibration_rank"


def calibrate(device: str, folder: Path | None = None) -> tuple[Machine, Path]:
    """Measure this machine, on all of its GPUs or on its CPU, in under a minute.

    Args:
        device: "cpu" or "cuda".
        folder: where rates are kept; by default in the cache folder.

    Returns:
        The rates, and the file they are kept in.

    Raises:
        InvalidInput: there is no such device.
        EngineDown: a process failed, or took longer than `DEADLINE`.
        OSError: the folder cannot be written.
    """
    if device not in {"cpu", "cuda"}:
        raise InvalidInput("device", device, "choose cpu or cuda")
    ranks = _CPU_RANKS if device == "cpu" else len(cards())
    if not ranks:
        raise InvalidInput("device", device, "nvidia-smi tells of no GPU that may be used")
    default = default_machine(device, device_name(device), num_cores())
    found = _measured(device, ranks)
    # A single card has no link to measure.
    rates = {**default.to_dict(), **found}
    machine = replace(Machine.from_dict(rates), origin=f"rates measured on {date.today()}")
    return machine, save_machine(machine, folder)


def _measured(device: str, ranks: int) -> dict[str, object]:
    """What the first rank printed."""
    with tempfile.TemporaryDirectory(prefix="spava-calibrate-") as folder:
        processes: list[subprocess.Popen[bytes]] = []
        try:
            for rank in range(ranks):
                rendezvous = f"file://{folder}/rendezvous"
                processes.append(_spawn(rank, ranks, device, rendezvous, Path(folder)))
            until = time.monotonic() + DEADLINE
            for rank, process in enumerate(processes):
                _wait(process, rank, until, Path(folder, f"{rank}.log"))
        finally:
            for process in processes:
                process.kill()
                process.wait()
        return json.loads(Path(folder, "0.out").read_text().splitlines()[-1])


def _spawn(
    rank: int, ranks: int, device: str, rendezvous: str, folder: Path
) -> subprocess.Popen[bytes]:
    settings = {
        "rank": rank,
        "world_size": ranks,
        "rendezvous": rendezvous,
        "device": device,
        "deadline": DEADLINE,
    }
    local = {"GLOO_SOCKET_IFNAME": "lo", "NCCL_SOCKET_IFNAME": "lo", "PYTHONSAFEPATH": "1"}
    out, log = folder / f"{rank}.out", folder / f"{rank}.log"
    with out.open("wb") as stdout, log.open("wb") as stderr:
        return subprocess.Popen(
            [sys.executable, "-m", _MODULE, json.dumps(settings)],
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
            env=os.environ | local,
        )


def _wait(process: subprocess.Popen[bytes], rank: int, until: float, log: Path) -> None:
    try:
        code = process.wait(timeout=max(0.0, until - time.monotonic()))
    except subprocess.TimeoutExpired:
        raise EngineDown(f"calibration took longer than {DEADLINE:.0f} s") from None
    if code:
        lines = log.read_text(errors="replace").strip().splitlines()
        last = f": {lines[-1]}" if lines else ""
        raise EngineDown(f"rank {rank} ended with code {code} during calibration{last}")
