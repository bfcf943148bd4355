"""How fast the attention backends are, and what selection costs, beside a matrix product.

    python -m spava_app.kernels.bench --json kernels.json

Everything is measured in one process. A row names the query rows, the keys, the time of the first
call (kernels and plans are built in it) and the median of the timed ones. FLOPs are 4 x D x H x the
query-key pairs that the mask leaves.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from spava_app.errors import SpavaError
from spava_app.kernels.attention import BACKENDS, attention, choose_backend, visible_pairs
from spava_app.kernels.bench.harness import (
    RunOptions,
    add_run_options,
    measure_matmul,
    run_options,
    say,
    versions,
)
from spava_app.kernels.bench.layer_share import layer_share
from spava_app.kernels.bench.stopwatch import Timing, time_call
from spava_app.output_file import JsonFile, add_json_option
from spava_app.terminal_text import guard_terminal

K = 1024
HEADS = ((28, 4), (16, 2), (32, 8))  # Qwen2.5-VL 7B and 3B, Llama 3 8B
HEAD_DIM = 128
# (query rows, keys, causal): prefill, then a question and a new token against a long cache.
LENGTHS = (
    (16 * K, 16 * K, True),
    (16 * K, 16 * K, False),
    (16 * K, 32 * K, True),
    (16 * K, 64 * K, False),
    (64 * K, 64 * K, True),
    (64, 32 * K, False),
    (1, 32 * K, False),
)


@dataclass(frozen=True)
class KernelOptions(RunOptions):
    """What to measure, on what.

    Attributes:
        backends: names of the attention backends.
    """

    backends: tuple[str, ...]


@dataclass(frozen=True)
class KernelRow:
    """One backend on one shape."""

    backend: str
    heads: int
    kv_heads: int
    head_dim: int
    query_rows: int
    keys: int
    causal: bool
    composed: bool
    tflops: float
    of_matmul: float
    time: Timing


def main(arguments: Sequence[str] | None = None) -> int:
    """Run, print tables and write `--json`; 2 for options that cannot be used, else 0."""
    options, file = parse(arguments)
    found = versions(options.device)
    say(", ".join(f"{name} {value}" for name, value in found.items() if value))
    try:
        report = measure(options)
    except SpavaError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    return file.save(report)


def parse(arguments: Sequence[str] | None) -> tuple[KernelOptions, JsonFile]:
    parser = argparse.ArgumentParser(prog="python -m spava_app.kernels.bench", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    add_json_option(parser)
    add_run_options(parser, divide=128, divided="lengths and sizes")
    timed = [name for name in BACKENDS if name != "reference"]
    parser.add_argument(
        "--backends",
        nargs="+",
        default=timed,
        choices=list(BACKENDS),
        metavar="NAME",
        help=f"of {', '.join(BACKENDS)}; by default all but the last",
    )
    given = parser.parse_args(arguments)
    run = run_options(parser, given)
    return KernelOptions(**vars(run), backends=tuple(given.backends)), JsonFile(parser, given)


def measure(options: KernelOptions) -> dict[str, object]:
    """The whole report, as it goes into the JSON file; tables are printed as they come."""
    matmul = measure_matmul(options)

    probe = torch.empty(K, 4, HEAD_DIM, dtype=options.dtype, device=options.device)
    missing = {name: BACKENDS[name].unsupported(probe) for name in options.backends}
    missing = {name: reason for name, reason in missing.items() if reason}
    for name, reason in missing.items():
        say(f"no {name}: {reason}")
    usable = [name for name in options.backends if name not in missing]
    rows = list(attention_rows(options, matmul.tflops, usable))

    share = layer_share(options.device, options.dtype, options.divide, options.runs)
    say(f"\n{share}")
    return {
        "versions": versions(options.device),
        "dtype": str(options.dtype).removeprefix("torch."),
        "divide": options.divide,
        "matmul": asdict(matmul),
        "missing": missing,
        "attention": [asdict(row) for row in rows],
        "layer": asdict(share),
    }


def attention_rows(
    options: KernelOptions, peak: float, backends: Sequence[str]
) -> Iterator[KernelRow]:
    say(f"{'heads':>6} {'rows x keys':>15} {'':6} {'backend':20}", end="")
    say(f"{'TFLOP/s':>8} {'of matmul':>10} {'median ms':>10} {'p10':>9} {'p90':>9} {'first':>9}")
    for heads, kv_heads in HEADS:
        for query_rows, keys, causal in LENGTHS:
            query_rows, keys = (max(1, n // options.divide) for n in (query_rows, keys))
            q, k, v = random_inputs(options, query_rows, keys, heads, kv_heads)
            chosen = choose_backend(q, k, causal=causal).name
            pairs = visible_pairs(query_rows, keys, causal=causal)
            for name in backends:
                time = time_call(
                    lambda q=q, k=k, v=v, causal=causal, name=name: attention(
                        q, k, v, causal=causal, backend=name
                    ),
                    options.device,
                    options.runs,
                )
                tflops = 4 * HEAD_DIM * heads * pairs / time.median_ms / 1e9
                composed = causal and query_rows < keys and not BACKENDS[name].bottom_right
                row = KernelRow(
                    *(name, heads, kv_heads, HEAD_DIM, query_rows, keys, causal, composed),
                    *(tflops, tflops / peak, time),
                )
                say(line(row, auto=name == chosen))
                yield row


def random_inputs(
    options: KernelOptions, query_rows: int, keys: int, heads: int, kv_heads: int
) -> tuple[Tensor, Tensor, Tensor]:
    def random(rows: int, heads: int) -> Tensor:
        return torch.randn(rows, heads, HEAD_DIM, dtype=options.dtype, device=options.device)

    return random(query_rows, heads), random(keys, kv_heads), random(keys, kv_heads)


def line(row: KernelRow, *, auto: bool) -> str:
    shape = f"{row.heads:>3}/{row.kv_heads:<2} {row.query_rows:>7} x {row.keys:<6}"
    mask = "causal" if row.causal else "full"
    name = row.backend + (" (auto)" if auto else "")
    time = row.time
    return (
        f"{shape}{mask:7} {name:20}{row.tflops:>8.4g} {row.of_matmul:>10.1%}"
        f" {time.median_ms:>10.4g} {time.p10_ms:>9.4g} {time.p90_ms:>9.4g} {time.first_ms:>9.4g}"
    )


if __name__ == "__main__":
    guard_terminal()
    sys.exit(main())
