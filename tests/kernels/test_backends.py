"""Which backend `auto` takes, what it says about the others, and packages that are not there."""

import sys
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from spava_app.errors import EngineError, InvalidInput
from spava_app.kernels.attention import BACKENDS, attention, choose_backend, visible_pairs
from spava_app.kernels.backends import base as backend
from spava_app.kernels.backends import flash_attn as backend_flash_attn
from spava_app.kernels.backends import reference
from spava_app.kernels.backends.base import Backend


def set_capability(monkeypatch: pytest.MonkeyPatch, *capability: int) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    backend._major_capability.cache_clear()


@pytest.fixture
def hopper(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As on an H200 without the flash-attn packages: enough for choosing, not for computing."""
    set_capability(monkeypatch, 9, 0)
    monkeypatch.setattr(torch.backends.cudnn, "version", lambda: 91900)
    monkeypatch.setattr(torch.version, "hip", None)
    for name in ("flash_attn", "flash_attn.cute", "flash_attn_interface"):
        monkeypatch.setitem(sys.modules, name, None)
    caches = (backend._major_capability, backend_flash_attn._load)
    for cache in caches:
        cache.cache_clear()
    yield
    for cache in caches:
        cache.cache_clear()


class OnGpu:
    """What choosing looks at: a device, a dtype and a shape."""

    def __init__(self, *shape: int, dtype: torch.dtype = torch.bfloat16) -> None:
        self.device, self.dtype, self.shape = torch.device("cuda"), dtype, torch.Size(shape)


def install(monkeypatch: pytest.MonkeyPatch, name: str, function: Callable[..., Any]) -> None:
    module = ModuleType(name)
    module.__dict__["flash_attn_func"] = function
    monkeypatch.setitem(sys.modules, name, module)
    if parent := name.rpartition(".")[0]:
        monkeypatch.setitem(sys.modules, parent, ModuleType(parent))


def flash(q: Tensor, k: Tensor, v: Tensor, causal: bool, return_lse: bool = False) -> Any:
    """A stand-in with FlashAttention-4's signature: batch first, bottom-right, lse on request."""
    out, lse = reference.BACKEND.attend(q[0], k[0], v[0], causal)
    return (out[None], lse[None]) if return_lse else out[None]


def test_on_cpu_auto_takes_sdpa_and_says_why_not_a_faster_one() -> None:
    q, k = torch.zeros(4, 2, 8), torch.zeros(9, 2, 8)
    choice = choose_backend(q, k, causal=True)
    assert (choice.name, choice.composed) == ("sdpa", True)
    assert not choose_backend(q, k[:4], causal=True).composed
    assert not choose_backend(q, k, causal=False).composed
    faster = ["flash_attn_4", "cudnn", "flash_attn_3", "flash_attn_2"]
    assert list(choice.passed_over) == faster
    assert all("not on cpu" in reason for reason in choice.passed_over.values())


def test_a_device_without_kernels_gets_the_reference() -> None:
    q = torch.zeros(4, 2, 8, device="meta")
    choice = choose_backend(q, q, causal=True)
    assert choice.name == "reference"
    assert "not on meta" in choice.passed_over["sdpa"]


@pytest.mark.usefixtures("hopper")
@pytest.mark.parametrize(
    ("q", "name", "why_not_cudnn"),
    [
        (OnGpu(9000, 28, 128), "cudnn", None),
        (OnGpu(1000, 28, 128), "sdpa", "others are faster below 5e+11 FLOPs, this is 7e+09"),
        (OnGpu(9000, 28, 128, dtype=torch.float32), "reference", "not in torch.float32"),
        (OnGpu(9000, 28, 256), "sdpa", "up to 128, not 256"),
        (OnGpu(9000, 28, 20), "reference", "not 20"),
    ],
)
def test_on_hopper(q: Any, name: str, why_not_cudnn: str | None) -> None:
    choice = choose_backend(q, q, causal=True)
    assert choice.name == name
    assert "cannot be imported" in choice.passed_over["flash_attn_4"] or why_not_cudnn
    if why_not_cudnn:
        assert why_not_cudnn in choice.passed_over["cudnn"]


@pytest.mark.usefixtures("hopper")
def test_older_and_newer_hardware_and_software(monkeypatch: pytest.MonkeyPatch) -> None:
    q: Any = OnGpu(9000, 28, 128)
    monkeypatch.setattr(torch.backends.cudnn, "version", lambda: 91000)
    choice = choose_backend(q, q, causal=True)
    assert (choice.name, choice.passed_over["cudnn"]) == (
        "sdpa",
        "needs cuDNN 91501, this is 91000",
    )
    set_capability(monkeypatch, 8, 0)
    choice = choose_backend(q, q, causal=True)
    assert (choice.name, choice.passed_over["cudnn"]) == (
        "sdpa",
        "needs compute capability 9, this GPU has 8",
    )
    set_capability(monkeypatch, 7, 5)
    assert choose_backend(q, q, causal=True).name == "reference"
    monkeypatch.setattr(torch.version, "hip", "7.0")
    choice = choose_backend(q, q, causal=True)
    assert (choice.name, "not on rocm" in choice.passed_over["sdpa"]) == ("reference", True)


@pytest.mark.usefixtures("hopper")
@pytest.mark.parametrize(
    ("module", "option", "chosen"),
    [
        ("flash_attn.cute", "return_lse", "flash_attn_4"),
        ("flash_attn_interface", "return_attn_probs", "cudnn"),
    ],
)
def test_installed_packages_are_found_and_ranked(
    monkeypatch: pytest.MonkeyPatch, module: str, option: str, chosen: str
) -> None:
    scope: dict[str, Any] = {}
    exec(f"def flash_attn_func(q, k, v, causal=False, {option}=False): ...", scope)
    install(monkeypatch, module, scope["flash_attn_func"])
    q: Any = OnGpu(9000, 28, 128)
    assert choose_backend(q, q, causal=True).name == chosen
    installed = {"flash_attn.cute": "flash_attn_4", "flash_attn_interface": "flash_attn_3"}[module]
    assert BACKENDS[installed].unsupported(q) is None


@pytest.mark.usefixtures("hopper")
def test_a_package_that_cannot_return_an_lse_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, "flash_attn.cute", lambda q, k, v, causal=False: q)
    q: Any = OnGpu(9000, 28, 128)
    reason = BACKENDS["flash_attn_4"].unsupported(q)
    assert reason is not None
    assert "has no return_lse" in reason
    assert choose_backend(q, q, causal=True).name == "cudnn"
    monkeypatch.setitem(BACKENDS, "sdpa", Backend("sdpa", lambda q: reason, flash_less))
    with pytest.raises(InvalidInput, match="has no return_lse"):
        attention(*[torch.zeros(2, 1, 8)] * 3, causal=False, backend="sdpa")


