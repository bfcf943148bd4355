"""How fast frames become pixels: this package beside transformers' own path and other decoders.

    python -m spava_app.engine.bench.video --json video.json

Makes a video whose one minute is encoded and then copied, takes evenly spaced frames of it, and
brings them to the patches that Qwen2.5-VL reads. Every way is timed in the same run, one after the
other, and all of them again for as many rounds as asked; medians are told. Seconds of the stages of
one way may add up to more than its total, because decoding runs ahead of preprocessing.
"""

import argparse
import os
import platform
import statistics
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch

from spava_app.engine.bench.video_ways import (
    Seconds,
    Task,
    run_ours,
    run_ranks,
    run_transformers,
    run_transformers_decoding,
)
from spava_app.engine.synthetic.long_clip import repeat, write_minute
from spava_app.errors import SpavaError
from spava_app.output_file import JsonFile, add_json_option
from spava_app.terminal_text import guard_terminal

OURS, THEIRS = "spava, 1 rank", "transformers"


@dataclass(frozen=True)
class VideoRow:
    """One way on one video.

    Attributes:
        seconds: per stage and in total, the median of the rounds.
        totals: of each round.
        difference: of its pixels from ours, at most; None where they were not compared.
    """

    key_every: int
    way: str
    seconds: Seconds
    totals: list[float]
    difference: float | None


def main(arguments: Sequence[str] | None = None) -> int:
    """Run, print a table and write `--json`; 2 for options that cannot be used, else 0."""
    options = parse(arguments)
    try:
        report = measure(options)
    except SpavaError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    return options.json.save(report)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m spava_app.engine.bench.video",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_json_option(parser)
    parser.add_argument("--minutes", type=int, default=10, help="default: %(default)s")
    parser.add_argument("--height", type=int, default=1080, help="width follows, 16:9")
    parser.add_argument("--frames", type=int, default=64, help="default: %(default)s")
    parser.add_argument("--rounds", type=int, default=3, help="default: %(default)s")
    parser.add_argument(
        "--key-every", type=int, nargs="+", default=[250, 60], metavar="N", help="250 60"
    )
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="default: %(default)s")
    parser.add_argument(
        "--folder", type=Path, metavar="DIR", help="keep the videos there, and use them if there"
    )
    given = parser.parse_args(arguments)
    least = (given.minutes, given.frames, given.rounds, given.threads, *given.key_every)
    if min(least) < 1 or given.height < 64 or given.height % 36:
        parser.error("numbers must be positive, --height a multiple of 36")
    given.json = JsonFile(parser, given)
    return given


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """The whole report, as it goes into the JSON file; the table is printed as it comes."""
    torch.set_num_threads(options.threads)
    say(", ".join(f"{name} {value}" for name, value in versions().items() if value))
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        for key_every in options.key_every:
            folder = options.folder or Path(scratch)
            folder.mkdir(parents=True, exist_ok=True)
            path = video(options, folder, key_every)
            rows += measure_video(path, key_every, options)
    return {
        "versions": versions(),
        "video": {"minutes": options.minutes, "height": options.height, "frames": options.frames},
        "threads": options.threads,
        "rounds": options.rounds,
        "rows": [asdict(row) for row in rows],
    }


def video(options: argparse.Namespace, folder: Path, key_every: int) -> Path:
    name = f"{options.height}p-{options.minutes}min-key{key_every}.mp4"
    path, minute = folder / name, folder / f"minute-{name}"
    if not path.exists():
        say(f"making {path.name} ...")
        size = (options.height, options.height * 16 // 9)
        write_minute(minute, size=size, fps=30, key_every=key_every)
        repeat(minute, path, options.minutes)
    return path


def measure_video(path: Path, key_every: int, options: argparse.Namespace) -> list[VideoRow]:
    """Every way that can run here, in rounds."""
    task = Task(path, options.frames, options.threads)
    ways: dict[str, Callable[[], tuple[Seconds, np.ndarray | None]]] = {
        OURS: lambda: run_ours(task),
        "spava, 2 ranks": lambda: (run_ranks(task, 2), None),
        "decord": lambda: run_ours(task, "decord"),
        "torchcodec": lambda: run_ours(task, "torchcodec"),
        THEIRS: lambda: run_transformers(task),
    }
    if find_spec("torchvision") is None:
        say("no torchvision: transformers only decodes")
        ways[THEIRS] = lambda: (run_transformers_decoding(task), None)
    found: dict[str, list[Seconds]] = {}
    pixels: dict[str, np.ndarray] = {}
    for number in range(options.rounds):
        for way, run in list(ways.items()):
            try:
                seconds, out = run()
            except SpavaError as error:
                say(f"no {way}: {error}")
                del ways[way]
                continue
            found.setdefault(way, []).append(seconds)
            if out is not None and not number:
                pixels[way] = out
    rows = [make_row(key_every, way, rounds, pixels) for way, rounds in found.items()]
    print_rows(rows)
    return rows


def make_row(
    key_every: int, way: str, rounds: list[Seconds], pixels: dict[str, np.ndarray]
) -> VideoRow:
    medians = {
        stage: statistics.median(seconds[stage] for seconds in rounds) for stage in rounds[0]
    }
    difference = None
    if way in pixels and way != OURS:
        difference = float(np.abs(pixels[way] - pixels[OURS]).max())
    return VideoRow(key_every, way, medians, [seconds["total"] for seconds in rounds], difference)


def versions() -> dict[str, str | int | None]:
    found: dict[str, str | int | None] = {
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }
    for name in ("av", "transformers", "torchvision", "decord", "torchcodec"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    return found


def print_rows(rows: list[VideoRow]) -> None:
    [theirs] = [row for row in rows if row.way == THEIRS] or [None]
    say(f"\nkey frame every {rows[0].key_every}: seconds")
    say(f"{'':16}{'probe':>8}{'decode':>8}{'prep.':>8}{'total':>8}{'speed':>8}{'differ':>8}")
    for row in rows:
        stages = [row.seconds.get(s) for s in ("probe", "decode", "preprocess", "total")]
        cells = "".join(f"{s:8.2f}" if s is not None else f"{'-':>8}" for s in stages)
        speed = f"{theirs.seconds['total'] / row.seconds['total']:7.1f}x" if theirs else f"{'-':>8}"
        differ = f"{row.difference:8.2g}" if row.difference is not None else f"{'-':>8}"
        say(f"{row.way:16}{cells}{speed}{differ}")


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    guard_terminal()
    sys.exit(main())
