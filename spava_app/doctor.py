"""What this machine has for the work, and what to do about what it lacks."""

import os
import tempfile
import warnings
from collections import Counter
from contextlib import suppress
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import torch

from spava_app.engine.devices import device_name, host_memory, num_cores, smi, visible_gpus
from spava_app.engine.folders import cache_folder, private_folder
from spava_app.engine.planning.hardware_profiles import this_machine
from spava_app.engine.video.decoder_process import sandbox_measures
from spava_app.errors import SpavaError
from spava_app.kernels.attention import choose_backend
from spava_app.versions import TESTED, installed, is_tested, version_range

Status = Literal["ok", "absent", "warning", "problem"]


@dataclass(frozen=True)
class Check:
    """One thing that was looked at.

    Attributes:
        name, found: what, and how it is.
        status: "absent" where nothing is needed, "warning" where something works less well,
            "problem" where it does not work.
        fix: what to do, in a line; empty without a warning or problem.
    """

    name: str
    found: str
    status: Status = "ok"
    fix: str = ""


@dataclass(frozen=True)
class Diagnosis:
    """All that was looked at."""

    checks: tuple[Check, ...]

    @property
    def status(self) -> Status:
        """The worst of all."""
        found = {check.status for check in self.checks}
        return "problem" if "problem" in found else "warning" if "warning" in found else "ok"

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {"status": self.status, "checks": [asdict(check) for check in self.checks]}

    def __str__(self) -> str:
        width = max(len(check.name) for check in self.checks)
        lines = []
        for check in self.checks:
            status = "--" if check.status == "absent" else check.status
            lines.append(f"{status:8} {check.name:{width}}  {check.found}")
            if check.fix:
                lines.append(f"{'':8} {'':{width}}  -> {check.fix}")
        return "\n".join(lines)


GIB = 2**30

# Distribution, module, and what a GPU gains by it.
_OPTIONAL = (
    ("flash-attn", "flash_attn", "another attention backend"),
    ("triton", "triton", "fused kernels"),
)
# Below this a request with a model of some billion parameters has little room.
_LEAST_MEMORY = 4 * GIB
# Rows and heads of a call like a prefill's, for which attention's backend is asked.
_CALL = (16384, 28, 128)


def diagnose() -> Diagnosis:
    """Look at versions, devices, memory, the cache, and what predictions come from. Writes nothing
    that stays.
    """
    gpus, device = visible_gpus(), usual_device()
    usable = torch.cuda.device_count() if gpus else 0
    return Diagnosis(
        (
            *_versions(),
            *_optional(on_gpu=device == "cuda"),
            _gpus(usable),
            *([_links()] if len(gpus) > 1 else []),
            _cores(),
            _memory(),
            _shared_memory(),
            _sandbox(),
            _cache(cache_folder()),
            _attention(device),
            _rates(device),
        )
    )


def usual_device() -> str:
    """Where work is done unless told otherwise: "cuda" where torch can use a GPU, else "cpu"."""
    return "cuda" if visible_gpus() and torch.cuda.device_count() else "cpu"


def _versions() -> list[Check]:
    return [_version(name) for name in TESTED]


def _version(name: str) -> Check:
    wanted = f"{name}{version_range(name)}"
    fix = f"pip install '{wanted}'"
    try:
        found = installed(name)
    except PackageNotFoundError:
        return Check(name, "not installed", "problem", fix)
    if is_tested(name, found):
        return Check(name, found)
    if name == "python":
        fix = f"make an environment with {wanted}"
    return Check(name, f"{found}, outside the tested range {version_range(name)}", "warning", fix)


def _optional(*, on_gpu: bool) -> list[Check]:
    checks = []
    for name, module, use in _OPTIONAL:
        if find_spec(module) is None:
            if on_gpu and module == "triton":
                found, fix = f"not installed ({use})", "pip install triton"
                checks.append(Check(name, found, "warning", fix))
            else:
                why = f"optional: {use}" if on_gpu else "optional"
                checks.append(Check(name, f"not installed ({why})", "absent"))
            continue
        try:
            checks.append(Check(name, version(name)))
        except PackageNotFoundError:  # importable without being installed as a package
            checks.append(Check(name, "installed"))
    return checks


def _gpus(usable: int) -> Check:
    gpus = visible_gpus()
    if not gpus:
        return Check("GPUs", "none: work is done on the CPU")
    told = ", ".join(
        f"{gpu.name} {gpu.free / GIB:.1f} of {gpu.total / GIB:.1f} GiB free" for gpu in gpus
    )
    if usable < len(gpus):
        fix = "install a torch built for this driver's CUDA (https://pytorch.org)"
        return Check("GPUs", f"{told}; torch can use {usable}", "problem", fix)
    if min(gpu.free for gpu in gpus) < _LEAST_MEMORY:
        fix = "end other programs on it, or leave it out with CUDA_VISIBLE_DEVICES"
        return Check("GPUs", told, "warning", fix)
    return Check("GPUs", told)


