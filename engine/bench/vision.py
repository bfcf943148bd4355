"""How fast the vision towers are, beside a matrix product of the same run.

    python -m spava_app.engine.bench.vision --json vision.json

Towers of published geometry with random weights, made on the device, encode random patches: 64
frames of 1440p and 256 frames of 360p, not scaled down, and 64 tiles. A run encodes all of them,
some units or tiles at a time. FLOPs are those of the linear layers and of the query-key pairs that
see each other; elementwise work counts as time only.
"""

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from spava_app.engine.models.flops import (
    TILES,
    Flops,
    internvit_config,
    internvit_flops,
    qwen_config,
    qwen_flops,
    qwen_grids,
)
from spava_app.engine.models.internvl3 import InternVisionTower
from spava_app.engine.models.qwen2_5_vl import Grid, VisionConfig, VisionTower
from spava_app.engine.models.vision_batch import units_per_call
from spava_app.kernels.bench.harness import (
    RunOptions,
    add_run_options,
    measure_matmul,
    run_options,
    say,
    versions,
)
from spava_app.kernels.bench.stopwatch import Timing, time_call
from spava_app.kernels.fused import load
from spava_app.output_file import JsonFile, add_json_option
from spava_app.terminal_text import guard_terminal

TILES_PER_CALL = 64


@dataclass(frozen=True)
class VisionRow:
    """One tower on one input.

    Attributes:
        per_call: units or tiles that are encoded at a time.
        peak_gib: most memory in use during the runs, weights included; None but on a GPU.
    """

    tower: str
    input: str
    geometry: dict[str, int]
    patches: int
    per_call: int
    flops: Flops
    seconds: float
    tflops: float
    of_matmul: float
    peak_gib: float | None
    time: Timing


def main(arguments: Sequence[str] | None = None) -> int:
    """Run, print a table and write `--json`; 0, or 2 for options that cannot be used."""
    options, file = parse(arguments)
    report = measure(options)
    return file.save(report)


def parse(arguments: Sequence[str] | None) -> tuple[RunOptions, JsonFile]:
    parser = argparse.ArgumentParser(
        prog="python -m spava_app.engine.bench.vision", description=__doc__
    )
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    add_json_option(parser)
    add_run_options(parser, divide=16, divided="sizes")
    given = parser.parse_args(arguments)
    return run_options(parser, given), JsonFile(parser, given)


@torch.no_grad()
def measure(options: RunOptions) -> dict[str, object]:
    """The whole report, as it goes into the JSON file; the table is printed as it comes."""
    kernels = load(options.device)
    found = versions(options.device) | {"fused": kernels if isinstance(kernels, str) else "triton"}
    say(", ".join(f"{name} {value}" for name, value in found.items() if value))
    matmul = measure_matmul(options)
    rows = list(tower_rows(options, matmul.tflops))
    return {
        "versions": found,
        "dtype": str(options.dtype).removeprefix("torch."),
        "divide": options.divide,
        "matmul": asdict(matmul),
        "towers": [asdict(row) for row in rows],
    }


def tower_rows(options: RunOptions, peak: float) -> Iterator[VisionRow]:
    say(f"{'tower':15} {'input':23} {'patches':>8} {'linear':>9} {'attention':>9}", end="")
    say(f" {'seconds':>8} {'TFLOP/s':>8} {'of matmul':>10} {'peak GiB':>9}")
    for name, out_hidden in (("Qwen2.5-VL 3B", 2048), ("Qwen2.5-VL 7B", 3584)):
        config = qwen_config(out_hidden, options.divide)
        for about, grid in qwen_grids(options.divide).items():
            yield qwen_row(options, peak, name, config, about, grid)
    yield internvit_row(options, peak)


def qwen_row(
    options: RunOptions, peak: float, name: str, config: VisionConfig, about: str, grid: Grid
) -> VisionRow:
    units, height, width = grid
    per_call = min(units, units_per_call(height * width, options.device.type))
    with options.device:
        tower = VisionTower(config).to(options.dtype)
    patches = random(options, per_call * height * width, config.patch_dim)

    def encode(count: int) -> Tensor:
        return tower(patches[: count * height * width], (count, height, width))

    flops = qwen_flops(config, grid)
    timed = time_tower(options, encode, units, per_call, flops, peak)
    geometry = {
        "depth": config.depth,
        "hidden": config.hidden_size,
        "inner": config.intermediate_size,
        "heads": config.num_heads,
        "out_hidden": config.out_hidden_size,
        "units": units,
        "height": height,
        "width": width,
    }
    row = VisionRow(name, about, geometry, units * height * width, per_call, flops, *timed)
    say(line(row))
    return row


def internvit_row(options: RunOptions, peak: float) -> VisionRow:
    config, tiles = internvit_config(options.divide), max(1, TILES // options.divide)
    with options.device:
        tower = InternVisionTower(config).to(options.dtype)
    per_call = min(tiles, TILES_PER_CALL)
    pixels = random(options, per_call, 3, config.image_size, config.image_size)
    flops = internvit_flops(config, tiles)
    timed = time_tower(options, lambda count: tower(pixels[:count]), tiles, per_call, flops, peak)
    geometry = {
        "depth": config.num_layers,
        "hidden": config.hidden_size,
        "inner": config.intermediate_size,
        "heads": config.num_heads,
        "out_hidden": config.out_hidden_size,
        "tiles": tiles,
        "side": config.image_size,
    }
    about = f"{tiles} tiles of {config.image_size}x{config.image_size}"
    patches = tiles * config.num_patches
    row = VisionRow("InternViT-300M", about, geometry, patches, per_call, flops, *timed)
    say(line(row))
    return row


def time_tower(
    options: RunOptions,
    encode: Callable[[int], Tensor],
    count: int,
    per_call: int,
    flops: Flops,
    peak: float,
) -> tuple[float, float, float, float | None, Timing]:
    """The last five of `VisionRow`, for `encode`, which encodes so many units or tiles."""

    def run() -> None:
        for start in range(0, count, per_call):
            encode(min(per_call, count - start))

    on_gpu = options.device.type == "cuda"
    if on_gpu:
        torch.cuda.reset_peak_memory_stats(options.device)
    time = time_call(run, options.device, options.runs)
    peak_bytes = torch.cuda.max_memory_allocated(options.device) if on_gpu else None
    tflops = flops.total / time.median_ms / 1e9
    peak_gib = peak_bytes / 2**30 if peak_bytes is not None else None
    return time.median_ms / 1e3, tflops, tflops / peak, peak_gib, time


def random(options: RunOptions, *shape: int) -> Tensor:
    return torch.randn(shape, dtype=options.dtype, device=options.device)


def line(row: VisionRow) -> str:
    peak = "" if row.peak_gib is None else f"{row.peak_gib:.2f}"
    return (
        f"{row.tower:15} {row.input:23} {row.patches:>8} {row.flops.linear:>9.3g}"
        f" {row.flops.attention:>9.3g} {row.seconds:>8.3g} {row.tflops:>8.4g}"
        f" {row.of_matmul:>10.1%} {peak:>9}"
    )


if __name__ == "__main__":
    guard_terminal()
    sys.exit(main())
