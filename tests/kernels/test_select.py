"""Scores, selection and packing, against their definitions; the same on CPU and GPU."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from spava_app.kernels.select import gather_packed, query_scores, select

GPU = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
NAN, INF = torch.nan, torch.inf


def test_query_scores_are_the_mean_of_all_dot_products() -> None:
    q, k = torch.randn(6, 4, 16, dtype=torch.float64), torch.randn(11, 2, 16, dtype=torch.float64)
    scores = query_scores(q, k)
    for head in range(2):
        dots = torch.stack(
            [k[:, head] @ q[t, h] for t in range(6) for h in (2 * head, 2 * head + 1)]
        )
        torch.testing.assert_close(scores[head], dots.mean(dim=0), atol=1e-12, rtol=0)


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=GPU)])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_query_scores_are_not_rounded_to_the_keys_precision(
    device: str, dtype: torch.dtype
) -> None:
    """Rounded scores would tie where the true ones differ, and ties go to the front."""
    generator = torch.Generator().manual_seed(0)
    q = torch.randn(20, 28, 128, generator=generator).to(dtype)
    k = torch.randn(500, 4, 128, generator=generator).to(dtype)
    exact = query_scores(q.double(), k.double())
    scores = query_scores(q.to(device), k.to(device)).cpu()
    assert scores.dtype == torch.float32
    # 128 products of about 1/23: float32 keeps 1e-7 of each.
    torch.testing.assert_close(scores, exact.float(), atol=2e-6, rtol=0)


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=GPU)])
@pytest.mark.parametrize("heads", [1, 2, 3, 8])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_equal_keys_score_equal_wherever_they_stand(
    heads: int, dtype: torch.dtype, device: str
) -> None:
    """The last rows of a matrix-vector product are rounded in another order than the others."""
    generator = torch.Generator().manual_seed(heads)
    for head_dim in (3, 16, 64, 80, 128):
        for length in (1, 2, 7, 16, 17, 63, 65, 129, 1000, 4099):
            q = torch.randn(5, 2 * heads, head_dim, generator=generator).to(dtype)
            k = torch.randn(length, heads, head_dim, generator=generator).to(dtype)
            equal = torch.rand(length, generator=generator) < 0.5
            equal[[0, -1]] = True
            k[equal] = k[0].clone()
            scores = query_scores(q.to(device), k.to(device)).cpu()[:, equal]
            assert torch.equal(scores, scores[:, :1].expand_as(scores)), (head_dim, length)


def pool_and_rank(scores: list[float]) -> list[int]:
    """Best first by the definition: NaN highest, then by value, equal ones by index."""
    pooled = [scores[max(i - 2, 0) : i + 3] for i in range(len(scores))]
    keys = [INF if any(x != x for x in near) else max(near) for near in pooled]
    is_nan = [any(x != x for x in near) for near in pooled]
    return sorted(range(len(scores)), key=lambda i: (not is_nan[i], -keys[i], i))


VALUES = st.one_of(
    st.integers(0, 3).map(float),
    st.sampled_from([0.0, -0.0, 1e-45, -1e-45, INF, -INF, NAN, 3e38, -3e38]),
    st.floats(-10, 10, width=32),
)


@settings(deadline=None)
@given(scores=st.lists(VALUES, min_size=1, max_size=24), share=st.floats(0, 1))
def test_select_pools_and_breaks_ties_to_the_lowest_index(
    scores: list[float], share: float
) -> None:
    count = round(share * len(scores))
    expected = pool_and_rank(scores)[:count]
    for dtype in (torch.float32, torch.float64):
        rows = torch.tensor([scores, scores], dtype=dtype)
        assert select(rows, count).tolist() == [expected, expected]


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=GPU)])
def test_select_ranks_nan_of_any_sign_and_payload_first_and_by_index(device: str) -> None:
    bits = torch.tensor([0x7FC00000, 0, 0, 0, 0, -0x400000, 0, 0, 0, 0x7F800001], dtype=torch.int32)
    scores = bits.view(torch.float32)[None]
    assert scores.isnan().sum() == 3
    assert select(scores.to(device), 10)[0].tolist() == list(range(10))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_select_takes_no_more_than_there_is(dtype: torch.dtype) -> None:
    assert select(torch.zeros(2, 3, dtype=dtype), 9).tolist() == [[0, 1, 2]] * 2
    assert select(torch.zeros(2, 3, dtype=dtype), 0).shape == (2, 0)
    assert select(torch.zeros(2, 0, dtype=dtype), 4).shape == (2, 0)


def many_scores(kind: str, rows: int = 20_000) -> torch.Tensor:
    scores = torch.randn(4, rows, generator=torch.Generator().manual_seed(1))
    if kind == "ties":
        scores = (scores * 4).round() / 4
    elif kind == "odd":
        scores[:, ::97], scores[:, 1::97], scores[:, 2::97] = NAN, -INF, INF
        scores[:, 3::97], scores[:, 4::97] = -0.0, 0.0
    return scores


@pytest.mark.parametrize("kind", ["plain", "ties", "odd"])
@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=GPU)])
@pytest.mark.parametrize("count", [1, 1000, 20_000])
def test_select_of_many_is_the_same_in_both_precisions_and_on_every_device(
    kind: str, device: str, count: int
) -> None:
    scores = many_scores(kind)
    expected = select(scores.double(), count)
    assert torch.equal(select(scores.to(device), count).cpu(), expected)
    assert torch.equal(select(scores.double().to(device), count).cpu(), expected)


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=GPU)])
def test_gather_packed_takes_each_heads_own_rows(device: str) -> None:
    k, v = torch.randn(9, 2, 16, device=device), torch.randn(9, 2, 16, device=device)
    indices = torch.tensor([[4, 0, 8], [1, 1, 2]], device=device)
    packed = gather_packed(k, v, indices)
    for head in range(2):
        for place, row in enumerate(indices[head].tolist()):
            assert torch.equal(packed[place, head], torch.cat((k[row, head], v[row, head])))
