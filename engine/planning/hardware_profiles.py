"""Rates of machines: measured ones from the cache folder, a small JSON file for each set of
devices; else defaults.

Those of the H200 are measured (docs/results/); other GPUs' are scaled by the FLOP/s, memory and
link of their data sheets. A CPU's are low: `spava doctor --calibrate` knows better. A file that
cannot be used is reported and ignored.
"""

import json
import os
import re
import tempfile
import warnings
from collections import Counter
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import torch

from spava_app.engine.devices import device_name, num_cores, visible_gpus
from spava_app.engine.folders import cache_folder, private_folder, read_private
from spava_app.engine.planning.hardware import Curve, Machine
from spava_app.errors import SpavaWarning

# FLOPs of a call from which the fastest attention kernel is used on Hopper.
_LARGE_CALL = 5e11

H200 = Machine(
    device="cuda",
    name="NVIDIA H200",
    origin="defaults for H200",
    # The products of a 7B layer over 32K rows reach 0.92 of a square one of 8192^3, which reached
    # 750 to 800 TFLOP/s on the machines of the committed runs.
    matmul=Curve(((1e8, 1e13), (1e10, 3e14), (1e12, 7.2e14))),
    # cuDNN from _LARGE_CALL on, FlashAttention-2 below.
    attention=Curve(((4e8, 5e12), (3e10, 1.7e14), (4.9e11, 3.3e14), (_LARGE_CALL, 6.0e14))),
    memory=3.4e12,
    link=Curve(((1e3, 4e7), (1e6, 2.5e10), (1e7, 1.2e11), (1e8, 3e11))),
    launch_seconds=3.0e-5,
    gather_seconds=3e-4,
    cores=1,
    decode=2.8e8,
    decode_start=0.02,
    prepare=4e9,
    unit_seconds=6e-4,
    place_seconds=4e-8,
)
_PCIE = Curve(((1e3, 2e7), (1e6, 8e9), (1e8, 2e10)))
_CPU_CORE = Machine(
    device="cpu",
    name="cpu",
    origin="defaults for a CPU",
    matmul=Curve(((1e5, 5e9), (1e7, 4e10), (1e8, 6e10))),
    attention=Curve(((1e5, 2e9), (1e7, 1.5e10), (1e8, 2.5e10))),
    memory=4e9,
    link=Curve(((1e3, 5e6), (1e6, 5e8), (1e7, 1e9))),
    launch_seconds=1.2e-5,
    gather_seconds=2e-4,
    cores=1,
    decode=3e8,
    decode_start=0.05,
    prepare=2.5e8,
    unit_seconds=1e-4,
    place_seconds=8e-8,
)


def default_machine(device: str, name: str, cores: int) -> Machine:
    """Rates for a device that was not measured.

    Args:
        device: "cpu" or "cuda".
        name: of the processor or GPU.
        cores: of the CPU.
    """
    if device == "cpu":
        # Cores share the memory: more than a few do not make it faster.
        memory = _CPU_CORE.memory * min(cores, 8)
        return replace(_CPU_CORE, name=name, cores=cores, memory=memory)
    for part, gpu in _GPUS.items():
        if part in name:
            return replace(gpu, name=name, cores=cores, origin=f"defaults for {part}")
    other = _scaled(H200, 0.1, memory=0.15, link=1)
    return replace(other, name=name, cores=cores, link=_PCIE, origin="defaults for other GPUs")


def _scaled(machine: Machine, flops: float, *, memory: float, link: float) -> Machine:
    def times(curve: Curve, factor: float) -> Curve:
        return Curve(tuple((size, rate * factor) for size, rate in curve.points))

    return replace(
        machine,
        matmul=times(machine.matmul, flops),
        attention=times(machine.attention, flops),
        memory=machine.memory * memory,
        link=times(machine.link, link),
    )


def _ampere(flops: float, memory: float, link: float) -> Machine:
    """FlashAttention-2 at every size, at two thirds of a matrix product."""
    gpu = _scaled(H200, flops, memory=memory, link=link)
    curve = Curve(((4e8, 4e12), (3e10, 1e14), (2e11, 1.9e14)))
    return replace(gpu, attention=curve)


# By a part of the GPU's name, the first that is in it.
_GPUS = {
    "H200": H200,
    "H100": replace(H200, memory=2.4e12),
    "H800": _scaled(replace(H200, memory=2.4e12), 1, memory=1, link=0.45),
    "A100": _ampere(0.33, 0.4, 0.6),
    "A800": _ampere(0.33, 0.4, 0.4),
}


# A file has a few kilobytes.
_MOST_BYTES = 2**20


def this_machine(device: str, folder: Path | None = None) -> Machine:
    """Rates of the machine this runs on: as measured, else by default.

    Args:
        device: "cpu" or "cuda".
        folder: where files lie; by default in the cache folder.

    Warns:
        SpavaWarning: there is a file that cannot be used.
    """
    default = default_machine(device, device_name(device), num_cores())
    path = machine_file(device, folder)
    try:
        text = read_private(path, _MOST_BYTES)
    except FileNotFoundError:
        return default
    except OSError as error:
        return _passed_over(path, f"cannot be read ({error.strerror})", default)
    try:
        kept = json.loads(text)
        if kept["torch"] != torch.__version__:
            why = f"was made with torch {kept['torch']}, this is {torch.__version__}"
            return _passed_over(path, why, default)
        machine = Machine.from_dict(kept["machine"])
        if machine.device != device:
            raise ValueError(machine.device)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return _passed_over(path, "is broken", default)
    return machine


def save_machine(machine: Machine, folder: Path | None = None) -> Path:
    """Keep rates of the machine this runs on; readers see the old file or the whole new one.

    Raises:
        OSError: the folder cannot be written, or is not private.
    """
    path = machine_file(machine.device, folder)
    with private_folder(path.parent, make=True):
        pass
    kept = {"torch": torch.__version__, "machine": machine.to_dict()}
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=".machine-")
    try:
        with os.fdopen(handle, "w") as file:
            file.write(json.dumps(kept, indent=1) + "\n")
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    return path


def machine_file(device: str, folder: Path | None = None) -> Path:
    """Where rates of these devices are kept: named by what they are, how many, and the cores."""
    names = [device_name("cpu")]
    if device == "cuda":
        names += [gpu.name for gpu in visible_gpus()] or [device_name("cuda")]
    counted = sorted(Counter(names).items())
    key = sha256(json.dumps([counted, num_cores()]).encode()).hexdigest()[:12]
    word = re.sub(r"\W+", "-", names[-1]).strip("-").lower()
    return (folder or cache_folder() / "machines") / f"{device}-{word[:40]}-{key}.json"


def _passed_over(path: Path, why: str, default: Machine) -> Machine:
    told = f"{path} {why}: predictions use {default.origin}; run spava doctor --calibrate"
    warnings.warn(SpavaWarning(told), stacklevel=3)
    return default
