"""Every backend against attention written from its definition, on CPU and GPU.

Low precision is held to its own noise floor: plain attention with every step done in that precision
is off by some amount, and a backend may be off by twice that, no more.
"""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from spava_app.errors import InvalidInput
from spava_app.kernels.attention import BACKENDS, attention
from spava_app.kernels.backends import reference

GPU = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
CPU_BACKENDS = ["sdpa", "reference", "auto"]
GPU_BACKENDS = [name for name in BACKENDS if name != "reference"]
HALVES = [torch.bfloat16, torch.float16]
LENGTHS = [(5, 5), (3, 9), (9, 3), (0, 4), (4, 0), (1, 1), (40, 65), (1, 70), (129, 300)]
# (heads, KV heads, head dim): Qwen2.5-VL 7B and 3B, Llama 8B, and dims that few kernels take.
GEOMETRIES = [(28, 4, 128), (16, 2, 128), (32, 8, 64), (4, 2, 16), (4, 4, 80), (6, 2, 7)]
# All kernels accumulate scores in float32 and take exp and log of them with a few float32 steps
# (1.2e-7 of values up to 10); 4e-5 was seen for half precision, whose CPU kernel has a quicker exp.
LSE_LIMITS = {torch.float64: 1e-13, torch.float32: 4e-6, torch.bfloat16: 1e-4, torch.float16: 1e-4}

Partial = tuple[Tensor, Tensor]


