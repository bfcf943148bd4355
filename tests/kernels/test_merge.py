"""Merging partial attention: any split of the keys, and the extremes of lse."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from spava_app.kernels.attention import attention
from spava_app.kernels.lse import merge


def tensors(tq: int, tk: int, seed: int, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shapes = ((tq, 4, 16), (tk, 2, 16), (tk, 2, 16))
    return [
        torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype) for shape in shapes
    ]


@settings(deadline=None)
@given(
    cuts=st.lists(st.integers(0, 30), max_size=4),
    scale=st.sampled_from([0.1, 1.0, 200.0]),
    seed=st.integers(0, 100),
)
def test_any_split_is_attention_over_all_keys(cuts: list[int], scale: float, seed: int) -> None:
    q, k, v = tensors(7, 30, seed)
    k = k * scale  # scores of hundreds: exp without the peak taken out overflows
    edges = [0, *sorted(cuts), 30]
    parts = [attention(q, k[a:b], v[a:b], causal=False) for a, b in pairwise(edges)]
    out, lse = merge(parts)
    whole = attention(q, k, v, causal=False, backend="reference")
    torch.testing.assert_close(out, whole[0], atol=1e-11, rtol=0)
    torch.testing.assert_close(lse, whole[1], atol=1e-11, rtol=1e-13)


@settings(deadline=None)
@given(
    lses=st.lists(
        st.one_of(st.floats(-200, 200, width=32), st.just(-torch.inf)), min_size=1, max_size=6
    )
)
def test_any_lse_in_float32(lses: list[float]) -> None:
    """Against exp and log in float64, where e^200 is an ordinary number."""
    values = [float(place + 1) for place in range(len(lses))]
    parts = [
        (torch.full((1, 1, 2), torch.nan if lse == -torch.inf else value), torch.tensor([[lse]]))
        for value, lse in zip(values, lses, strict=True)
    ]
    weights = torch.tensor(lses, dtype=torch.float64).exp()
    out, lse = merge(parts)
    total = weights.sum()
    mean = (weights * torch.tensor(values)).sum() / total if total else torch.tensor(0.0)
    expected = total.log() if total else torch.tensor(-torch.inf)
    torch.testing.assert_close(out, mean.float().expand(1, 1, 2), atol=0, rtol=1e-6)
    torch.testing.assert_close(lse, expected.float().reshape(1, 1), atol=1e-6, rtol=2e-7)


def test_nan_behind_weight_zero_is_dropped_and_other_nan_is_kept() -> None:
    out = torch.tensor([[[torch.nan]], [[torch.nan]], [[1.0]]])
    parts = [
        (out, torch.tensor([[-torch.inf, 0.0, torch.nan]])),
        (torch.full((3, 1, 1), 3.0), torch.tensor([[200.0, 0.0, 0.0]])),
    ]
    merged, lse = merge(parts)
    assert merged[0].item() == 3.0
    assert merged[1:].isnan().all()
    assert lse[0, 2].isnan()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_low_precision_parts_merge_in_the_precision_of_lse(dtype: torch.dtype) -> None:
    q, k, v = tensors(9, 40, 0, dtype)
    parts = [attention(q, k[rows], v[rows], causal=False) for rows in (slice(25), slice(25, 40))]
    kept = [(out.clone(), lse.clone()) for out, lse in parts]
    out, lse = merge(parts)
    assert out.dtype == lse.dtype == torch.float32
    torch.testing.assert_close(parts, kept, atol=0, rtol=0)  # inputs stay as they are
    exact = merge([(out.double(), lse.double()) for out, lse in parts])
    torch.testing.assert_close(out, exact[0].float(), atol=1e-6, rtol=0)
    torch.testing.assert_close(lse, exact[1].float(), atol=1e-6, rtol=0)


def test_one_part_is_itself_and_none_is_an_error() -> None:
    q, k, v = tensors(3, 5, 0)
    part = attention(q, k, v, causal=True)
    torch.testing.assert_close(merge([part]), part, atol=0, rtol=0)
    with pytest.raises(ValueError, match="unpack"):
        merge([])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_gpu_as_on_cpu() -> None:
    q, k, v = tensors(50, 300, 0, torch.bfloat16)
    parts = [attention(q, k[rows], v[rows], causal=False) for rows in (slice(99), slice(99, 300))]
    parts.append((torch.full_like(q, torch.nan), torch.full((4, 50), -torch.inf)))
    expected = merge(parts)
    found = merge([(out.cuda(), lse.cuda()) for out, lse in parts])
    torch.testing.assert_close([x.cpu() for x in found], list(expected), atol=1e-6, rtol=0)
