"""Kernels against their definitions in float64."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from spava_app.errors import InvalidInput
from spava_app.kernels.attention import BACKENDS, attention
from spava_app.kernels.lse import merge
from spava_app.kernels.rope import apply_rotary, rotary_frequencies, rotary_table
from spava_app.kernels.select import gather_packed, query_scores, select


def tensors(tq: int, tk: int, dtype: torch.dtype, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return tuple(
        torch.randn(rows, heads, 16, generator=generator, dtype=torch.float64).to(dtype)
        for rows, heads in ((tq, 4), (tk, 2), (tk, 2))
    )


def naive(q: Tensor, k: Tensor, v: Tensor, *, causal: bool) -> tuple[Tensor, Tensor]:
    """Row by row, key by key, in float64; written from the definition of attention."""
    q, k, v = q.double(), k.double(), v.double()
    out = torch.zeros_like(q)
    lse = torch.full((q.shape[1], q.shape[0]), -torch.inf, dtype=torch.float64)
    for head in range(q.shape[1]):
        kv = head * k.shape[1] // q.shape[1]
        for row in range(q.shape[0]):
            keys = k.shape[0] - q.shape[0] + row + 1 if causal else k.shape[0]
            if keys > 0:
                scores = k[:keys, kv] @ q[row, head] / q.shape[2] ** 0.5
                lse[head, row] = scores.exp().sum().log()
                out[row, head] = scores.softmax(dim=0) @ v[:keys, kv]
    return out, lse


# bf16 keeps 8 bits: half a step of values near 2 is 4e-3, and out is rounded once more.
TOLERANCES = {torch.float64: 1e-12, torch.float32: 2e-6, torch.bfloat16: 2e-2}


@pytest.mark.parametrize("backend", [*BACKENDS, "auto"])
@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("lengths", [(5, 5), (3, 9), (9, 3), (0, 4), (4, 0), (1, 1), (40, 65)])
def test_attention(
    backend: str, dtype: torch.dtype, causal: bool, lengths: tuple[int, int]
) -> None:
    q, k, v = tensors(*lengths, dtype)
    out, lse = attention(q, k, v, causal=causal, backend=backend)
    assert out.dtype == dtype
    assert lse.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    expected = naive(q, k, v, causal=causal)
    limits = {"atol": TOLERANCES[dtype], "rtol": 0.0, "check_dtype": False}
    torch.testing.assert_close(out, expected[0], **limits)
    torch.testing.assert_close(lse, expected[1], **limits)


@pytest.mark.parametrize(
    ("q", "k", "v", "message"),
    [
        ((4, 3, 8), (4, 2, 8), (4, 2, 8), "multiple of KV heads"),
        ((4, 4, 8), (4, 2, 6), (4, 2, 6), "Tq, H, D"),
        ((4, 4, 8), (4, 2, 8), (5, 2, 8), "Tq, H, D"),
        ((4, 8), (4, 2, 8), (4, 2, 8), "Tq, H, D"),
    ],
)
def test_attention_refuses_shapes(
    q: tuple[int, ...], k: tuple[int, ...], v: tuple[int, ...], message: str
) -> None:
    with pytest.raises(InvalidInput, match=message):
        attention(torch.zeros(q), torch.zeros(k), torch.zeros(v), causal=False)


def test_attention_refuses_dtypes_and_backends() -> None:
    q, k, v = tensors(2, 2, torch.float32)
    with pytest.raises(InvalidInput, match="one floating-point dtype"):
        attention(q, k, v.double(), causal=False)
    with pytest.raises(InvalidInput, match="choose auto or one of"):
        attention(q, k, v, causal=False, backend="fast")


@given(
    cuts=st.lists(st.integers(0, 30), max_size=4),
    scale=st.sampled_from([0.1, 1.0, 200.0]),
    seed=st.integers(0, 100),
)
def test_merge_of_any_split_is_attention_over_all_keys(
    cuts: list[int], scale: float, seed: int
) -> None:
    q, k, v = tensors(7, 30, torch.float64, seed)
    k = k * scale  # scores of hundreds: exp without the peak taken out overflows
    edges = [0, *sorted(cuts), 30]
    parts = [attention(q, k[a:b], v[a:b], causal=False) for a, b in pairwise(edges)]
    out, lse = merge(parts)
    whole = attention(q, k, v, causal=False, backend="reference")
    torch.testing.assert_close(out, whole[0], atol=1e-11, rtol=0)
    torch.testing.assert_close(lse, whole[1], atol=1e-11, rtol=1e-13)


def test_merge_survives_extremes() -> None:
    """lse of +-200 in float32, rows that nobody sees, and NaN behind a weight of zero."""
    out = torch.tensor([[[1.0]], [[1.0]], [[torch.nan]]])
    high = (out, torch.tensor([[200.0, -200.0, -torch.inf]]))
    low = (torch.full((3, 1, 1), 3.0), torch.tensor([[200.0, 200.0, -torch.inf]]))
    merged, lse = merge([high, low])
    torch.testing.assert_close(merged[:, 0, 0], torch.tensor([2.0, 3.0, 0.0]))
    torch.testing.assert_close(lse[0, :2], torch.tensor([200.0 + 0.6931472, 200.0]))
    assert lse[0, 2] == -torch.inf


def test_query_scores_are_the_mean_of_all_dot_products() -> None:
    q, k, _ = tensors(6, 11, torch.float64)
    scores = query_scores(q, k)
    for head in range(2):
        dots = torch.stack(
            [k[:, head] @ q[t, h] for t in range(6) for h in (2 * head, 2 * head + 1)]
        )
        torch.testing.assert_close(scores[head], dots.mean(dim=0), atol=1e-12, rtol=0)


@given(scores=st.lists(st.integers(0, 3), min_size=1, max_size=24), share=st.floats(0, 1))
def test_select_pools_and_breaks_ties_to_the_lowest_index(scores: list[int], share: float) -> None:
    count = round(share * len(scores))
    pooled = [max(scores[max(i - 2, 0) : i + 3]) for i in range(len(scores))]
    expected = sorted(range(len(scores)), key=lambda i: (-pooled[i], i))[:count]
    rows = torch.tensor([scores, scores], dtype=torch.float32)
    assert select(rows, count).tolist() == [expected, expected]


def test_gather_packed_takes_each_heads_own_rows() -> None:
    _, k, v = tensors(1, 9, torch.float32)
    indices = torch.tensor([[4, 0, 8], [1, 1, 2]])
    packed = gather_packed(k, v, indices)
    for head in range(2):
        for place, row in enumerate(indices[head].tolist()):
            assert torch.equal(packed[place, head], torch.cat((k[row, head], v[row, head])))


def test_rotary_is_a_rotation_by_position_times_frequency() -> None:
    frequencies = rotary_frequencies(8, 100.0)
    x = torch.randn(3, 2, 8, dtype=torch.float64)
    rotated = apply_rotary(x, rotary_table(torch.tensor([0, 5, 70_000]), frequencies))
    assert rotated.dtype == x.dtype
    for row, position in enumerate((0, 5, 70_000)):
        for pair in range(4):
            angle = torch.tensor(position * 100.0 ** (-2 * pair / 8), dtype=torch.float64)
            a, b = x[row, :, pair], x[row, :, pair + 4]
            expected = torch.stack(
                (a * angle.cos() - b * angle.sin(), b * angle.cos() + a * angle.sin())
            )
            got = torch.stack((rotated[row, :, pair], rotated[row, :, pair + 4]))
            torch.testing.assert_close(got, expected, atol=1e-6, rtol=0)


def test_multimodal_rotary_takes_each_sections_axis() -> None:
    frequencies = rotary_frequencies(12, 1e4)
    positions = torch.tensor([[3, 9], [5, 0], [7, 2]])
    cos, _ = rotary_table(positions, frequencies, [1, 2, 3])
    axes = [0, 1, 1, 2, 2, 2]
    for row in range(2):
        angles = positions[axes, row] * frequencies
        torch.testing.assert_close(cos[row], angles.cos().float())
    with pytest.raises(ValueError, match="must sum to"):
        rotary_table(positions, frequencies, [1, 2, 2])