def tensors(
    lengths: tuple[int, int],
    geometry: tuple[int, int, int] = (4, 2, 16),
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator(device).manual_seed(0)
    heads, kv_heads, head_dim = geometry
    shapes = [(lengths[0], heads), (lengths[1], kv_heads), (lengths[1], kv_heads)]
    q, k, v = (
        torch.randn(*shape, head_dim, generator=generator, device=device).to(dtype)
        for shape in shapes
    )
    return q, k, v


def naive(q: Tensor, k: Tensor, v: Tensor, *, causal: bool) -> Partial:
    """Row by row and head by head in float64; written from the definition of attention."""
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


def plain(q: Tensor, k: Tensor, v: Tensor, *, causal: bool, dtype: torch.dtype) -> Tensor:
    """Attention with every step in `dtype`; its error is the noise floor of that precision."""
    q, k, v = (x.to(dtype).transpose(0, 1) for x in (q, k, v))
    k, v = (x.repeat_interleave(len(q) // len(k), dim=0) for x in (k, v))
    scores = (q @ k.mT) * q.shape[-1] ** -0.5
    if causal:
        hidden = torch.ones(scores.shape[1:], dtype=torch.bool, device=q.device)
        scores = scores.masked_fill(hidden.triu(k.shape[1] - q.shape[1] + 1), -torch.inf)
    return (scores.softmax(dim=-1) @ v).transpose(0, 1)


def errors(out: Tensor, exact: Tensor) -> Tensor:
    """Relative error of each row and head that sees anything."""
    exact = exact.double()
    size = exact.norm(dim=-1)
    return ((out.double() - exact).norm(dim=-1) / size)[size > 0]


def check_noise(out: Tensor, exact: Tensor, floor: Tensor) -> None:
    """`floor`: the errors of plain attention in out's dtype."""
    assert out.isfinite().all()
    found = errors(out, exact)
    if out.dtype == torch.float64:  # nothing finer to compare with: a few steps of 2.2e-16
        assert not (found > 1e-14).any()
        return
    if not floor.numel():
        return
    # Rounding the result alone costs about a quarter of the dtype's step, also where the plain way
    # happens to be exact.
    rounding = torch.finfo(out.dtype).eps / 4
    assert found.mean() <= 2 * max(floor.mean().item(), rounding)
    # The mean hides a single wrong row, which is off by about 1.
    assert found.max() <= 4 * max(floor.max().item(), rounding)


@pytest.mark.parametrize("backend", CPU_BACKENDS)
@pytest.mark.parametrize("dtype", LSE_LIMITS)
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("lengths", LENGTHS)
def test_ragged_lengths(
    backend: str, dtype: torch.dtype, causal: bool, lengths: tuple[int, int]
) -> None:
    q, k, v = tensors(lengths, dtype=dtype)
    out, lse = attention(q, k, v, causal=causal, backend=backend)
    exact, exact_lse = naive(q, k, v, causal=causal)
    assert out.dtype == dtype
    assert lse.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    torch.testing.assert_close(lse, exact_lse, atol=LSE_LIMITS[dtype], rtol=0.0, check_dtype=False)
    assert not out[exact.norm(dim=(1, 2)) == 0].any()
    seeing = slice(max(0, lengths[0] - lengths[1]) if causal else 0, None)
    if exact[seeing].any():
        floor = errors(plain(q[seeing], k, v, causal=causal, dtype=dtype), exact[seeing])
        check_noise(out, exact, floor)


@pytest.mark.parametrize("backend", CPU_BACKENDS)
@pytest.mark.parametrize("dtype", LSE_LIMITS)
@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_geometries(backend: str, dtype: torch.dtype, geometry: tuple[int, int, int]) -> None:
    q, k, v = tensors((65, 150), geometry, dtype)
    out, lse = attention(q, k, v, causal=True, backend=backend)
    exact, exact_lse = naive(q, k, v, causal=True)
    limit = LSE_LIMITS[dtype]
    torch.testing.assert_close(lse, exact_lse, atol=limit, rtol=0.0, check_dtype=False)
    check_noise(out, exact, errors(plain(q, k, v, causal=True, dtype=dtype), exact))


# Name: (how to make a tensor of shape [T, H, D] that lies otherwise in memory).
LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "half of packed rows": lambda x: torch.cat((x, x + 1), dim=-1).chunk(2, dim=-1)[0],
    "every other row": lambda x: x.repeat_interleave(2, dim=0)[::2],
    "heads first": lambda x: x.transpose(0, 1).contiguous().transpose(0, 1),
    "head dim first": lambda x: x.permute(2, 0, 1).contiguous().permute(1, 2, 0),
    "not aligned": lambda x: torch.cat((x[..., :1], x), dim=-1)[..., 1:],
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    ("device", "dtype", "backend"),
    [
        *(("cpu", torch.float32, backend) for backend in CPU_BACKENDS),
        *(pytest.param("cuda", torch.bfloat16, name, marks=GPU) for name in GPU_BACKENDS),
    ],
)
def test_memory_layouts(layout: str, device: str, dtype: torch.dtype, backend: str) -> None:
    q, k, v = tensors((60, 130), (4, 2, 64), dtype, device)
    skip_where_unsupported(backend, q)
    expected = attention(q, k, v, causal=True, backend=backend)
    found = attention(*(LAYOUTS[layout](x) for x in (q, k, v)), causal=True, backend=backend)
    torch.testing.assert_close(found, expected, atol=0, rtol=0)


def test_repeated_rows() -> None:
    """Rows that share memory (stride 0), as `expand` makes them."""
    q, k, v = tensors((3, 1))
    found = attention(q, k.expand(9, -1, -1), v.expand(9, -1, -1), causal=False)
    torch.testing.assert_close(found[0], v.repeat_interleave(2, dim=1).expand(3, -1, -1))


def test_reference_in_stretches_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    q, k, v = tensors((33, 70), dtype=torch.float64)
    whole = [attention(q, k, v, causal=c, backend="reference") for c in (False, True)]
    monkeypatch.setattr(reference, "MAX_SCORES", 4 * 70 * 5)  # five rows at a time, then three
    parts = [attention(q, k, v, causal=c, backend="reference") for c in (False, True)]
    torch.testing.assert_close(parts, whole, atol=1e-14, rtol=0)


@pytest.mark.parametrize(
    ("q", "k", "v", "message"),
    [
        ((4, 3, 8), (4, 2, 8), (4, 2, 8), "multiple of KV heads"),
        ((4, 4, 8), (4, 2, 6), (4, 2, 6), "Tq, H, D"),
        ((4, 4, 8), (4, 2, 8), (5, 2, 8), "Tq, H, D"),
        ((4, 8), (4, 2, 8), (4, 2, 8), "Tq, H, D"),
    ],
)
def test_refuses_shapes(
    q: tuple[int, ...], k: tuple[int, ...], v: tuple[int, ...], message: str
) -> None:
    with pytest.raises(InvalidInput, match=message):
        attention(torch.zeros(q), torch.zeros(k), torch.zeros(v), causal=False)


def test_refuses_dtypes_devices_and_backends() -> None:
    q, k, v = tensors((2, 2))
    with pytest.raises(InvalidInput, match="one floating-point dtype"):
        attention(q, k, v.double(), causal=False)
    with pytest.raises(InvalidInput, match="one device"):
        attention(q, k, v.to("meta"), causal=False)
    with pytest.raises(InvalidInput, match="choose auto or one of"):
        attention(q, k, v, causal=False, backend="fast")
    with pytest.raises(InvalidInput, match="not on cpu"):
        attention(q, k, v, causal=False, backend="cudnn")


def skip_where_unsupported(backend: str, q: Tensor) -> None:
    if backend != "auto" and (reason := BACKENDS[backend].unsupported(q)):
        pytest.skip(reason)


@pytest.mark.parametrize("backend", GPU_BACKENDS)
@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("geometry", [(28, 4, 128), (32, 8, 64), (4, 4, 80), (4, 2, 8)])
@pytest.mark.parametrize("lengths", [(1, 1), (1, 777), (300, 301), (777, 300), (1000, 2100)])
class TestOnGpu:
    pytestmark = GPU

    def test_short(
        self,
        backend: str,
        dtype: torch.dtype,
        geometry: tuple[int, int, int],
        lengths: tuple[int, int],
    ) -> None:
        q, k, v = tensors(lengths, geometry, dtype, "cuda")
        skip_where_unsupported(backend, q)
        for causal in (False, True):
            out, lse = attention(q, k, v, causal=causal, backend=backend)
            wide = (x.double() for x in (q, k, v))
            exact, exact_lse = attention(*wide, causal=causal, backend="reference")
            torch.testing.assert_close(lse, exact_lse, atol=1e-4, rtol=0, check_dtype=False)
            seeing = slice(max(0, lengths[0] - lengths[1]) if causal else 0, None)
            floor = errors(plain(q[seeing], k, v, causal=causal, dtype=dtype), exact[seeing])
            check_noise(out, exact, floor)


@pytest.mark.parametrize("backend", [*GPU_BACKENDS, "auto"])
@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize(
    ("lengths", "causal"),
    [((32768, 32768), True), ((16384, 32768), True), ((16384, 16384), False), ((64, 65536), False)],
)
class TestLongOnGpu:
    pytestmark = GPU

    def test_long(
        self, backend: str, dtype: torch.dtype, lengths: tuple[int, int], causal: bool
    ) -> None:
        q, k, v = tensors(lengths, (28, 4, 128), dtype, "cuda")
        skip_where_unsupported(backend, q)
        out, lse = attention(q, k, v, causal=causal, backend=backend)
        wide = (x.float() for x in (q, k, v))
        exact, exact_lse = attention(*wide, causal=causal, backend="reference")
        torch.testing.assert_close(lse, exact_lse, atol=1e-4, rtol=0)
        # The floor from the last rows: plain attention over all of them does not fit.
        last = slice(-64, None)
        floor = errors(plain(q[last], k, v, causal=causal, dtype=dtype), exact[last])
        check_noise(out, exact, floor)
