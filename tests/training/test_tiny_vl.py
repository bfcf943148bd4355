"""The trainer runs through all its stages, writes what the product can load, and learns."""

import json
from random import Random

import pytest
import torch

from spava_app.engine.checkpoints.hub import EMBEDDED
from spava_app.engine.checkpoints.load import load_model
from spava_app.engine.training.cards.assets import model_config
from spava_app.engine.training.cards.clips import ClipSizes, ClipSource
from spava_app.engine.training.cards.curriculum import MEDIUM, SHORT, Curriculum, learning_rate
from spava_app.engine.training.cards.packing import QuestionTable
from spava_app.engine.training.cards.task import CardHeads, run_batch
from spava_app.engine.training.cards.train import TrainingOptions, batch_sizes, new_model, train


class Clock:
    """Advances by a fixed time at every look, so that a few steps pass through the whole
    schedule.
    """

    def __init__(self, tick: float) -> None:
        self.now, self.tick = 0.0, tick

    def __call__(self) -> float:
        self.now += self.tick
        return self.now


def small_config() -> dict:
    config = model_config()
    config["text_config"] |= {"num_hidden_layers": 2, "intermediate_size": 128}
    return config


def test_a_run_passes_all_stages_and_leaves_a_loadable_checkpoint(tmp_path):
    options = TrainingOptions(
        minutes=1,
        out=tmp_path,
        device="cpu",
        units_per_step=24,
        min_clips=1,
        max_units=24,
        questions=2,
        checkpoint_seconds=20,
        log_seconds=10,
        test_units=(12, 16),
        test_clips=3,
    )
    trained = train(options, small_config(), Clock(1.2))
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "model.safetensors",
        "training.json",
    ]
    record = json.loads((tmp_path / "training.json").read_text())
    assert record["steps"] > 6
    assert record["second_stage_from"] is not None
    assert set(record["answer_accuracy"]) == {"12", "16"}
    (tmp_path / "config.json").write_text(json.dumps(small_config()))
    loaded = load_model(tmp_path)
    for name, parameter in trained.named_parameters():
        expected = parameter.detach().to(torch.bfloat16).float()
        torch.testing.assert_close(loaded.get_parameter(name), expected, rtol=0, atol=0)


@pytest.mark.parametrize("blocks", [None, Random(0)], ids=["exact", "blocks"])
def test_training_on_one_batch_lowers_its_loss(blocks):
    from transformers import AutoTokenizer

    model = new_model(small_config(), 0, "cpu").train()
    heads = CardHeads(256)
    table = QuestionTable.build(AutoTokenizer.from_pretrained(EMBEDDED), "cpu")
    optimizer = torch.optim.AdamW([*model.parameters(), *heads.parameters()], 1e-3)
    losses = []
    for _ in range(12):
        outcome = run_batch(
            model,
            heads,
            table,
            ClipSource(1, "cpu"),
            ClipSizes(1, 12, 3, 3),
            questions=3,
            answer=True,
            blocks=blocks,
        )
        outcome.loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(outcome.loss.item())
    assert losses[-1] < 0.6 * losses[0]


def test_curriculum_goes_from_lookup_to_long_clips():
    curriculum = Curriculum(Random(0))
    early = [curriculum.next(i / 1000, 0.5) for i in range(300)]
    assert all(not step.answer and not step.blocks and step.units in SHORT for step in early)
    assert all(curriculum.next(0.30 + i / 10000, 0.5).answer for i in range(10))
    middle = [curriculum.next(0.595, 1.0) for _ in range(300)]
    assert {step.units for step in middle} == set(MEDIUM)
    assert {step.blocks for step in middle} == {True, False}
    late = [curriculum.next(0.8, 1.0).units for _ in range(400)]
    assert 0.25 < sum(units >= 512 for units in late) / 400 < 0.55


def test_curriculum_moves_on_as_soon_as_lookup_works():
    curriculum = Curriculum(Random(0))
    assert not curriculum.next(0.05, 1.0).answer
    assert curriculum.next(0.07, 0.98).answer
    assert curriculum.next(0.08, 0.1).answer, "there is no way back"


def test_learning_rate_warms_up_and_decays():
    rates = [learning_rate(i / 100, 1.0) for i in range(101)]
    assert rates[0] < 0.1
    assert max(rates) == pytest.approx(1.0, abs=0.01)
    assert rates[2:] == sorted(rates[2:], reverse=True)
    assert rates[-1] == pytest.approx(0.01)


def test_batches_shrink_as_clips_grow(tmp_path):
    options = TrainingOptions(minutes=1, out=tmp_path)
    assert [batch_sizes(options, units).clips for units in (12, 64, 320, 640)] == [128, 64, 12, 8]
