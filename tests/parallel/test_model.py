"""A whole decoder over each method equals the same decoder under the method's dense mask.

What attention alone cannot show: that every row has its original position, that an anchor which is
computed again stands at the front, and that errors do not creep in from layer to layer.
"""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from dist import RankPool
from tasks import Case, prompt_inputs, run_model, tiny_decoder
from torch import Tensor
from truth import TRUTHS, Problem, dense

OPTIONS = {
    "star": {"anchor_len": 9},
    "apb": {"anchor_len": 12, "passing_len": 3},
    "spava": {"anchor_len": 8, "passing_len": 3},
}


def expected(case: Case, world_size: int) -> tuple[Tensor, int]:
    """Final hidden states of [copies | prompt] under the mask, and how many copies there are."""
    truth = TRUTHS[case.method](replace(case.problem, world_size=world_size))
    copies = len(truth.copies)
    ids, positions = prompt_inputs(case)
    ids = torch.cat((ids[truth.copies], ids))
    positions = torch.cat((positions[:, :copies], positions), dim=1)
    decoder = tiny_decoder()

    def attend(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return dense(q, k, v, truth.mask(q, k, None))

    return decoder(decoder.embed(ids), positions, attend), copies


@pytest.mark.parametrize("world_size", [1, 2, 4])
@pytest.mark.parametrize("method", TRUTHS)
def test_decoder_over_a_method(
    ranks: Callable[[int], RankPool], world_size: int, method: str
) -> None:
    problem = Problem(71, 6, system_len=2, question_len=4, options=OPTIONS.get(method, {}))
    case = Case(method, problem)
    hidden, copies = expected(case, world_size)
    covered: set[int] = set()
    for rows, num_anchor, first_anchor, ours in ranks(world_size).run(run_model, case):
        anchor = range(first_anchor, first_anchor + num_anchor)
        places = [*anchor, *(copies + row for row in rows[num_anchor:])]
        torch.testing.assert_close(ours, hidden[places], atol=1e-10, rtol=0)
        covered.update(places)
    assert covered >= set(range(copies, copies + 71))
