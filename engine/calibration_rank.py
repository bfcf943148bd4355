"""One rank of a calibration: a process that measures and prints what it found as JSON.

Started as `python -m spava_app.engine.calibration_rank SETTINGS`; a process of its own, so that who
asks has no CUDA context afterwards. The link is measured by all ranks, the rest by the first one
alone when the others are gone, since ranks on a CPU would take each other's cores.
"""

import json
import sys
from dataclasses import asdict

import torch

from spava_app.engine.comm import Comm
from spava_app.engine.devices import num_cores
from spava_app.engine.measure import (
    attention_curve,
    decode_rates,
    launch_seconds,
    link_curve,
    matmul_curve,
    memory_rate,
    prepare_rates,
)


def main() -> None:
    """Measure, and print the rates on rank 0."""
    settings = json.loads(sys.argv[1])
    rank, world_size = settings["rank"], settings["world_size"]
    device = torch.device(settings["device"])
    dtype = torch.float32
    if device.type == "cuda":
        device, dtype = torch.device("cuda", rank), torch.bfloat16
        torch.cuda.set_device(device)
    found: dict[str, object] = {}
    if world_size > 1:
        _step("link")
        comm = Comm.connect(
            rank,
            world_size,
            init_method=settings["rendezvous"],
            backend="nccl" if device.type == "cuda" else "gloo",
            deadline=settings["deadline"],
        )
        found["link"] = asdict(link_curve(comm, device))
        comm.close()
    if rank:
        return
    torch.set_num_threads(num_cores())
    _step("memory")
    found["memory"] = memory_rate(device, dtype)
    torch.set_num_threads(1)  # on a CPU FLOP/s are those of one core
    _step("products")
    found["matmul"] = asdict(matmul_curve(device, dtype))
    _step("attention")
    found["attention"] = asdict(attention_curve(device, dtype))
    _step("launches")
    found["launch_seconds"] = launch_seconds(device, dtype)
    _step("resizing")
    found["prepare"], found["unit_seconds"] = prepare_rates(device)
    _step("decoding")
    found["decode"], found["decode_start"] = decode_rates()
    _print(found)


def _step(name: str) -> None:
    """Tell what comes next."""
    _print({"step": name})


def _print(value: dict[str, object]) -> None:
    """One line, whole and at once: it is read while this runs."""
    sys.stdout.write(json.dumps(value) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
