"""Measures a machine's rates in processes of their own and keeps them for predictions.

rank            one process of a calibration
decoder_rates   of products, attention, memory and the link between ranks
video_rates     of decoding, preprocessing and exchange
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import TextIO

from spava_app.engine.devices import device_name, num_cores, visible_gpus
from spava_app.engine.folders import private_folder
from spava_app.engine.planning.hardware import Machine
from spava_app.engine.planning.hardware_profiles import default_machine, machine_file, save_machine
from spava_app.errors import EngineDown, InvalidInput

# Ranks that measure the link between processes on a CPU.
_CPU_RANKS = 2
DEADLINE = 300.0
_POLL_SECONDS = 0.1
_MODULE = "spava_app.engine.planning.calibration.rank"


OnStep = Callable[[str], None]


def calibrate(
    device: str, folder: Path | None = None, on_step: OnStep | None = None
) -> tuple[Machine, Path]:
    """Measure this machine, on all of its GPUs or on its CPU, in under a minute.

    Args:
        device: "cpu" or "cuda".
        folder: where rates are kept; by default in the cache folder.
        on_step: called with what is measured next.

    Returns:
        The rates, and the file they are kept in.

    Raises:
        InvalidInput: there is no such device, or the folder cannot be written.
        EngineDown: a process failed, or took longer than `DEADLINE`.
    """
    if device not in {"cpu", "cuda"}:
        raise InvalidInput("device", device, "choose cpu or cuda")
    ranks = _CPU_RANKS if device == "cpu" else len(visible_gpus())
    if not ranks:
        raise InvalidInput("device", device, "nvidia-smi tells of no GPU that may be used")
    default = default_machine(device, device_name(device), num_cores())
    path = machine_file(device, folder)
    _check_writable(path.parent)  # told before a minute is spent
    found = _measured(device, ranks, on_step or (lambda _: None))
    # A single GPU has no link to measure.
    rates = {**default.to_dict(), **found}
    machine = replace(Machine.from_dict(rates), origin=f"rates measured on {date.today()}")
    return machine, save_machine(machine, folder)


def _check_writable(folder: Path) -> None:
    try:
        with private_folder(folder, make=True), tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        fix = f"cannot be used ({error.strerror}): set SPAVA_CACHE to a folder that can"
        raise InvalidInput("SPAVA_CACHE", str(folder), fix) from None


def _measured(device: str, ranks: int, on_step: OnStep) -> dict[str, object]:
    """What the first rank printed."""
    with tempfile.TemporaryDirectory(prefix="spava-calibrate-") as folder:
        processes: list[subprocess.Popen[bytes]] = []
        try:
            for rank in range(ranks):
                rendezvous = f"file://{folder}/rendezvous"
                processes.append(_spawn(rank, ranks, device, rendezvous, Path(folder)))
            _wait(processes, Path(folder), on_step)
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


def _wait(processes: list[subprocess.Popen[bytes]], folder: Path, on_step: OnStep) -> None:
    """Until all have ended well; meanwhile the first one's steps are told."""
    until = time.monotonic() + DEADLINE
    with Path(folder, "0.out").open() as lines:
        for rank, process in enumerate(processes):
            while (code := _ended(process)) is None:
                _tell(lines, on_step)
                if time.monotonic() > until:
                    raise EngineDown(f"calibration took longer than {DEADLINE:.0f} s")
            if code:
                said = Path(folder, f"{rank}.log").read_text(errors="replace").strip().splitlines()
                last = f": {said[-1]}" if said else ""
                raise EngineDown(f"rank {rank} ended with code {code} during calibration{last}")


def _ended(process: subprocess.Popen[bytes]) -> int | None:
    try:
        return process.wait(timeout=_POLL_SECONDS)
    except subprocess.TimeoutExpired:
        return None


def _tell(lines: TextIO, on_step: OnStep) -> None:
    place = lines.tell()
    while (line := lines.readline()).endswith("\n"):
        place = lines.tell()
        if "step" in (said := json.loads(line)):
            on_step(said["step"])
    lines.seek(place)  # the rest of this line is still to come
