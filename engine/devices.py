"""What there is: GPUs, memory, cores. Asked of the system and never of CUDA, which would take
memory on each GPU for the process that asks.
"""

import os
import platform
import subprocess
from dataclasses import dataclass
from pathlib import Path

import psutil
import torch

_SECONDS = 10.0
_MIB = 2**20
_CGROUPS, _OWN_GROUPS = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")


@dataclass(frozen=True)
class Gpu:
    """A GPU: its name, and bytes of its memory in all and unused."""

    name: str
    total: int
    free: int


def visible_gpus() -> tuple[Gpu, ...]:
    """The GPUs that this process may use; none where nvidia-smi is missing or says nothing."""
    query = "--query-gpu=index,uuid,name,memory.total,memory.free"
    lines = smi(query, "--format=csv,noheader,nounits")
    found: dict[str, Gpu] = {}
    places: list[str] = []
    for line in lines:
        index, uuid, name, total, free = (part.strip() for part in line.split(","))
        if not (total.isdecimal() and free.isdecimal()):
            continue  # a GPU that is lost, or one cut into instances, tells no memory
        found[index] = found[uuid] = Gpu(name, int(total) * _MIB, int(free) * _MIB)
        places.append(index)
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        places = [place.strip() for place in visible.split(",")]
    chosen: list[Gpu] = []
    for place in places:
        matching = [gpu for name, gpu in found.items() if _means(place, name)]
        if len(matching) != 1:
            break  # as CUDA does: what follows an unknown one is not seen
        chosen.append(matching[0])
    return tuple(chosen)


def _means(place: str, name: str) -> bool:
    """Whether an entry of CUDA_VISIBLE_DEVICES, which may shorten a UUID, is this GPU."""
    return place == name or (place.startswith("GPU-") and name.startswith(place))


def smi(*arguments: str) -> list[str]:
    """The lines that nvidia-smi prints; none where it cannot be asked."""
    try:
        done = subprocess.run(
            ["nvidia-smi", *arguments],
            capture_output=True,
            text=True,
            timeout=_SECONDS,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return []
    return done.stdout.strip().splitlines()


def device_name(device: str) -> str:
    """Of the first GPU, or of the processor."""
    if device == "cuda":
        found = visible_gpus()
        return found[0].name if found else torch.cuda.get_device_name()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or "cpu"


def torch_threads(device: str, cores: int) -> int:
    """CPU threads of torch in a rank that has so many cores. Beside a GPU little is left for them,
    and more than a few only wait for each other: the decoders need the cores.
    """
    return cores if device == "cpu" else min(cores, 4)


def num_cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def host_memory() -> tuple[int, int]:
    """Bytes of the host in all and available, with the limits of this process's control group."""
    whole, available = _machine_memory()
    total = whole
    for folder in _own_groups():
        limit = _number(folder / "memory.max") or _number(folder / "memory.limit_in_bytes")
        used = _number(folder / "memory.current") or _number(folder / "memory.usage_in_bytes")
        if limit is None or used is None or limit >= whole:
            continue
        total = min(total, limit)
        # Pages of files count as used and are given back when memory is short.
        available = min(available, limit - used + _inactive_files(folder))
    return total, max(0, available)


def _machine_memory() -> tuple[int, int]:
    """Bytes in all and available; without /proc, of the latter those that hold nothing at all."""
    try:
        memory = psutil.virtual_memory()
    except OSError:
        page, pages = os.sysconf("SC_PAGE_SIZE"), os.sysconf("SC_PHYS_PAGES")
        return page * pages, page * os.sysconf("SC_AVPHYS_PAGES")
    return memory.total, memory.available


def available_memory(device: str, world_size: int) -> int:
    """Bytes that each rank may take: of the fullest of their GPUs, or an equal share of the host.

    To be asked before the ranks have started: what they hold themselves would not count as free.
    """
    if device == "cpu":
        return host_memory()[1] // world_size
    if found := visible_gpus():
        return min(gpu.free for gpu in found[:world_size])
    here = min(world_size, torch.cuda.device_count())  # other ranks have machines of their own
    return min(torch.cuda.mem_get_info(rank)[0] for rank in range(here))


def _own_groups() -> list[Path]:
    """Folders of this process's control group and those above it, in either version."""
    try:
        lines = _OWN_GROUPS.read_text().splitlines()
    except OSError:
        return []
    folders = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        root = _CGROUPS / "memory" if controllers else _CGROUPS
        own = root / path.lstrip("/")
        # In a container the path is the host's, and the group itself stands at the root.
        above = [folder for folder in own.parents if folder.is_relative_to(root)]
        folders += [own, *above]
    return [folder for folder in folders if folder.is_dir()]


def _number(path: Path) -> int | None:
    try:
        text = path.read_text().strip()
    except OSError:
        return None
    return int(text) if text.isdecimal() else None


def _inactive_files(folder: Path) -> int:
    try:
        lines = (folder / "memory.stat").read_text().splitlines()
    except OSError:
        return 0
    found = dict(line.split(None, 1) for line in lines)
    return int(found.get("inactive_file") or found.get("total_inactive_file") or 0)
