"""Measured rates of machines, kept in the cache folder: a small JSON file for each set of devices.

A file that cannot be used is told and passed over: predictions then come from defaults.
"""

import json
import os
import re
import tempfile
import warnings
from collections import Counter
from hashlib import sha256
from pathlib import Path

import torch

from spava_app.engine.devices import cards, device_name, num_cores
from spava_app.engine.planning.hardware import Machine
from spava_app.engine.planning.known_machines import default_machine
from spava_app.engine.private_files import private_folder, read_private
from spava_app.engine.workers.settings import cache_folder
from spava_app.errors import SpavaWarning

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
        names += [card.name for card in cards()] or [device_name("cuda")]
    counted = sorted(Counter(names).items())
    key = sha256(json.dumps([counted, num_cores()]).encode()).hexdigest()[:12]
    word = re.sub(r"\W+", "-", names[-1]).strip("-").lower()
    return (folder or cache_folder() / "machines") / f"{device}-{word[:40]}-{key}.json"


def _passed_over(path: Path, why: str, default: Machine) -> Machine:
    told = f"{path} {why}: predictions use {default.origin}; run spava doctor --calibrate"
    warnings.warn(SpavaWarning(told), stacklevel=3)
    return default
