"""Train the embedded model on card videos:
`python -m spava_app.engine.training.cards.train --minutes 8 --out DIR`.

One GPU, a fixed wall-clock budget, data drawn as it is needed. Leaves DIR/model.safetensors (every
two minutes and at the end) and DIR/training.json; the other files of the model's folder come from
`assets`.
"""

import argparse
import json
import logging
import os
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from random import Random
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import AutoTokenizer

from spava_app.engine.checkpoints.hub import EMBEDDED
from spava_app.engine.checkpoints.load import save_checkpoint
from spava_app.engine.models.qwen2_5_vl import Qwen25VL
from spava_app.engine.training.cards.assets import model_config
from spava_app.engine.training.cards.clips import ClipSizes, ClipSource
from spava_app.engine.training.cards.curriculum import Curriculum, learning_rate
from spava_app.engine.training.cards.packing import QuestionTable
from spava_app.engine.training.cards.task import CardHeads, Outcome, run_batch
from spava_app.output_file import EXISTS
from spava_app.terminal_text import guard_terminal

logger = logging.getLogger(__name__)

# cuDNN's attention builds a plan for every new shape, which here is every step.
BACKENDS = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]


@dataclass(frozen=True)
class TrainingOptions:
    """Everything that decides a run."""

    minutes: float
    out: Path
    seed: int = 0
    device: str = "cuda"
    units_per_step: int = 4096
    max_clips: int = 128
    min_clips: int = 8
    max_units: int = 640
    questions: int = 8
    peak_rate: float = 6e-4
    weight_decay: float = 0.01
    checkpoint_seconds: float = 120.0
    log_seconds: float = 10.0
    test_units: tuple[int, ...] = (64, 150, 300, 600, 1200)
    test_clips: int = 64


class Meter:
    """Means per clip length since the last report; nothing leaves the device before it is asked
    for.
    """

    def __init__(self) -> None:
        self.outcomes: dict[int, list[Outcome]] = defaultdict(list)

    def add(self, units: int, outcome: Outcome) -> None:
        """Note a step's outcome, without the graph that made it."""
        self.outcomes[units].append(replace(outcome, loss=outcome.loss.detach()))

    def report(self) -> str:
        """One line, and a fresh start."""
        parts = []
        for units, outcomes in sorted(self.outcomes.items()):
            loss, seen, lookup, answer = (
                torch.stack([getattr(outcome, name) for outcome in outcomes]).mean().item()
                for name in ("loss", "seen_loss", "lookup_accuracy", "answer_accuracy")
            )
            parts.append(
                f"{units}u: loss {loss:.2f} seen {seen:.2f} lookup {lookup:.0%} answer {answer:.0%}"
            )
        self.outcomes.clear()
        return " | ".join(parts)


def new_model(config: Mapping[str, Any], seed: int, device: torch.device | str) -> Qwen25VL:
    """A model with random weights: norms 1, biases 0, the rest normal.

    The decoder's deviation is 0.02. The tower's is 1 / sqrt(inputs): it is narrow and shallow, and
    at 0.02 its output is too faint to learn digits from for hundreds of steps.
    """
    generator = torch.Generator().manual_seed(seed)
    model = Qwen25VL(config)
    tower = set(model.vision.modules())
    for module in model.modules():
        if isinstance(module, (nn.Linear, nn.Embedding)):
            deviation = module.weight.shape[1] ** -0.5 if module in tower else 0.02
            nn.init.normal_(module.weight, std=deviation, generator=generator)
        if isinstance(module, nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)
    return model.to(device)