def flash_less(q: Tensor, k: Tensor, v: Tensor, causal: bool) -> Any:
    raise AssertionError("a backend that is not supported was called")


@pytest.mark.usefixtures("hopper")
@pytest.mark.parametrize(
    "result",
    [
        lambda q: q,
        lambda q: (q, None),
        lambda q: (q, torch.zeros(q.shape[1])),
        lambda q: (q, torch.zeros(1, q.shape[2], q.shape[1], dtype=torch.float16)),
    ],
)
def test_a_package_that_returns_no_lse_after_all_raises(
    monkeypatch: pytest.MonkeyPatch, result: Callable[[Tensor], Any]
) -> None:
    install(monkeypatch, "flash_attn.cute", lambda q, k, v, causal, return_lse: result(q))
    q = torch.zeros(4, 2, 8)
    with pytest.raises(EngineError, match="returned no lse"):
        BACKENDS["flash_attn_4"].attend(q, q, q, True)


@pytest.mark.usefixtures("hopper")
@pytest.mark.parametrize("lengths", [(5, 5), (3, 9), (9, 3), (1, 8), (0, 3), (3, 0)])
def test_flash_attn_is_called_once_with_its_own_causal_mask(
    monkeypatch: pytest.MonkeyPatch, lengths: tuple[int, int]
) -> None:
    calls: list[tuple[int, int]] = []

    def counted(q: Tensor, k: Tensor, v: Tensor, causal: bool, return_lse: bool) -> Any:
        calls.append((q.shape[1], k.shape[1]))
        return flash(q, k, v, causal, return_lse)

    install(monkeypatch, "flash_attn.cute", counted)
    installed = BACKENDS["flash_attn_4"]
    on_cpu = Backend(installed.name, lambda q: None, installed.attend, bottom_right=True)
    monkeypatch.setitem(BACKENDS, "flash_attn_4", on_cpu)
    q, k = torch.randn(lengths[0], 4, 8), torch.randn(lengths[1], 2, 8)
    found = attention(q, k, k, causal=True, backend="flash_attn_4")
    expected = attention(q, k, k, causal=True, backend="reference")
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)
    # Never rows that see nothing: the packages return lse +inf for them, not -inf.
    rows = min(lengths)
    assert calls == ([(rows, lengths[1])] if rows else [])


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("lengths", [(3, 3), (2, 7), (7, 2), (0, 4), (4, 0), (1, 1)])
def test_visible_pairs_are_those_of_the_mask(lengths: tuple[int, int], causal: bool) -> None:
    rows, keys = lengths
    seen = [keys - rows + row + 1 if causal else keys for row in range(rows)]
    assert visible_pairs(rows, keys, causal=causal) == sum(max(0, n) for n in seen)
