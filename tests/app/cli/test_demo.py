"""The demo as it runs: a generated video, one real question per card, right answers."""

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from spava_app.api.video_qa import VideoQA
from spava_app.cli import demo
from spava_app.cli import main as cli
from spava_app.cli.demo import Report, print_report, run_demo
from spava_app.cli.terminal import Stages
from spava_app.engine.synthetic.cards import random_scene, write_video
from spava_app.engine.video.probe import probe
from spava_app.engine.video.sample import sample_times

COMMAND = [
    "demo",
    "--seconds",
    "40",
    "--seed",
    "3",
    "--cpu-ranks",
    "2",
    "--gpus",
    "0",
    "--json",
]


@pytest.fixture(scope="module")
def ran() -> tuple[Report, Result]:
    """The demo on 40 seconds, run once by its command: its report, and what the command printed."""
    reports: list[Report] = []

    def run_and_keep(stages: Stages, **options: Any) -> Report:
        reports.append(run_demo(stages, **options))
        return reports[0]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(demo, "run_demo", run_and_keep)
        done = CliRunner().invoke(cli.app, COMMAND)
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return reports[0], done


@pytest.fixture
def report(ran: tuple[Report, Result]) -> Report:
    """What the demo did."""
    return ran[0]


def one_wrong(report: Report) -> Report:
    """The same with another digit on the second card, so that its answer is wrong."""
    first, second, *rest = report.results
    digit = (second.card.digit + 1) % 10
    return replace(
        report, results=(first, replace(second, card=replace(second.card, digit=digit)), *rest)
    )


def test_every_answer_is_right(report: Report) -> None:
    assert [result.right for result in report.results] == [True] * 5
    assert [result.card for result in report.results] == list(random_scene(40, 5, 3).cards)
    plan = report.results[0].answer.plan
    assert (plan.method, plan.world_size, plan.media[0].num_frames) == ("spava", 2, 80)
    assert set(report.setup) == {"write video", "start workers"}
    assert min(report.setup.values()) > 0
    # The workers were up before the first question.
    start = report.setup["start workers"]
    assert all(result.answer.timings["start"] < start for result in report.results)
    assert not os.path.exists(plan.media[0].path)


def test_only_the_digit_is_right(report: Report) -> None:
    result = report.results[0]
    for text, right in (
        (result.card.answer, True),
        (f" {result.card.answer}.\n", True),
        (f"{result.card.answer}{result.card.answer}", False),
        (f"The digit is {result.card.answer}", False),
        ("", False),
        (".", False),
    ):
        assert replace(result, answer=replace(result.answer, text=text)).right is right, text


def test_report_for_people(report: Report, capsys: pytest.CaptureFixture[str]) -> None:
    print_report(report)
    out, err = capsys.readouterr()
    assert err == ""
    assert out.startswith("video: 0:40, 5 cards, seed 3\n")
    assert out.endswith("5 of 5 right\n")
    assert out.count("(right)") == 5
    assert all(f"{r.card.question} {r.card.answer}  " in out for r in report.results)
    assert str(report.results[0].answer.plan.num_tokens) in out


def test_wrong_answers_are_told(report: Report, capsys: pytest.CaptureFixture[str]) -> None:
    wrong = one_wrong(report)
    print_report(wrong)
    out = capsys.readouterr().out
    assert f"WRONG, it is {wrong.results[1].card.answer}" in out
    assert out.endswith("4 of 5 right\n")


def test_exit_code_1_when_an_answer_is_wrong(
    report: Report, monkeypatch: pytest.MonkeyPatch
) -> None:
    # No real run is wrong for sure, so the command is given the real report with one card changed.
    monkeypatch.setattr(demo, "run_demo", lambda *_, **__: one_wrong(report))
    done = CliRunner().invoke(cli.app, ["demo", "--json"])
    assert done.exit_code == 1
    described = json.loads(done.stdout)
    assert described["num_right"] == 4
    assert [result["right"] for result in described["results"]] == [True, False, True, True, True]


def test_command_prints_the_report_and_exits_0(ran: tuple[Report, Result]) -> None:
    report, done = ran
    assert (done.exit_code, done.stderr) == (0, "")
    described = json.loads(done.stdout)
    assert (described["seed"], described["seconds"], described["num_right"]) == (3, 40.0, 5)
    for result, row in zip(report.results, described["results"], strict=True):
        assert (row["question"], row["text"]) == (result.card.question, result.card.answer)
        assert row["right"] is True
        assert row["plan"]["world_size"] == 2


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--seconds", "5"], "seconds=5.0"),
        (["--seconds", "nan"], "seconds=nan"),
        (["--seed", "-1"], "seed=-1"),
        (["--seconds", "20", "--cpu-ranks", "0"], "cpu_ranks=0"),
        (["--seconds", "20", "--method", "guess"], "method='guess'"),
    ],
)
def test_wrong_options_are_one_line_and_code_2(words: list[str], says: str) -> None:
    done = CliRunner().invoke(cli.app, ["demo", *words])
    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr.startswith(f"error: {says}")
    assert done.stderr.count("\n") == 1


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_as_shipped_every_answer_is_right(seed: int) -> None:
    with Stages() as stages:
        done = run_demo(stages, seed=seed, seconds=300, gpus="auto", cpu_ranks=2, method="spava")
    assert [r.answer.text for r in done.results] == [r.card.answer for r in done.results]


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_an_hour_at_one_frame_in_four_seconds(tmp_path: Path) -> None:
    scene = random_scene(3600, 8, seed=0)
    video = tmp_path / "hour.mp4"
    write_video(scene, video)
    times = sample_times(probe(video), fps=0.25).times
    # A card shows for 3 seconds or more, so it may fall between two frames; of these none does.
    assert all(any(card.start <= t < card.end for t in times) for card in scene.cards)
    with VideoQA(cpu_ranks=2, method="spava") as qa:
        texts = [qa.ask(video, card.question, fps=0.25).text for card in scene.cards]
    assert texts == [card.answer for card in scene.cards]