def train(
    options: TrainingOptions,
    config: Mapping[str, Any] | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> Qwen25VL:
    """Train within `options.minutes`, evaluate, and write the files.

    Args:
        options: of the run.
        config: config.json of another model; the embedded one's by default.
        clock: seconds, for tests.
    """
    started = clock()
    config = config or model_config()
    model = new_model(config, options.seed, options.device).train()
    heads = CardHeads(model.decoder.config.hidden_size).to(options.device)
    table = QuestionTable.build(
        AutoTokenizer.from_pretrained(EMBEDDED, trust_remote_code=False), options.device
    )
    source, random = ClipSource(options.seed, options.device), Random(options.seed)
    curriculum = Curriculum(random, options.max_units)
    parameters = [*model.parameters(), *heads.parameters()]
    optimizer = torch.optim.AdamW(
        parameters,
        options.peak_rate,
        betas=(0.9, 0.95),
        weight_decay=options.weight_decay,
        fused=options.device != "cpu",
    )
    budget = options.minutes * 60
    meter, lookup, step = Meter(), 0.0, 0
    logged = saved = started
    while (elapsed := clock() - started) < budget:
        fraction = elapsed / budget
        task = curriculum.next(fraction, lookup)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(fraction, options.peak_rate)
        outcome = run_batch(
            model,
            heads,
            table,
            source,
            batch_sizes(options, task.units),
            questions=options.questions,
            answer=task.answer,
            blocks=random if task.blocks else None,
        )
        outcome.loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        step += 1
        meter.add(task.units, outcome)
        if curriculum.growth_start is None:
            lookup += 0.1 * (outcome.lookup_accuracy.item() - lookup)
        if clock() - logged >= options.log_seconds:
            logged = clock()
            logger.info("%.0f s step %d | %s", elapsed, step, meter.report())
        if clock() - saved >= options.checkpoint_seconds:
            saved = clock()
            save(model, options.out)
    save(model, options.out)
    logger.info("trained %d steps; weights are in %s", step, options.out)
    table_of_results = evaluate(model, heads, table, options)
    record = {
        "options": asdict(options) | {"out": options.out.name},
        "steps": step,
        "second_stage_from": curriculum.growth_start,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "torch": torch.__version__,
        "device": torch.cuda.get_device_name() if options.device != "cpu" else "cpu",
        "answer_accuracy": table_of_results,
    }
    (options.out / "training.json").write_text(json.dumps(record, indent=2) + "\n", "utf-8")
    return model


def batch_sizes(options: TrainingOptions, units: int) -> ClipSizes:
    """As many clips as fit the step, within bounds."""
    clips = options.units_per_step // units
    return ClipSizes(min(max(clips, options.min_clips), options.max_clips), units)


def save(model: Qwen25VL, folder: Path) -> None:
    """Write the weights so that a run cut at any moment leaves a whole file."""
    partial = folder / "partial"
    save_checkpoint(model, partial)
    os.replace(partial / "model.safetensors", folder / "model.safetensors")
    partial.rmdir()


# How a test samples its video, and whether its context is prefilled approximately.
CONDITIONS: dict[str, tuple[float, bool]] = {
    "2 fps exact": (1.0, False),
    "2 fps blocks": (1.0, True),
    "1 fps exact": (2.0, False),
    "1 fps blocks": (2.0, True),
}


@torch.no_grad()
def evaluate(
    model: Qwen25VL, heads: CardHeads, table: QuestionTable, options: TrainingOptions
) -> dict[str, dict[str, float]]:
    """Answer accuracy per clip length and condition, on clips of eight cards never seen before."""
    results: dict[str, dict[str, float]] = {}
    model.eval()
    for units in options.test_units:
        row = {}
        for name, (seconds_per_unit, blocks) in CONDITIONS.items():
            source, random = ClipSource(options.seed + 1, options.device), Random(options.seed)
            clips = max(1, min(options.test_clips, options.units_per_step // units))
            sizes = ClipSizes(
                clips, units, 8, 8, (seconds_per_unit, seconds_per_unit), brief_share=0.0
            )
            accuracies: list[Tensor] = [
                run_batch(
                    model,
                    heads,
                    table,
                    source,
                    sizes,
                    questions=8,
                    answer=True,
                    blocks=random if blocks else None,
                ).answer_accuracy
                for _ in range(-(-options.test_clips // clips))
            ]
            row[name] = round(torch.stack(accuracies).mean().item(), 4)
        results[str(units)] = row
        cells = ", ".join(f"{name} {accuracy:.1%}" for name, accuracy in row.items())
        logger.info("%5d units: %s", units, cells)
    return results


def main(arguments: list[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--minutes", type=float, required=True, help="wall-clock budget of the training"
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for the weights")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--units-per-step", type=int, default=4096)
    parser.add_argument("--max-units", type=int, default=640)
    parser.add_argument("--force", action="store_true", help="overwrite weights that are there")
    given = vars(parser.parse_args(arguments))
    if (weights := given["out"] / "model.safetensors").exists() and not given["force"]:
        parser.error(f"{weights} {EXISTS}")
    options = TrainingOptions(**{name: value for name, value in given.items() if name != "force"})
    logging.basicConfig(level=logging.INFO, stream=sys.stdout, format="%(message)s")
    torch.set_float32_matmul_precision("high")
    options.out.mkdir(parents=True, exist_ok=True)
    with sdpa_kernel(BACKENDS):
        train(options)


if __name__ == "__main__":
    guard_terminal()
    main()
