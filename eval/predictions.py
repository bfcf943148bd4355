"""How well plans predict: real requests, and what each stage and rank took beside what was planned.

    python -m spava_app.eval.predictions --model Qwen2.5-VL-7B --ranks 1 2 --json predictions.json

Writes a video and, for a published geometry, a checkpoint with random weights. For every number of
ranks, method and number of frames a `VideoQA` answers the same question once, so that kernels are
built, and then a few times more; the median of those counts, and nothing is kept between them.
Ratios are predicted over measured. Seconds of "generate" are those of as many tokens as came;
memory is that of tensors on GPUs, and of processes on a CPU.
"""

import argparse
import json
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import torch

from spava_app.api.answer import Answer
from spava_app.api.video_qa import VideoQA
from spava_app.engine.bench.group import versions
from spava_app.engine.bench.report import say
from spava_app.engine.checkpoints.hub import EMBEDDED
from spava_app.engine.checkpoints.random import write_random_checkpoint
from spava_app.engine.models.geometries import GEOMETRIES
from spava_app.engine.sampling import GREEDY
from spava_app.engine.synthetic.long_clip import repeat, write_minute
from spava_app.errors import SpavaError
from spava_app.output_file import JsonFile, add_json_option
from spava_app.terminal_text import guard_terminal

