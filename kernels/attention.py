"""Softmax attention that always returns a true log-sum-exp, over one of several backends.

Tq, Tk = query and key rows, H = query heads, Hkv = KV heads, D = head dim. lse is the natural log
of the sum of exp of the scores scaled by D^-0.5, [H, Tq], float32 (float64 for float64 inputs).
"""

from types import ModuleType

import torch
from torch import Tensor

from spava_app.errors import InvalidInput
from spava_app.kernels import backend_sdpa, reference
from spava_app.kernels.lse import Partial, merge

# Fastest first: `auto` takes the first that supports the call.
BACKENDS: dict[str, ModuleType] = {module.NAME: module for module in (backend_sdpa, reference)}


def choose_backend(q: Tensor) -> str:
    """The name of the backend that `auto` takes for tensors like `q`."""
    return next(name for name, module in BACKENDS.items() if module.unsupported(q) is None)


def attention(q: Tensor, k: Tensor, v: Tensor, *, causal: bool, backend: str = "auto") -> Partial:
    """Attend `q` to `k` and `v`.

    Args:
        q: `[Tq, H, D]`.
        k, v: `[Tk, Hkv, D]`; H is a multiple of Hkv, each KV head serves H / Hkv consecutive query
            heads.
        causal: mask aligned to the bottom right: query row i sees keys 0 .. Tk - Tq + i.
        backend: a name of `BACKENDS`, or "auto".

    Returns:
        (out `[Tq, H, D]` in q's dtype, lse `[H, Tq]`). A row that sees no key has out 0 and lse
        -inf.

    Raises:
        InvalidInput: shapes or dtypes that do not fit together, an unknown backend, or one that
            cannot serve these tensors.
    """
    _check(q, k, v)
    if backend == "auto":
        backend = choose_backend(q)
    if backend not in BACKENDS:
        raise InvalidInput("backend", backend, f"choose auto or one of {', '.join(BACKENDS)}")
    module = BACKENDS[backend]
    if reason := module.unsupported(q):
        raise InvalidInput("backend", backend, reason)
    if not causal:
        return _full(module, q, k, v)
    return _bottom_right(module, q, k, v)


def _full(module: ModuleType, q: Tensor, k: Tensor, v: Tensor) -> Partial:
    if q.shape[0] == 0 or k.shape[0] == 0:
        lse_dtype = torch.promote_types(q.dtype, torch.float32)
        nothing = torch.full((q.shape[1], q.shape[0]), -torch.inf, dtype=lse_dtype, device=q.device)
        return torch.zeros_like(q), nothing
    return module.attention(q, k, v, causal=False)


def _bottom_right(module: ModuleType, q: Tensor, k: Tensor, v: Tensor) -> Partial:
    """Bottom-right causal from square causal and full calls, which every backend has."""
    prefix = k.shape[0] - q.shape[0]
    if prefix == 0 and q.shape[0]:
        return module.attention(q, k, v, causal=True)
    if prefix < 0:
        blind = _full(module, q[:-prefix], k[:0], v[:0])
        seeing = _bottom_right(module, q[-prefix:], k, v)
        return torch.cat((blind[0], seeing[0])), torch.cat((blind[1], seeing[1]), dim=1)
    before = _full(module, q, k[:prefix], v[:prefix])
    if q.shape[0] == 0:
        return before
    square = module.attention(q, k[prefix:], v[prefix:], causal=True)
    out, lse = merge((before, square))
    return out.to(q.dtype), lse


def _check(q: Tensor, k: Tensor, v: Tensor) -> None:
    shapes = f"q {tuple(q.shape)}, k {tuple(k.shape)}, v {tuple(v.shape)}"
    if not q.ndim == k.ndim == v.ndim == 3 or k.shape != v.shape or q.shape[2] != k.shape[2]:
        raise InvalidInput("q, k, v", shapes, "need q [Tq, H, D] and k, v [Tk, Hkv, D]")
    if k.shape[1] == 0 or q.shape[1] % k.shape[1]:
        raise InvalidInput("q, k, v", shapes, "query heads must be a multiple of KV heads")
    if not q.dtype == k.dtype == v.dtype or not q.is_floating_point():
        dtypes = f"q {q.dtype}, k {k.dtype}, v {v.dtype}"
        raise InvalidInput("q, k, v", dtypes, "need one floating-point dtype")
