"""Numbers of any library are taken as numbers, and what is none is refused by name."""

from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch

from spava_app.errors import InvalidInput, check_count, finite_number, needed_count, plain_number

HUGE = 10**400  # no float holds it


@pytest.mark.parametrize(
    ("given", "number"),
    [
        (3, 3),
        (1.5, 1.5),
        (Fraction(3, 2), 1.5),
        (np.int64(3), 3),
        (np.float32(1.5), 1.5),
        (np.array(3), 3),
        (np.array(1.5), 1.5),
        (torch.tensor(3), 3),
        (torch.tensor(1.5), 1.5),
        (torch.tensor(1.5, requires_grad=True), 1.5),
    ],
)
def test_one_number_of_any_library(given: Any, number: float) -> None:
    taken = plain_number(given)
    assert (taken, type(taken)) == (number, type(number))


@pytest.mark.parametrize(
    "given",
    [
        True,
        np.True_,
        np.array(True),
        torch.tensor(True),
        torch.tensor([True]),
        torch.tensor([3]),
        torch.tensor(3, device="meta"),
        np.array([3]),
        np.array("3"),
        torch.tensor(1 + 2j),
        "3",
        None,
        Fraction(HUGE),
    ],
)
def test_what_is_no_number(given: Any) -> None:
    assert plain_number(given) is None


@pytest.mark.parametrize(
    "given", [float("nan"), float("inf"), HUGE, -HUGE, Fraction(HUGE), torch.tensor(torch.inf)]
)
def test_what_no_float_holds_is_not_finite(given: Any) -> None:
    assert finite_number(given) is None
    assert finite_number(2) == 2


def test_a_count_that_is_needed_may_not_be_none() -> None:
    assert check_count("seed", None, least=0) is None
    assert needed_count("seed", np.int64(4), least=0) == 4
    for wrong in (None, HUGE, -1, 1.0):
        with pytest.raises(InvalidInput, match=r"^seed="):
            needed_count("seed", wrong, least=0)


def test_a_value_that_cannot_be_written_out_is_still_named() -> None:
    # Python writes out no integer of over 4300 digits.
    with pytest.raises(InvalidInput, match=r"^seed=an int: must be at most"):
        check_count("seed", 10**5000, least=0)
