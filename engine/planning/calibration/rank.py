"""One rank of a calibration: a process that measures and prints what it found as JSON.

Started as `python -m spava_app.engine.planning.calibration.rank SETTINGS`; a process of its own, so
that the caller has no CUDA context afterwards. The link is measured by all ranks, the rest by the
first one alone when the others are gone, since ranks on a CPU would take each other's cores.
"""

import json
import sys
from dataclasses import asdict
from typing import Any

import torch

from spava_app.engine.comm import Comm
from spava_app.engine.devices import num_cores, torch_threads
from spava_app.engine.planning.calibration.decoder_rates import (
    attention_curve,
    link_curve,
    matmul_curve,
    memory_rate,
    token_layer_seconds,
)
from spava_app.engine.planning.calibration.video_rates import (
    decode_rates,
    place_seconds,
    prepare_rate,
)
from spava_app.engine.planning.decoder_time import TOKEN_LAUNCHES


def main() -> None:
    """Measure, and print the rates on rank 0."""
    settings = json.loads(sys.argv[1])
    rank, world_size = settings["rank"], settings["world_size"]
    device = torch.device(settings["device"])
    dtype = torch.float32
    if device.type == "cuda":
        device, dtype = torch.device("cuda", rank), torch.bfloat16
        torch.cuda.set_device(device)
    threads = torch_threads(device.type, max(1, num_cores() // world_size))
    torch.set_num_threads(threads)
    found: dict[str, Any] = {}
    together = None
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
        _step("tokens")
        together = token_layer_seconds(comm, device, dtype)
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
    alone = token_layer_seconds(Comm(), device, dtype)
    found["launch_seconds"] = alone / TOKEN_LAUNCHES
    if together is not None:
        found["gather_seconds"] = max(together - alone, 1e-6)
    _step("places")
    torch.set_num_threads(threads)
    found["place_seconds"] = place_seconds()
    torch.set_num_threads(1)
    _step("resizing")
    found["prepare"] = prepare_rate(device)
    _step("decoding")
    found |= decode_rates(device, found["prepare"])
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
