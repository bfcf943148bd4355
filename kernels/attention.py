"""Softmax attention that always returns a true log-sum-exp, over one of several backends.

Tq, Tk = query and key rows, H = query heads, Hkv = KV heads, D = head dim. lse is the natural log
of the sum of exp of the scores scaled by D^-0.5, [H, Tq], float32 (float64 for float64 inputs).
"""

from typing import NamedTuple

import torch
from torch import Tensor

from spava_app.errors import InvalidInput
from spava_app.kernels.backends import cudnn, reference, sdpa
from spava_app.kernels.backends.base import Backend, loadable
from spava_app.kernels.backends.flash_attn import FLASH_ATTN_2, FLASH_ATTN_3, FLASH_ATTN_4
from spava_app.kernels.lse import Partial, merge

# Fastest first on many rows (docs/performance.md): `auto` takes the first that supports the call.
BACKENDS: dict[str, Backend] = {
    backend.name: backend
    for backend in (
        FLASH_ATTN_4,
        cudnn.BACKEND,
        FLASH_ATTN_3,
        FLASH_ATTN_2,
        sdpa.BACKEND,
        reference.BACKEND,
    )
}


class BackendChoice(NamedTuple):
    """What `auto` takes for a call.

    Attributes:
        name: the backend.
        composed: its causal mask is for square calls only, so this call is made of two.
        passed_over: why not a faster one, by name.
    """

    name: str
    composed: bool
    passed_over: dict[str, str]


def choose_backend(q: Tensor, k: Tensor, *, causal: bool) -> BackendChoice:
    """What `auto` takes for this call; shapes as in `attention`."""
    passed_over: dict[str, str] = {}
    flops = 4 * q.shape[1] * q.shape[2] * visible_pairs(q.shape[0], k.shape[0], causal=causal)
    for name, backend in BACKENDS.items():
        reason = backend.unsupported(q)
        if reason is None and flops < backend.least_flops:
            reason = f"others are faster below {backend.least_flops:.0e} FLOPs, this is {flops:.0e}"
        if reason is None:
            composed = causal and q.shape[0] < k.shape[0] and not backend.bottom_right
            return BackendChoice(name, composed, passed_over)
        passed_over[name] = reason
    raise InvalidInput("backend", "auto", f"none supports this call: {passed_over}")


def visible_pairs(query_rows: int, keys: int, *, causal: bool) -> int:
    """Query-key pairs that the mask leaves."""
    if not causal:
        return query_rows * keys
    seeing = min(query_rows, keys)
    return seeing * keys - seeing * (seeing - 1) // 2


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
        InvalidInput: shapes, dtypes or devices that do not fit together, an unknown backend, or one
            that cannot serve these tensors.
    """
    _check(q, k, v)
    if backend == "auto":
        backend = choose_backend(q, k, causal=causal).name
    elif backend not in BACKENDS:
        raise InvalidInput("backend", backend, f"choose auto or one of {', '.join(BACKENDS)}")
    elif reason := BACKENDS[backend].unsupported(q):
        raise InvalidInput("backend", backend, reason)
    compute = _bottom_right if causal else _full
    return compute(BACKENDS[backend], loadable(q), loadable(k), loadable(v))


def _full(backend: Backend, q: Tensor, k: Tensor, v: Tensor) -> Partial:
    if q.shape[0] == 0 or k.shape[0] == 0:
        lse_dtype = torch.promote_types(q.dtype, torch.float32)
        nothing = torch.full((q.shape[1], q.shape[0]), -torch.inf, dtype=lse_dtype, device=q.device)
        return torch.zeros_like(q), nothing
    return backend.attend(q, k, v, False)


def _bottom_right(backend: Backend, q: Tensor, k: Tensor, v: Tensor) -> Partial:
    """Bottom-right causal, of a square causal and a full call where the backend needs that.

    Rows that see nothing are never handed to a backend: what kernels return for them differs.
    """
    prefix = k.shape[0] - q.shape[0]
    if prefix < 0:
        blind = _full(backend, q[:-prefix], k[:0], v[:0])
        seeing = _bottom_right(backend, q[-prefix:], k, v)
        return torch.cat((blind[0], seeing[0])), torch.cat((blind[1], seeing[1]), dim=1)
    if q.shape[0] == 0:
        return _full(backend, q, k, v)
    if prefix == 0 or backend.bottom_right:
        return backend.attend(q, k, v, True)
    before = backend.attend(q, k[:prefix], v[:prefix], False)
    square = backend.attend(q, k[prefix:], v[prefix:], True)
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
    if not q.device == k.device == v.device:
        devices = f"q {q.device}, k {k.device}, v {v.device}"
        raise InvalidInput("q, k, v", devices, "need one device")
