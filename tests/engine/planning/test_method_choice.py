"""Which method `auto` takes, with the rates of H200s and a 7B model's sizes."""

from typing import Any

import numpy as np
import pytest
import torch

from spava_app.engine.layout import Layout, PromptShape
from spava_app.engine.models.config.decoder import DecoderConfig
from spava_app.engine.models.geometries import GEOMETRIES
from spava_app.engine.parallel.base import Method, make_method
from spava_app.engine.planning.decoder_time import DecoderTime
from spava_app.engine.planning.hardware_profiles import default_machine
from spava_app.engine.planning.method_choice import TIE, MethodChoice, choose, variants
from spava_app.errors import InvalidInput

COSTS = DecoderTime(
    DecoderConfig.from_hf(GEOMETRIES["Qwen2.5-VL-7B"]),
    default_machine("cuda", "NVIDIA H200", 16),
    torch.bfloat16,
)


def chosen(
    tokens: int,
    world_size: int,
    options: dict[str, Any] | None = None,
    heads: tuple[int, int] = (28, 4),
    without: tuple[str, ...] = (),
) -> MethodChoice:
    """What is taken for a prompt; methods named in `without` do not fit."""

    def fits(method: Method, layout: Layout) -> bool:
        assert layout.num_tokens == tokens
        return method.name not in without

    choice = choose(
        variants("auto", options or {}, world_size),
        PromptShape(tokens, min(64, tokens)),
        world_size,
        heads=heads,
        seconds=COSTS.prefill,
        fits=fits,
    )
    assert choice is not None
    return choice


@pytest.mark.parametrize("world_size", [1, 2, 4, 8])
def test_exact_below_a_crossover_and_spava_above(world_size: int) -> None:
    exact = [chosen(2**power, world_size).variant.exact for power in range(10, 21)]
    assert exact == sorted(exact, reverse=True)
    assert exact[0]
    assert not exact[-1]


def test_the_choice_is_the_fastest_or_exact_within_a_twentieth() -> None:
    for power in range(10, 21):
        choice = chosen(2**power, 2)
        took = COSTS.prefill(choice.variant.method, choice.layout)
        shape = PromptShape(2**power, 64)
        for other in variants("auto", {}, 2):
            seconds = COSTS.prefill(other.method, other.method.layout(shape, 2))
            assert took <= TIE * seconds
            if other.exact and seconds <= took:
                assert choice.variant.exact


@pytest.mark.parametrize(("faster", "taken"), [(1.04, "full"), (1.06, "spava")])
def test_a_near_tie_goes_to_exact(faster: float, taken: str) -> None:
    choice = choose(
        variants("auto", {}, 1),
        PromptShape(2**15, 64),
        1,
        heads=(28, 4),
        seconds=lambda method, layout: faster if method.name == "full" else 1.0,
        fits=lambda method, layout: True,
    )
    assert choice is not None
    assert choice.variant.method.name == taken
    assert ("less than 5 % faster" in choice.why) == (taken == "full")


def test_why_names_both_predictions() -> None:
    choice = chosen(2**17, 2)
    hosts = len(choice.layout.blocks)
    assert choice.variant.options["virtual_hosts"] == hosts
    assert hosts % 4 == 0
    ring = make_method("zigzag_ring")
    exact = COSTS.prefill(ring, ring.layout(PromptShape(2**17, 64), 2))
    assert choice.why.startswith(f"{hosts} virtual hosts, prefill predicted to take ")
    assert choice.why.endswith(f"zigzag_ring {exact:.1f} s")
    assert "exact" in chosen(4096, 2).why


def test_options_are_respected() -> None:
    """A dial or lengths ask for spava, whatever is faster; a backend asks for nothing."""
    dialled = chosen(1024, 2, {"passing_fraction": 0.5})
    assert dialled.variant.method.name == "spava"
    assert dialled.variant.options["passing_fraction"] == 0.5
    hosts = chosen(2**17, 2, {"virtual_hosts": 6})
    assert (hosts.variant.method.name, len(hosts.layout.blocks)) == ("spava", 6)
    assert hosts.why == "asked for"
    backend = chosen(1024, 1, {"backend": "sdpa"})
    assert backend.variant.exact
    assert backend.variant.method.backend == "sdpa"
    for options in ({"nonsense": 1}, {"passing_fraction": 2.0}, {"backend": "none"}):
        with pytest.raises(InvalidInput) as error:
            variants("auto", options, 2)
        assert error.value.field == next(iter(options))


def test_a_method_that_was_asked_for_is_taken() -> None:
    [only] = variants("star", {"anchor_len": 3}, 2)
    assert (only.method, only.options) == (
        make_method("star", {"anchor_len": 3}),
        {"anchor_len": 3},
    )
    with pytest.raises(InvalidInput, match="choose auto or one of"):
        variants("fastest", {}, 2)


@pytest.mark.parametrize("method", ["spava", "auto"])
def test_numbers_of_other_libraries_become_plain_options(method: str) -> None:
    """Options are sent to the workers as JSON."""
    given = {"virtual_hosts": np.int64(4), "passing_fraction": np.float32(0.5)}
    [only] = variants(method, given, 2)
    assert only.options == {"virtual_hosts": 4, "passing_fraction": 0.5}
    assert [type(value) for value in only.options.values()] == [int, float]
    assert only.method == make_method("spava", only.options)


def test_heads_that_cannot_be_spread_leave_the_ring() -> None:
    for tokens in (2048, 8192):
        assert chosen(tokens, 2, heads=(27, 9)).variant.method.name != "ulysses"


def test_what_has_no_memory_is_left_out() -> None:
    assert chosen(1024, 1, without=("full",)).variant.method.name == "spava"
    choice = chosen(2**17, 2, without=("spava",))
    assert choice.variant.exact
    assert choice.why.endswith("nothing approximate fits into memory")
    none = choose(
        variants("auto", {}, 2),
        PromptShape(1024, 64),
        2,
        heads=(28, 4),
        seconds=COSTS.prefill,
        fits=lambda method, layout: False,
    )
    assert none is None


def test_more_ranks_than_tokens_are_refused() -> None:
    with pytest.raises(InvalidInput, match="at most as many ranks"):
        chosen(3, 4)
