"""Whether elementwise work can run as fused kernels: optional, and only where it pays.

torch's own elementwise kernels read and write each intermediate result, and the broadcast ones
reach a fraction of the memory's speed (docs/performance.md). They stay the reference, and serve
everywhere else: on CPUs, in float32, where gradients are asked for, without Triton.
"""

from functools import cache
from importlib import import_module
from types import ModuleType

import torch
from torch import Tensor

# Elements from which on a launch is worth it: launching through Triton takes the host longer.
LEAST_ELEMENTS = 2**20


def fused_for(x: Tensor) -> ModuleType | None:
    """The kernels (`spava_app.kernels.triton_elementwise`) for tensors like `x`, or None."""
    if x.device.type != "cuda" or x.dtype not in (torch.bfloat16, torch.float16):
        return None
    if x.numel() < LEAST_ELEMENTS or (x.requires_grad and torch.is_grad_enabled()):
        return None
    loaded = load(x.device)
    return loaded if isinstance(loaded, ModuleType) else None


@cache
def load(device: torch.device) -> ModuleType | str:
    """The kernels, or why there are none on this device; tried once per process.

    Triton needs a C compiler at the first launch, so one is tried.
    """
    try:
        kernels = import_module("spava_app.kernels.triton_elementwise")
        kernels.swiglu(torch.zeros(1, 16, dtype=torch.bfloat16, device=device), 8)
        angles = torch.zeros(1, 4, device=device)
        kernels.rotate(torch.zeros(1, 1, 8, dtype=torch.bfloat16, device=device), angles, angles)
    except Exception as error:  # noqa: BLE001 (Triton's and its compiler's have no common type)
        return f"no Triton kernels ({error})"
    return kernels
