"""What the ranks of a GPU group run: a method in bfloat16 beside itself in float32."""

import torch
from torch import Tensor

from spava_app.engine.comm import Comm
from spava_app.engine.kv_cache import KVCache
from spava_app.engine.layout import PromptShape
from spava_app.engine.multimodal.unit_sharding import indices
from spava_app.engine.parallel.base import Decode, make_method

HEADS = (28, 4, 128)  # Qwen2.5-VL-7B
LAYERS = 4


def relative_errors(
    comm: Comm, name: str, backend: str, num_tokens: int, query_len: int
) -> dict[str, float]:
    """How far prefill and one decoded token in bfloat16 lie from float32, as norm over norm.

    Both runs get the same values (float32 numbers that bfloat16 can hold), lay them out and select
    alike, so what is left is the kernel's rounding. Peak memory in GiB comes with it.
    """
    torch.cuda.reset_peak_memory_stats()
    generator = torch.Generator("cuda").manual_seed(0)
    shapes = [(num_tokens + 1, heads, HEADS[2]) for heads in (HEADS[0], HEADS[1], HEADS[1])]
    q, k, v = (
        torch.randn(shape, generator=generator, device="cuda", dtype=torch.bfloat16)
        for shape in shapes
    )
    fast, fast_new = _run(comm, name, backend, query_len, q, k, v)
    peak = torch.cuda.max_memory_allocated() / 2**30
    exact, exact_new = _run(comm, name, "reference", query_len, q.float(), k.float(), v.float())
    return {
        "prefill": _error(fast, exact),
        "decode": _error(fast_new, exact_new),
        "rows": float(fast.shape[1]),
        "GiB": peak,
    }


def _error(ours: Tensor, theirs: Tensor) -> float:
    if not theirs.numel():
        return 0.0
    return float((ours.float() - theirs).norm() / theirs.norm())


def overlap_changes_nothing(comm: Comm, name: str, num_tokens: int, query_len: int) -> bool:
    """Whether a method gives the same bits when it computes while its gathers travel.

    Four layers back to back, without waiting for the device: a buffer that is reused while it is
    still being sent or received would show.
    """
    generator = torch.Generator("cuda").manual_seed(1)
    q, k, v = (
        torch.randn(num_tokens + 1, heads, HEADS[2], generator=generator, device="cuda").bfloat16()
        for heads in (HEADS[0], HEADS[1], HEADS[1])
    )
    options = {"virtual_hosts": 3 * comm.world_size, "share_anchor": False}
    overlapped = _run(comm, name, "auto", query_len, q, k, v, **options)
    waiting = _run(comm, name, "auto", query_len, q, k, v, overlap=False, **options)
    return all(torch.equal(one, other) for one, other in zip(overlapped, waiting, strict=True))


def _run(
    comm: Comm,
    name: str,
    backend: str,
    query_len: int,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    **options: object,
) -> tuple[Tensor, Tensor]:
    """Four layers of prefill and a decoded token; each layer has the values rolled by its index."""
    n = len(q) - 1
    method = make_method(name, {"backend": backend, **options})
    layout = method.layout(PromptShape(n, query_len), comm.world_size)
    capacity = layout.num_cached(comm.rank) + 1
    cache = KVCache(LAYERS, capacity, HEADS[1], HEADS[2], dtype=q.dtype, device="cuda")
    rows = indices(layout.rows(comm.rank)).cuda()
    prefill, decode = method.prefill(layout, comm, cache), Decode(layout, comm, cache)
    outs, news = [], []
    for layer in range(LAYERS):
        local_q, local_k, local_v = (x.roll(layer, dims=-1)[rows] for x in (q, k, v))
        outs.append(prefill.attend(layer, local_q, local_k, local_v))
    for layer in range(LAYERS):
        new_q, new_k, new_v = (x[n:].roll(layer, dims=-1) for x in (q, k, v))
        news.append(decode.attend(layer, new_q, new_k, new_v))
    torch.cuda.synchronize()
    return torch.stack(outs), torch.stack(news)
