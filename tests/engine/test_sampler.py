"""Sampling: transformers' distribution, its own seeded draws, and typed refusals."""

import math
from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers import (
    LogitsProcessorList,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from spava_app.engine.sampler import Sampler
from spava_app.engine.sampling import GREEDY, Sampling
from spava_app.errors import EngineError, InvalidInput

VOCAB = 200


def random_logits(seed: int, vocab: int = VOCAB) -> Tensor:
    return torch.randn(vocab, generator=torch.Generator().manual_seed(seed)) * 3


def transformers_probabilities(logits: Tensor, sampling: Sampling, ids: list[int]) -> Tensor:
    """What transformers' `generate` would draw from, in float64."""
    processors = LogitsProcessorList()
    sampling = sampling.over(GREEDY)
    assert sampling.repetition_penalty is not None
    assert sampling.temperature is not None
    assert sampling.top_p is not None
    if sampling.repetition_penalty != 1:
        processors.append(RepetitionPenaltyLogitsProcessor(float(sampling.repetition_penalty)))
    processors.append(TemperatureLogitsWarper(float(sampling.temperature)))
    if sampling.top_k:
        processors.append(TopKLogitsWarper(sampling.top_k))
    if sampling.top_p < 1:
        processors.append(TopPLogitsWarper(sampling.top_p))
    # Ids beyond the logits are left out: not every version of transformers passes over them.
    known = torch.tensor([[number for number in ids if number < VOCAB]], dtype=torch.long)
    scores: Any = processors(known, logits.double()[None])  # pyright: ignore
    return scores[0].softmax(0)


def draw(sampling: Sampling, logits: Tensor, count: int) -> list[int]:
    sampler = Sampler(sampling, [])
    return [sampler(logits) for _ in range(count)]


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    temperature=st.floats(0.05, 5),
    top_p=st.one_of(st.just(1.0), st.floats(0.01, 0.999)),
    top_k=st.integers(0, VOCAB + 20),
    penalty=st.one_of(st.just(1.0), st.floats(0.5, 2)),
    ids=st.lists(st.integers(0, VOCAB + 5), min_size=1, max_size=20),
)
def test_the_distribution_is_that_of_transformers(
    seed: int, temperature: float, top_p: float, top_k: int, penalty: float, ids: list[int]
) -> None:
    sampling = Sampling(temperature, top_p, top_k, penalty)
    logits = random_logits(seed)
    expected = transformers_probabilities(logits, sampling, ids)
    sampler = Sampler(sampling, ids[:1])
    for token in ids[1:]:
        sampler.accept(token)
    actual = sampler.probabilities(logits)
    # Where probabilities underflow a removed and a kept token look alike.
    assert torch.equal(actual > 1e-300, expected > 1e-300)
    assert torch.allclose(actual, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("top_p", "kept"), [(0.5, [0]), (0.50001, [0, 1]), (0.75, [0, 1]), (0.8, [0, 1, 2])]
)
def test_top_p_keeps_the_token_that_crosses_it(top_p: float, kept: list[int]) -> None:
    logits = torch.tensor([0.5, 0.25, 0.125, 0.125], dtype=torch.float64).log()
    probabilities = Sampler(Sampling(1.0, top_p), []).probabilities(logits)
    assert probabilities.nonzero().flatten().tolist() == kept
    assert float(probabilities.sum()) == pytest.approx(1, abs=1e-15)


def test_top_p_keeps_the_lowest_ids_of_equals() -> None:
    probabilities = Sampler(Sampling(1.0, top_p=0.4), []).probabilities(torch.zeros(1000))
    assert probabilities.nonzero().flatten().tolist() == list(range(400))


def test_top_k_keeps_tokens_equal_to_the_last() -> None:
    logits = torch.tensor([1.0, 3.0, 2.0, 2.0, 0.0])
    probabilities = Sampler(Sampling(1.0, top_k=2), []).probabilities(logits)
    assert probabilities.nonzero().flatten().tolist() == [1, 2, 3]


@pytest.mark.parametrize("top_k", [VOCAB, VOCAB + 1, 10**9])
def test_top_k_beyond_the_vocabulary_keeps_all(top_k: int) -> None:
    logits = random_logits(3)
    some, everything = Sampling(1.0, top_k=top_k), Sampling(1.0)
    assert draw(some, logits, 30) == draw(everything, logits, 30)


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(1.0, top_p=1e-9),
        Sampling(5.0, top_k=1),
        Sampling(1e-9),
        Sampling(5e-324),
        Sampling(0, top_p=0.5, top_k=3, seed=8),
    ],
)
def test_settings_that_leave_only_the_best_token(sampling: Sampling) -> None:
    for seed in range(10):
        logits = random_logits(seed)
        assert set(draw(sampling, logits, 5)) == {int(logits.argmax())}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_greedy_takes_the_lowest_of_equals(dtype: torch.dtype) -> None:
    logits = torch.zeros(5000, dtype=dtype)
    logits[[4321, 77, 78, 3000]] = 2
    assert draw(Sampling(), logits, 1) == [77]
    assert draw(Sampling(repetition_penalty=1.5), logits, 1) == [77]


