"""`spava demo`: a generated video, one question per card, and whether each answer is right."""

from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import typer

from spava_app.api.answer import Answer
from spava_app.api.video_qa import VideoQA
from spava_app.cli.terminal import Stages, format_moment, format_timings
from spava_app.engine.synthetic.cards import Card, random_scene, write_video

NUM_CARDS = 5
MODEL = "embedded"


@dataclass(frozen=True)
class CardResult:
    """The question about one card, and what came back."""

    card: Card
    answer: Answer

    @property
    def right(self) -> bool:
        """Whether the answer is the card's digit; a full stop after it is no fault."""
        return self.answer.text.strip().removesuffix(".") == self.card.answer

    def to_dict(self) -> dict[str, Any]:
        """For `--json`."""
        return {
            "card": asdict(self.card),
            "question": self.card.question,
            "expected": self.card.answer,
            "right": self.right,
            **self.answer.to_dict(),
        }


@dataclass(frozen=True)
class Report:
    """What the demo did: `results` has one entry per card, in order of time; `setup` is seconds
    spent before.
    """

    seed: int
    seconds: float
    ranks: int
    method: str
    setup: dict[str, float]
    results: tuple[CardResult, ...]

    @property
    def num_right(self) -> int:
        """How many answers are right."""
        return sum(result.right for result in self.results)

    def to_dict(self) -> dict[str, Any]:
        """For `--json`."""
        return {
            "seed": self.seed,
            "seconds": self.seconds,
            "ranks": self.ranks,
            "method": self.method,
            "setup": self.setup,
            "num_right": self.num_right,
            "results": [result.to_dict() for result in self.results],
        }


def run_demo(
    stages: Stages,
    *,
    seed: int,
    seconds: float,
    gpus: int | str,
    cpu_ranks: int | None,
    method: str,
) -> Report:
    """Generate a card video in a temporary folder and ask the embedded model about every card.

    Args:
        stages: told what runs now.
        seed: fixes the video.
        seconds: its length.
        gpus, cpu_ranks, method: as in `VideoQA`.

    Raises:
        SpavaError: an option is refused, or the engine fails.
    """
    scene = random_scene(seconds, NUM_CARDS, seed)
    results: list[CardResult] = []
    setup: dict[str, float] = {}
    with TemporaryDirectory(prefix="spava-demo-") as folder:
        video = Path(folder) / "cards.mp4"
        stages.begin("write video")
        write_video(scene, video)
        setup["write video"] = stages.end()
        stages.begin("start workers")
        with VideoQA(MODEL, gpus=gpus, cpu_ranks=cpu_ranks, method=method, cache=False) as qa:
            qa.start()
            setup["start workers"] = stages.end()
            for number, card in enumerate(scene.cards, start=1):
                name = f"question {number} of {NUM_CARDS}:"

                def begin(stage: str, _: float, name: str = name) -> None:
                    stages.begin(f"{name} {stage}")

                results.append(CardResult(card, qa.ask(video, card.question, on_event=begin)))
            stages.end()
    used = results[0].answer.plan.world_size
    return Report(seed, seconds, used, method, setup, tuple(results))


def print_report(report: Report) -> None:
    """The report for people: the plan once, then a line per question with its times, then the
    count.
    """
    length = format_moment(report.seconds)
    typer.echo(f"video: {length}, {len(report.results)} cards, seed {report.seed}")
    typer.echo(f"before the first question: {format_timings(report.setup)}")
    # The plans differ only in the length of the question.
    typer.echo(f"plan of the first question:\n{_indented(str(report.results[0].answer.plan))}")
    for result in report.results:
        mark = "right" if result.right else f"WRONG, it is {result.card.answer}"
        shown = format_moment(result.card.start)
        typer.echo(f"at {shown}: {result.card.question} {result.answer.text}  ({mark})")
        typer.echo(_indented(format_timings(result.answer.timings)))
    typer.echo(f"{report.num_right} of {len(report.results)} right")


def _indented(text: str) -> str:
    return "\n".join(f"    {line}" for line in text.splitlines())
