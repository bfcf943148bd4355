"""Plans: predicted seconds and bytes, the method that was chosen, and what memory refuses."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from spava_app.api.video_qa import VideoQA
from spava_app.engine.checkpoints.hub import EMBEDDED
from spava_app.engine.checkpoints.load import read_config
from spava_app.engine.models.geometries import GEOMETRIES
from spava_app.engine.multimodal.pixels.config import PixelConfig
from spava_app.engine.multimodal.processors import QwenProcessor, make_processor
from spava_app.engine.planning.method_choice import variants
from spava_app.engine.planning.plan import Plan
from spava_app.engine.planning.predictor import Predictor
from spava_app.engine.request import Request
from spava_app.engine.sampling import Sampling
from spava_app.errors import InvalidInput
from spava_app.requests.builder import Preparer
from spava_app.requests.media_input import Question, look
from spava_app.requests.prompt import PromptBuilder

STAGES = ["decode", "preprocess", "vision", "exchange", "prefill", "generate"]
PIXELS = PixelConfig(min_pixels=128 * 784, max_pixels=768 * 784)
GIB = 2**30


def preparer(
    method: str = "auto",
    *,
    available: int | None = None,
    options: dict[str, Any] | None = None,
    ranks: int = 2,
) -> Preparer:
    """A 7B model as published in front of the embedded one's tokenizer, planned for the CPU."""
    own = make_processor(EMBEDDED, read_config(EMBEDDED))
    assert isinstance(own, QwenProcessor)
    processor = QwenProcessor(PIXELS, PIXELS, own.placeholder_ids)
    predictor = Predictor.of(
        GEOMETRIES["Qwen2.5-VL-7B"],
        "Qwen2.5-VL-7B",
        device="cpu",
        world_size=ranks,
        dtype=torch.bfloat16,
    )
    if available is not None:
        predictor = replace(predictor, available=available)
    return Preparer(
        PromptBuilder(EMBEDDED, processor, read_config(EMBEDDED)),
        processor,
        128_000,
        variants(method, options or {}, ranks),
        predictor,
    )


def ask(prepare: Preparer, video: Path, **how: Any) -> tuple[Request, Plan]:
    given = {"num_frames": None, "fps": None, "history": (), "max_new_tokens": 64, **how}
    asked = Question(video, question="Which card is red?", sampling=Sampling(), **given)
    return prepare(asked, look(asked))


def needs(prepare: Preparer, plan: Plan) -> int:
    """Bytes that the fullest rank takes."""
    return max(plan.memory) + plan.margin


ROOMY = 200 * GIB


def test_a_plan_tells_seconds_memory_and_why(video: Path) -> None:
    prepare = preparer(available=ROOMY)
    request, plan = ask(prepare, video)
    assert list(plan.seconds) == STAGES
    assert min(plan.seconds.values()) > 0
    assert len(plan.memory) == 2
    weights = prepare.predictor.weights
    assert weights < min(plan.memory) < 1.5 * weights
    assert (plan.method, plan.options) == (request.method, request.options)
    assert (plan.available, plan.margin > 0) == (ROOMY, True)
    told = " ".join(str(plan).split())
    assert plan.why in told
    for stage, seconds in plan.seconds.items():
        shown = f"{seconds:.3f}" if seconds < 1 else f"{seconds:.1f}"
        upper = "up to " if stage == "generate" else ""  # an answer may end before its longest
        assert f"{stage} {upper}{shown} s" in told
    assert f"{max(plan.memory) / GIB:.2f} GiB" in told
    assert "200.00 GiB available" in told
    total = sum(plan.seconds.values())
    assert f"time up to {total:.1f} s, plus starting the workers, predicted with" in told
    assert "with defaults for a CPU" in told
    assert json.loads(json.dumps(plan.to_dict()))["seconds"] == plan.seconds


def test_more_work_is_predicted_to_take_more(video: Path) -> None:
    prepare = preparer("spava", available=ROOMY)
    few, many = (ask(prepare, video, num_frames=count)[1] for count in (20, 80))
    assert all(few.seconds[stage] <= many.seconds[stage] for stage in STAGES)
    assert few.seconds["prefill"] < many.seconds["prefill"] / 3
    assert max(few.memory) < max(many.memory)
    short, long = (ask(prepare, video, max_new_tokens=count)[1] for count in (1, 101))
    assert short.seconds["generate"] == 0
    assert long.seconds["generate"] > 0