def test_frequencies_follow_the_probabilities() -> None:
    logits = random_logits(5, vocab=12) / 3
    sampling = Sampling(1.3, top_p=0.95, top_k=9, seed=1)
    draws = 8000
    expected = transformers_probabilities(logits, sampling, [0]) * draws
    counts = Counter(draw(sampling, logits, draws))
    kept = expected.nonzero().flatten().tolist()
    assert set(counts) <= set(kept)
    assert len(kept) > 4
    statistic = sum((counts[i] - float(expected[i])) ** 2 / float(expected[i]) for i in kept)
    # Chi-square with k degrees of freedom: mean k, variance 2k; 4 deviations.
    freedom = len(kept) - 1
    assert statistic < freedom + 4 * math.sqrt(2 * freedom)


def test_a_seed_draws_the_same_tokens_and_another_seed_others() -> None:
    logits = random_logits(6)
    first, again, other = (draw(Sampling(1.5, seed=seed), logits, 50) for seed in (1, 1, 2))
    assert first == again
    assert first != other


def test_draws_do_not_depend_on_the_global_generator_or_on_rounding() -> None:
    logits = random_logits(7)
    expected = draw(Sampling(1.0, top_p=0.9, seed=3), logits, 200)
    torch.manual_seed(99)
    noise = random_logits(8) * 1e-7
    actual = draw(Sampling(1.0, top_p=0.9, seed=3), logits + noise, 200)
    assert actual == expected


def test_equal_tokens_that_rounding_reorders_are_drawn_the_same() -> None:
    logits = torch.zeros(50)
    nudged = logits + random_logits(9, vocab=50) * 1e-7
    assert draw(Sampling(1.0), logits, 100) == draw(Sampling(1.0), nudged, 100)


def test_the_penalty_counts_a_token_once_and_weakens_negative_logits_too() -> None:
    logits = torch.tensor([2.0, 1.8, -1.0, -1.5], dtype=torch.float64)
    sampler = Sampler(Sampling(1.0, repetition_penalty=2.0), [0, 0, 0, 2])
    expected = torch.tensor([1.0, 1.8, -2.0, -1.5], dtype=torch.float64).softmax(0)
    assert torch.allclose(sampler.probabilities(logits), expected, atol=1e-15)
    sampler.accept(0)
    assert torch.allclose(sampler.probabilities(logits), expected, atol=1e-15)
    sampler.accept(1)
    assert sampler.probabilities(logits)[1] < expected[1]
    assert logits.tolist() == [2.0, 1.8, -1.0, -1.5]


def test_low_precision_logits_are_taken_as_they_are() -> None:
    logits = random_logits(4).bfloat16()
    sampler = Sampler(Sampling(3.0, repetition_penalty=1.3), range(0, VOCAB, 3))
    exact = sampler.probabilities(logits.double())
    assert torch.equal(sampler.probabilities(logits), exact)


def test_the_penalty_changes_greedy_choices() -> None:
    sampler = Sampler(Sampling(repetition_penalty=1.2), [9])
    logits = torch.tensor([2.0, 1.9, 0.0])
    tokens = []
    for _ in range(3):
        tokens.append(sampler(logits))
        sampler.accept(tokens[-1])
    assert tokens == [0, 1, 0]


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize(
    ("value", "message"),
    [(math.nan, "NaN"), (math.inf, "infinity")],
)
def test_broken_logits_are_an_error(temperature: float, value: float, message: str) -> None:
    logits = random_logits(1)
    logits[17] = value
    with pytest.raises(EngineError, match=f"the model produced {message}"):
        draw(Sampling(temperature), logits, 1)


def test_logits_without_any_token_are_an_error_and_forbidden_tokens_are_not_drawn() -> None:
    logits = torch.full((5,), -math.inf)
    with pytest.raises(EngineError, match="no finite logit"):
        draw(Sampling(1.0), logits, 1)
    logits[3] = -5.0
    assert set(draw(Sampling(1.0), logits, 20)) == {3}


def test_settings_of_other_libraries_become_plain() -> None:
    """They are sent to the workers as JSON."""
    one, three, half = np.int64(1), np.uint8(3), np.float32(0.5)
    made = Sampling(half, half, three, one, seed=one)
    assert made == Sampling(0.5, 0.5, 3, 1, seed=1)
    assert {type(value) for value in vars(made).values()} == {int, float}


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("repetition_penalty", 10**400),
        *[("temperature", value) for value in (-0.1, math.nan, math.inf, "1", np.True_)],
        *[("temperature", value) for value in (10**400, torch.tensor(True))],
        *[("top_p", value) for value in (0, -0.5, 1.0001, math.nan, "0.9", True)],
        *[("top_k", value) for value in (-1, 1.5, "3", True, np.True_, np.float64(3))],
        *[("repetition_penalty", value) for value in (0, -1.0, math.nan, math.inf, False)],
        *[("seed", value) for value in (-1, 0.5, 2**63, "x", True, None)],
    ],
)
def test_a_setting_out_of_range_is_named(field: str, value: Any) -> None:
    with pytest.raises(InvalidInput, match=rf"^{field}=.*: must be ") as caught:
        Sampling(**{field: value})
    assert caught.value.field == field