QUESTION = "What happens in the video?"
GIB = 2**30
# Where published models of the Qwen2.5-VL family let frames lie, in pixels.
_PIXELS = {"shortest_edge": 128 * 784, "longest_edge": 768 * 784}
# The embedded model's tokenizer stands in for the published one, with these ids.
_TOKENS = ("image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run, print a table per request and write `--json`; 2 or 1 for an error."""
    options = _parse(arguments)
    on_gpu = options.device == "cuda"
    found = versions(options.device)
    say(", ".join(f"{name} {value}" for name, value in found.items() if value))
    with tempfile.TemporaryDirectory(prefix="spava-predictions-") as folder:
        try:
            video = _video(Path(folder), options)
            model = options.model
            if model in GEOMETRIES:
                model = options.checkpoint or Path(folder) / "checkpoint"
                if not (model / "config.json").exists():
                    write_checkpoint(options.model, model, "cuda" if on_gpu else "cpu")
            rows: list[dict[str, Any]] = []
            for row in _rows(str(model), video, options):
                rows.append(row)
                # Each time: what comes may be cut short.
                if code := options.json.save(_report(found, options, rows)):
                    return code
        except SpavaError as error:
            sys.stderr.write(f"{error}\n")
            return error.exit_code
    return 0


def _report(
    found: dict[str, Any], options: argparse.Namespace, rows: Sequence[dict[str, Any]]
) -> dict[str, Any]:
    settings = {name: it for name, it in vars(options).items() if name not in {"json", "force"}}
    settings["checkpoint"] = str(settings["checkpoint"] or "")
    return {"versions": found, **settings, "rows": rows}


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    on_gpu = torch.cuda.is_available()
    parser = argparse.ArgumentParser(prog="python -m spava_app.eval.predictions")
    parser.description = __doc__
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    add = parser.add_argument
    add("--model", default="embedded", help="embedded, a folder, or " + ", ".join(GEOMETRIES))
    add("--checkpoint", type=Path, metavar="DIR", help="keep a geometry's random weights there")
    add("--ranks", type=int, nargs="+", default=[1, 2], help="default: %(default)s")
    add("--methods", nargs="+", default=["auto", "full", "spava"], help="default: %(default)s")
    add("--frames", type=int, nargs="+", default=[64, 256], help="default: %(default)s")
    add("--new-tokens", type=int, default=8, help="default: %(default)s")
    add("--repeats", type=int, default=5, help="that count; default: %(default)s")
    add("--minutes", type=int, default=10, help="of video; default: %(default)s")
    add("--height", type=int, default=360, help="of its frames, 16:9; default: %(default)s")
    add("--rate", type=int, default=30, help="of its frames; default: %(default)s")
    add("--device", choices=["cpu", "cuda"], default="cuda" if on_gpu else "cpu")
    add_json_option(parser)
    options = parser.parse_args(arguments)
    options.json = JsonFile(parser, options)
    numbers = (*options.ranks, *options.frames, options.minutes, options.rate, options.new_tokens)
    numbers += (options.repeats,)
    if min(numbers) < 1 or options.height < 64 or options.height % 2:
        parser.error("numbers must be positive, and --height even and at least 64")
    return options


def _video(folder: Path, options: argparse.Namespace) -> Path:
    """A video of so many minutes: one encoded minute, copied."""
    size = (options.height, options.height * 16 // 9 // 2 * 2)
    write_minute(folder / "minute.mp4", size=size, fps=options.rate, key_every=250)
    repeat(folder / "minute.mp4", folder / "long.mp4", options.minutes)
    return folder / "long.mp4"


def write_checkpoint(geometry: str, folder: Path, device: str) -> None:
    """A Qwen2.5-VL geometry with random weights, and what it takes to ask it."""
    own = json.loads((EMBEDDED / "config.json").read_text())
    config = {**GEOMETRIES[geometry], **{name: own[name] for name in _TOKENS}}
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    write_random_checkpoint(config, folder, dtype=dtype, device=device)
    for file in EMBEDDED.glob("*.json"):
        if file.name != "config.json":
            shutil.copy(file, folder)
    shutil.copy(EMBEDDED / "chat_template.jinja", folder)
    for name in ("preprocessor_config.json", "video_preprocessor_config.json"):
        settings = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps({**settings, "size": _PIXELS}))


def _rows(model: str, video: Path, options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    for ranks in options.ranks:
        for method in options.methods:
            where = {"gpus": ranks} if options.device == "cuda" else {"gpus": 0, "cpu_ranks": ranks}
            with VideoQA(model, **where, method=method, cache=False) as qa:
                for frames in options.frames:
                    given = {
                        "num_frames": frames,
                        "max_new_tokens": options.new_tokens,
                        "sampling": GREEDY,
                    }
                    first = qa.ask(video, QUESTION, **given)
                    answers = [qa.ask(video, QUESTION, **given) for _ in range(options.repeats)]
                    row = compare(answers, options.new_tokens)
                    row |= {"asked": method, "frames": frames, "first": first.timings}
                    _tell(row)
                    yield row


def compare(answers: Sequence[Answer], new_tokens: int) -> dict[str, Any]:
    """What was planned for a question beside what its answers took: seconds per stage, the median
    and all of them; bytes per rank.
    """
    answer, plan = answers[-1], answers[-1].plan
    predicted = dict(plan.seconds)
    if new_tokens > 1:
        steps = min(answer.usage.answer_tokens, new_tokens - 1)
        predicted["generate"] *= steps / (new_tokens - 1)
    margin = plan.margin if plan.device == "cpu" else 0
    return {
        "plan": plan.to_dict(),
        "seconds": {
            stage: {"predicted": seconds, **_measured(answers, stage)}
            for stage, seconds in predicted.items()
        },
        "memory": [
            {"predicted": planned + margin, "measured": measured}
            for planned, measured in zip(plan.memory, answer.memory, strict=True)
        ],
        "answer_tokens": answer.usage.answer_tokens,
        "total": _measured(answers, "total"),
    }


def _measured(answers: Sequence[Answer], stage: str) -> dict[str, Any]:
    all_of_them = [answer.timings.get(stage, 0.0) for answer in answers]
    return {"measured": median(all_of_them), "all": all_of_them}


def _tell(row: dict[str, Any]) -> None:
    plan = row["plan"]
    say(f"\n{plan['world_size']} x {plan['device']}, {row['asked']}: ", end="")
    say(f"{plan['method']} {plan['options'] or ''} {plan['num_tokens']} tokens; {plan['why']}")
    say(f"    {'':12} {'predicted':>10} {'measured':>10} {'ratio':>6}")
    for stage, pair in row["seconds"].items():
        say(f"    {stage:12} {pair['predicted']:>8.3f} s {pair['measured']:>8.3f} s {_ratio(pair)}")
    for rank, pair in enumerate(row["memory"]):
        predicted, measured = (pair[name] / GIB for name in ("predicted", "measured"))
        say(f"    {f'rank {rank}':12} {predicted:>6.2f} GiB {measured:>6.2f} GiB {_ratio(pair)}")


def _ratio(pair: dict[str, float]) -> str:
    return f"{pair['predicted'] / pair['measured']:>6.2f}" if pair["measured"] else f"{'-':>6}"


if __name__ == "__main__":
    guard_terminal()
    sys.exit(main())