def _links() -> Check:
    """From nvidia-smi's matrix: rows begin with GPU0, GPU1, ..."""
    rows = [line.split() for line in smi("topo", "-m") if line.startswith("GPU")]
    kinds = Counter(
        word for row in rows for word in row[1 : len(rows) + 1] if word not in {"X", "\x1b[4mX"}
    )
    if not kinds:
        return Check("links", "nvidia-smi does not tell")
    told = ", ".join(sorted(kinds))
    if all(kind.startswith("NV") for kind in kinds):
        return Check("links", told)
    fix = "GPUs without NVLink between them: fewer ranks may be as fast; calibrate to find out"
    return Check("links", told, "warning", fix)


def _cores() -> Check:
    cores = num_cores()
    found = f"{cores} of {device_name('cpu')}"
    if cores < 2:
        fix = "decoding and computing take turns: give it 2 cores"
        return Check("cores", found, "warning", fix)
    return Check("cores", found)


def _memory() -> Check:
    total, available = host_memory()
    found = f"{available / GIB:.1f} of {total / GIB:.1f} GiB available"
    if available < _LEAST_MEMORY:
        fix = "end other programs, or raise the container's limit"
        return Check("memory", found, "warning", fix)
    return Check("memory", found)


def _shared_memory() -> Check:
    """Decoded frames come through anonymous memory, which needs no /dev/shm."""
    try:
        os.close(os.memfd_create("spava-doctor"))
    except (AttributeError, OSError) as error:
        fix = "frames cannot be passed between processes: run on Linux 3.17 or later"
        return Check("shared memory", f"no memfd_create ({error})", "problem", fix)
    return Check("shared memory", "memfd_create works; /dev/shm is not needed")


def _sandbox() -> Check:
    """What a decoder process, which reads files that nobody has checked, has given up."""
    name = "decoder sandbox"
    try:
        measures = sandbox_measures()
    except SpavaError as error:
        return Check(name, str(error), "problem", "nothing can be decoded: see the log (-v)")
    held = [f"{measure} {detail}".rstrip() for measure, holds, detail in measures if holds]
    lacking = {measure: why for measure, holds, why in measures if not holds}
    lines = [", ".join(held)] if held else []
    if lacking:
        missing = ", ".join(f"{measure} ({why})" for measure, why in lacking.items())
        lines.append(f"not available: {missing}")
    found = "; ".join(lines)
    if not held:
        return Check(name, found, "absent")
    if "seccomp" in lacking:
        fix = "allow seccomp filters in the container, or run a kernel that has them"
        return Check(name, found, "warning", fix)
    return Check(name, found)


def _cache(folder: Path) -> Check:
    size = 0
    for path in folder.rglob("*"):
        try:
            size += path.stat().st_size if path.is_file() else 0
        except OSError:
            continue  # another process has just removed it
    found = f"{folder}, {size / GIB:.2f} GiB"
    place = folder
    while not place.exists():
        place = place.parent
    try:
        with tempfile.TemporaryFile(dir=place):
            pass
    except OSError as error:
        fix = "set SPAVA_CACHE to a folder that can be written"
        return Check("cache", f"{found}, cannot be written ({error.strerror})", "warning", fix)
    for name in ("embeddings", "machines"):
        try:
            with suppress(FileNotFoundError), private_folder(folder / name):
                pass
        except OSError as error:
            fix = "set SPAVA_CACHE to a folder that only you may write"
            why = f"{name} is not used: {error.strerror}"
            return Check("cache", f"{found}, {why}", "warning", fix)
    return Check("cache", found)


def _attention(device: str) -> Check:
    rows, heads, head_dim = _CALL
    try:
        dtype = torch.bfloat16 if device == "cuda" else torch.float32
        q = torch.empty(rows, heads, head_dim, dtype=dtype, device=device)
        choice = choose_backend(q, q[:, : heads // 7], causal=True)
    except (SpavaError, RuntimeError) as error:
        line = str(error).splitlines()[0]
        return Check("attention", line, "problem", "free the first GPU, or reinstall torch")
    if choice.name == "reference":
        fix = "no fast attention serves this device: use a GPU of Ampere or later"
        return Check("attention", choice.name, "warning", fix)
    return Check("attention", f"{choice.name} (chosen automatically)")


def _rates(device: str) -> Check:
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        machine = this_machine(device)
    if machine.measured:
        return Check("predictions", f"from {machine.origin}")
    why = f" ({told[0].message})" if told else ""
    fix = "spava doctor --calibrate measures this machine in under a minute"
    return Check("predictions", f"from {machine.origin}{why}", "warning", fix)
