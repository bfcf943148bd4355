"""How fast the engine is, and how much memory it takes beside what was predicted.

    python -m spava_app.engine.bench --ranks 2 --case "Qwen2.5-VL-7B spava 128K" --json engine.json

The product's own path with random weights: a process per rank, a prompt of random tokens, prefill
and some new tokens. Each case runs twice and the second run counts, unless the first takes over a
minute. FLOPs are those of the busiest rank: 2 per weight of the layers and row, 4 per query-key
pair, head and channel.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from spava_app.engine.bench.cases import read_case
from spava_app.engine.bench.group import measure
from spava_app.engine.bench.rank import RankSetup
from spava_app.engine.models.geometries import GEOMETRIES
from spava_app.errors import SpavaError
from spava_app.output_file import JsonFile, add_json_option
from spava_app.terminal_text import guard_terminal


@dataclass(frozen=True)
class BenchOptions:
    """See `parse`."""

    setup: RankSetup
    cases: tuple[str, ...]
    checkpoint: Path | None
    json: JsonFile


def main(arguments: Sequence[str] | None = None) -> int:
    """Run, print tables and write `--json`; 2 for options that cannot be used, 1 for a failure."""
    options = parse(arguments)
    setup, checkpoint = options.setup, options.checkpoint
    try:
        cases = [
            read_case(text, ranks=setup.ranks, checkpoint=checkpoint) for text in options.cases
        ]
        report = measure(setup, cases, write_first=checkpoint is not None)
    except SpavaError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    return options.json.save(report)


def parse(arguments: Sequence[str] | None) -> BenchOptions:
    on_gpu = torch.cuda.is_available()
    parser = argparse.ArgumentParser(prog="python -m spava_app.engine.bench", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    add = parser.add_argument
    add(
        "--case",
        action="append",
        default=[],
        metavar="'MODEL METHOD TOKENS [OPTION=VALUE ...]'",
        help="a geometry or folder, a method and a length such as 131072 or 128K; repeatable, "
        "neighbours with one model share its weights",
    )
    model = parser.add_mutually_exclusive_group()
    model.add_argument("--geometry", help=f"one case: of {', '.join(GEOMETRIES)}")
    model.add_argument("--model", metavar="FOLDER", help="one case: a checkpoint")
    add("--tokens", default="16K", help="of the one case (default: %(default)s)")
    add("--method", default="full", help="of the one case (default: %(default)s)")
    add("--option", action="append", default=[], metavar="NAME=VALUE", help="of its method")
    add(
        "--checkpoint",
        type=Path,
        metavar="DIR",
        help="write random checkpoints of the geometries there and load those; by default weights "
        "are made on the device",
    )
    add("--ranks", type=int, default=1, metavar="W", help="default: %(default)s")
    add("--device", choices=["cpu", "cuda"], default="cuda" if on_gpu else "cpu")
    add(
        "--dtype",
        choices=["bfloat16", "float16", "float32"],
        default="bfloat16" if on_gpu else "float32",
        help="default: %(default)s",
    )
    add("--new-tokens", type=int, default=8, metavar="N", help="default: %(default)s")
    add("--profile", type=int, default=0, metavar="N", help="also list the N longest kernels")
    add_json_option(parser)
    given = parser.parse_args(arguments)
    cases = list(given.case)
    if one := given.geometry or given.model:
        cases.append(" ".join([one, given.method, given.tokens, *given.option]))
    if not cases:
        parser.error("give --case, --geometry or --model")
    if given.ranks < 1 or given.new_tokens < 1:
        parser.error("--ranks and --new-tokens must be at least 1")
    dtype = getattr(torch, given.dtype)
    setup = RankSetup(given.ranks, given.device, dtype, given.new_tokens, given.profile)
    return BenchOptions(setup, tuple(cases), given.checkpoint, JsonFile(parser, given))


if __name__ == "__main__":
    guard_terminal()
    sys.exit(main())
