"""SwiGLU, windows and when fused kernels serve; the kernels themselves in Triton's interpreter, and
on a GPU.
"""

import os
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from types import ModuleType
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from spava_app.kernels import fused
from spava_app.kernels.backends.reference import BACKEND as REFERENCE
from spava_app.kernels.gated import swiglu
from spava_app.kernels.rope import apply_rotary
from spava_app.kernels.windows import Windows, window_attention

on_gpu = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"),
]
DEVICES = ["cpu", pytest.param("cuda", marks=on_gpu)]
CLASSES = ((1, 2), (2, 3), (3, 4))


@pytest.mark.parametrize("multiple", [1, 8])
def test_swiglu_and_its_zeros(multiple: int) -> None:
    gate_up = torch.randn(5, 26, dtype=torch.float64)
    gate, up = gate_up[:, :13], gate_up[:, 13:]
    got = swiglu(gate_up, multiple)
    torch.testing.assert_close(got[:, :13], gate * up / (1 + (-gate).exp()))
    assert got.shape == (5, 13 if multiple == 1 else 16)
    assert not got[:, 13:].any()


def by_window(q: Tensor, k: Tensor, v: Tensor, units: int) -> Tensor:
    """The definition, one window at a time."""
    sizes = [size for count, size in CLASSES for _ in range(count)] * units
    parts = [part.double().cpu().split(sizes) for part in (q, k, v)]
    return torch.cat([REFERENCE.attend(*window, False)[0] for window in zip(*parts, strict=True)])


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 2e-2)])
def test_windows_see_themselves_only(device: str, dtype: torch.dtype, tolerance: float) -> None:
    units = 3
    qkv = torch.randn(units * 20, 3, 2, 16).to(device, dtype)
    windows = Windows.of(units, CLASSES, qkv.device)
    expected_bounds = [0, 2, 5, 8, 12, 16, 20, 22]
    assert windows.bounds[:8].tolist() == expected_bounds
    assert (windows.bounds.dtype, len(windows.bounds)) == (torch.int32, units * 6 + 1)
    got = window_attention(*qkv.unbind(1), windows)
    want = by_window(*qkv.unbind(1), units)
    torch.testing.assert_close(got.double().cpu(), want, atol=tolerance, rtol=0)


@pytest.mark.parametrize("device", DEVICES)
def test_one_window_per_unit_is_one_call(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    shapes: list[tuple[int, ...]] = []
    attend = F.scaled_dot_product_attention

    def counted(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        shapes.append(tuple(q.shape))
        return attend(q, k, v)

    monkeypatch.setattr(F, "scaled_dot_product_attention", counted)
    qkv = torch.randn(2 * 7, 3, 4, 8, device=device)
    got = window_attention(*qkv.unbind(1), Windows.of(2, [(1, 7)], qkv.device))
    assert shapes == [(2, 4, 7, 8)]
    single = [REFERENCE.attend(*unit.double().unbind(1), False)[0] for unit in qkv.split(7)]
    torch.testing.assert_close(got.double(), torch.cat(single), atol=1e-5, rtol=0)


class OnGpu:
    """What choosing looks at."""

    def __init__(self, numel: int = 2**20, dtype: torch.dtype = torch.bfloat16) -> None:
        self.device, self.dtype, self.requires_grad = torch.device("cuda"), dtype, False
        self.numel = lambda: numel


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    kernels = ModuleType("kernels")
    kernels.__dict__["swiglu"] = lambda gate_up, width: None
    kernels.__dict__["rotate"] = lambda x, cos, sin: None
    monkeypatch.setattr(fused, "import_module", lambda name: kernels)
    monkeypatch.setattr(torch, "zeros", lambda *shape, **options: None)
    fused.load.cache_clear()
    yield kernels
    fused.load.cache_clear()


def test_fused_kernels_serve_large_half_precision_tensors(loaded: ModuleType) -> None:
    large: Any = OnGpu()
    assert fused.fused_for(large) is loaded
    large.requires_grad = True
    assert fused.fused_for(large) is None
    with torch.no_grad():
        assert fused.fused_for(large) is loaded
    small: Any = OnGpu(2**20 - 1)
    full: Any = OnGpu(dtype=torch.float32)
    assert fused.fused_for(small) is fused.fused_for(full) is None
    assert fused.fused_for(torch.empty(2**20, dtype=torch.bfloat16)) is None


@pytest.mark.parametrize("error", [ImportError, RuntimeError, OSError])
def test_without_a_working_triton_torch_serves(
    loaded: ModuleType, monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    def broken(gate_up: Tensor, width: int) -> None:
        raise error("no compiler")

    monkeypatch.setitem(loaded.__dict__, "swiglu", broken)
    large: Any = OnGpu()
    assert fused.fused_for(large) is None
    assert fused.load(torch.device("cuda")) == "no Triton kernels (no compiler)"


def compare(device: str, dtype: torch.dtype, tolerance: float) -> None:
    """The Triton kernels against what is done without them, in float64."""
    from spava_app.kernels import triton_elementwise

    def close(got: Tensor, want: Tensor) -> None:
        error = (got.double() - want).norm() / want.norm()
        assert error < tolerance, error  # NaN does not pass

    torch.manual_seed(0)
    for rows, heads, dim in ((5, 3, 80), (1, 1, 16), (7, 32, 128)):
        wide = torch.randn(rows, 2, heads + 1, dim).to(device, dtype)
        x = wide[:, 1, :heads]  # neither rows nor heads follow each other
        angles = torch.randn(rows, dim // 2, device=device)
        table = (angles.cos(), angles.sin())
        close(triton_elementwise.rotate(x, *table), apply_rotary(x.double(), table))
    for rows, inner, width in ((3, 20, 24), (2, 3420, 3424), (2, 5000, 5000), (1, 1, 8)):
        gate_up = torch.randn(rows, 2 * inner).to(device, dtype)
        got = triton_elementwise.swiglu(gate_up, width)
        assert got.shape == (rows, width)
        close(got, F.pad(swiglu(gate_up.double()), (0, width - inner)))


@pytest.mark.skipif(not find_spec("triton"), reason="needs Triton")
def test_triton_kernels_interpreted() -> None:
    """In a process of its own, because Triton asks for its interpreter when it is imported."""
    code = "import test_fused, torch; test_fused.compare('cpu', torch.float16, 1e-3)"
    environment = os.environ | {"TRITON_INTERPRET": "1"}
    environment["PYTHONPATH"] = os.pathsep.join([os.path.dirname(__file__), *sys.path])
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.skipif(not find_spec("triton"), reason="needs Triton")
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float16, 1e-3), (torch.bfloat16, 5e-3), (torch.float32, 1e-6)]
)
def test_triton_kernels(dtype: torch.dtype, tolerance: float) -> None:
    compare("cuda", dtype, tolerance)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_callers_use_them_on_large_tensors() -> None:
    x = torch.randn(4096, 8, 64, device="cuda", dtype=torch.bfloat16)
    angles = torch.randn(4096, 32, device="cuda")
    table = (angles.cos(), angles.sin())
    kernels = fused.fused_for(x)
    assert (kernels is not None) == bool(find_spec("triton"))
    want = apply_rotary(x.double(), table)
    assert (apply_rotary(x, table).double() - want).norm() / want.norm() < 5e-3
    flat = x.flatten(1)
    want = swiglu(flat.double(), 24)
    assert (swiglu(flat, 24).double() - want).norm() / want.norm() < 5e-3