def test_auto_and_its_options(video: Path) -> None:
    request, plan = ask(preparer(available=ROOMY), video, num_frames=4)
    assert "exact" in plan.why
    dialled, plan = ask(
        preparer(available=ROOMY, options={"passing_fraction": 0.25}), video, num_frames=4
    )
    assert (dialled.method, dialled.options["passing_fraction"]) == ("spava", 0.25)
    assert "passing_fraction" not in request.options


def test_frames_are_lowered_until_they_fit_into_memory(video: Path) -> None:
    full = ask(preparer(available=ROOMY), video)[1]
    weights = preparer().predictor.weights
    # Half of what this takes beside the weights and the process.
    middle = weights + full.margin + (max(full.memory) - weights) // 2
    tight = preparer(available=middle)
    request, plan = ask(tight, video)
    assert plan.media[0].lowered != ()
    assert "lowered to fit" in str(plan)
    assert plan.num_tokens < full.num_tokens
    assert len(request.media[0].frames) == plan.media[0].num_frames
    assert needs(tight, plan) <= middle
    # It is nearly filled.
    assert needs(tight, plan) > weights + full.margin + 0.8 * (middle - weights - full.margin)


def test_frames_that_were_asked_for_are_refused_with_the_most_that_fits(video: Path) -> None:
    full = ask(preparer(available=ROOMY), video, num_frames=100)[1]
    weights = preparer().predictor.weights
    middle = weights + full.margin + (max(full.memory) - weights) // 2
    tight = preparer(available=middle)
    # Frames shrink first; at the smallest size a hundred may still fit, six hundred do not.
    with pytest.raises(InvalidInput, match="GiB of memory that each rank may take") as error:
        ask(tight, video, num_frames=600)
    assert (error.value.field, error.value.value) == ("num_frames", 600)
    most = int(error.value.fix.split(" is ")[1].split(":")[0])
    _, plan = ask(tight, video, num_frames=most)
    assert needs(tight, plan) <= middle
    assert plan.media[0].num_frames == most
    with pytest.raises(InvalidInput, match=f"is {most}:"):
        ask(tight, video, num_frames=most + 2)
    with pytest.raises(InvalidInput, match="each rank may take is") as error:
        ask(tight, video, fps=10.0)
    assert error.value.field == "fps"


def test_weights_that_do_not_fit_are_told(video: Path) -> None:
    small = preparer(available=8 * GIB)
    for how in ({}, {"num_frames": 8}, {"max_visual_tokens": 1000}):
        with pytest.raises(InvalidInput, match=r"weights take 15\.4\d GiB on each rank") as error:
            ask(small, video, **how)
        assert (error.value.field, error.value.value) == ("model", "Qwen2.5-VL-7B")
        assert "8.00 GiB" in str(error.value)


def test_planning_is_fast_where_memory_is_short(video: Path) -> None:
    """Bisection builds no model and no prompt: a bound on work, not on time."""
    prepare = preparer(available=ROOMY)
    predictor = prepare.predictor
    asked: list[int] = []
    choose = type(predictor).choose

    class Counting(Predictor):
        def choose(self, variants: Any, shape: Any, *rest: Any) -> Any:
            asked.append(shape.num_tokens)
            return choose(self, variants, shape, *rest)

    fields = {name: getattr(predictor, name) for name in Predictor.__dataclass_fields__}
    weights = predictor.weights
    counting = Counting(**{**fields, "available": weights + 2 * GIB})
    ask(replace(prepare, predictor=counting), video)
    assert len(asked) < 30


def test_an_answer_tells_its_peak(video: Path) -> None:
    """Real workers: what they took lies between what their tensors and what a process takes."""
    large = bytearray(b"x") * GIB  # of the driver alone: no matter of the workers
    with VideoQA(cache=False) as qa:
        answer = qa.ask(video, "Which card is red?", num_frames=16, max_new_tokens=2)
    plan = answer.plan
    assert "exact" in plan.why or "virtual hosts" in plan.why  # by default it is chosen
    assert set(plan.seconds) <= set(answer.timings)
    assert len(answer.memory) == len(plan.memory) == 2
    for predicted, measured in zip(plan.memory, answer.memory, strict=True):
        assert predicted < measured < predicted + plan.margin
    assert answer.to_dict()["memory"] == list(answer.memory)
    assert len(large) == GIB


def test_only_a_question_reads_whole_files(video: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Read(Exception):
        pass

    def read(path: str) -> None:
        raise Read

    monkeypatch.setattr("spava_app.engine.multimodal.fingerprint.file_content", read)
    with VideoQA(cpu_ranks=1) as qa:
        assert qa.plan(video, "What happens?", num_frames=8).num_tokens
        with pytest.raises(Read):
            qa.ask(video, "What happens?", num_frames=8)
