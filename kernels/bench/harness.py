"""What benchmarks of kernels and towers share: on what they run, and the matrix product that they
compare with.
"""

import argparse
import platform
import sys
from dataclasses import dataclass
from importlib.metadata import distributions

import torch

from spava_app.kernels.bench.stopwatch import Timing, time_call

MATMUL_SIZE = 8192


@dataclass(frozen=True)
class RunOptions:
    """On what to measure.

    Attributes:
        divide: all sizes are divided by it.
        runs: timed runs; None for as many as a call's time asks for.
    """

    device: torch.device
    dtype: torch.dtype
    divide: int
    runs: int | None


@dataclass(frozen=True)
class Matmul:
    """A product of two square matrices: what the rest of a run is compared with."""

    size: int
    tflops: float
    time: Timing


def add_run_options(parser: argparse.ArgumentParser, *, divide: int, divided: str) -> None:
    """Add the options of `RunOptions`.

    Args:
        divide: default on a CPU.
        divided: what is divided, for the help.
    """
    on_gpu = torch.cuda.is_available()
    parser.add_argument(
        "--device", default="cuda" if on_gpu else "cpu", help="default: %(default)s"
    )
    parser.add_argument(
        "--dtype",
        choices=["bfloat16", "float16", "float32"],
        default="bfloat16" if on_gpu else "float32",
        help="default: %(default)s",
    )
    parser.add_argument(
        "--divide",
        type=int,
        default=1 if on_gpu else divide,
        help=f"divide all {divided} by this, for slow machines (default: %(default)s)",
    )
    parser.add_argument(
        "--runs", type=int, help="timed runs; by default 10 if one takes under 1 s, 3 under 10 s"
    )


def run_options(parser: argparse.ArgumentParser, given: argparse.Namespace) -> RunOptions:
    """What was given; exits where it is out of range."""
    if given.divide < 1 or (given.runs is not None and given.runs < 1):
        parser.error("--divide and --runs must be at least 1")
    dtype = getattr(torch, given.dtype)
    return RunOptions(torch.device(given.device), dtype, given.divide, given.runs)


def versions(device: torch.device) -> dict[str, str | int | None]:
    on_gpu = device.type == "cuda"
    return {
        "device": torch.cuda.get_device_name(device) if on_gpu else platform.processor() or "cpu",
        "torch": torch.__version__,
        "cuda": torch.version.cuda if on_gpu else None,
        "cudnn": torch.backends.cudnn.version() if on_gpu else None,
        "flash_attn": ", ".join(
            f"{item.name} {item.version}"
            for item in distributions()
            if item.name.replace("_", "-").startswith("flash-attn")
        ),
        "python": platform.python_version(),
    }


def measure_matmul(options: RunOptions) -> Matmul:
    """Time a matrix product of 8192^3, or of smaller matrices, and print it."""
    device, dtype = options.device, options.dtype
    size = max(512, MATMUL_SIZE // options.divide)
    a, b = (torch.randn(size, size, dtype=dtype, device=device) for _ in range(2))
    time = time_call(lambda: a @ b, device, options.runs)
    tflops = 2 * size**3 / time.median_ms / 1e9
    say(f"\nmatrix product {size}^3 in {dtype}: {tflops:.4g} TFLOP/s\n")
    return Matmul(size, tflops, time)


def say(text: str, end: str = "\n") -> None:
    sys.stdout.write(text + end)
    sys.stdout.flush()
