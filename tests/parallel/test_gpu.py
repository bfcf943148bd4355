"""Every method over NCCL in bfloat16, against itself in float32 on the same GPUs.

That the methods are their masks is proven in float64 (test_oracle.py); here it is that GPU kernels
and NCCL compute the same thing. Allowed error: bfloat16 keeps 8 bits, so rounding a result once is
off by up to 2^-9 and by 2^-9 / sqrt(3) = 1.1e-3 on average; kernels also round the softmax weights
before the second product, which is as much again, and blockwise methods round each part before
the merge. Twice the sum of the three is 7e-3.
"""

from collections.abc import Callable, Iterator

import pytest
import torch
from dist import RankPool
from gpu_tasks import overlap_changes_nothing, relative_errors

from spava_app.engine.parallel.base import methods
from spava_app.kernels.attention import BACKENDS

pytestmark = pytest.mark.gpu
ALLOWED = 7e-3
WORLD_SIZES = [size for size in (1, 2, 4) if size <= max(1, torch.cuda.device_count())]


@pytest.fixture(scope="module")
def gpus() -> Iterator[Callable[[int], RankPool]]:
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    pools: dict[int, RankPool] = {}

    def pool(world_size: int) -> RankPool:
        if world_size not in pools:
            pools[world_size] = RankPool(world_size, "nccl")
        return pools[world_size]

    yield pool
    for started in pools.values():
        started.close()


def backends() -> list[str]:
    """`auto`, and every half-precision kernel this machine has."""
    if not torch.cuda.is_available():
        return ["auto"]
    sample = torch.zeros(1, 28, 128, dtype=torch.bfloat16, device="cuda")
    served = [name for name, backend in BACKENDS.items() if backend.unsupported(sample) is None]
    return ["auto", *(name for name in served if name != "reference")]


@pytest.mark.parametrize("rows_per_rank", [1000, 32_768])
@pytest.mark.parametrize("world_size", WORLD_SIZES)
@pytest.mark.parametrize("backend", backends())
@pytest.mark.parametrize("method", methods())
def test_bfloat16_is_float32_up_to_rounding(
    gpus: Callable[[int], RankPool],
    method: str,
    backend: str,
    world_size: int,
    rows_per_rank: int,
    record_property: Callable[[str, object], None],
) -> None:
    num_tokens = rows_per_rank * (1 if method == "full" else world_size)
    for rank, errors in enumerate(
        gpus(world_size).run(relative_errors, method, backend, num_tokens, 77)
    ):
        record_property(f"rank{rank}", errors)
        assert errors["prefill"] < ALLOWED
        assert errors["decode"] < ALLOWED


@pytest.mark.parametrize("world_size", WORLD_SIZES)
@pytest.mark.parametrize("method", ["star", "apb", "spava"])
def test_overlapped_is_bit_for_bit_the_same(
    gpus: Callable[[int], RankPool], method: str, world_size: int
) -> None:
    assert gpus(world_size).run(overlap_changes_nothing, method, 40_000, 77) == [True] * world_size
