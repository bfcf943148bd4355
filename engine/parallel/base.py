"""What a prefill method is, the registry of methods, and decoding, which is the same after all of
them.

H = query heads, Hkv = KV heads, D = head dim, T = local rows, W = ranks.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import partial
from importlib import import_module
from pkgutil import iter_modules
from typing import Any, ClassVar, Self

from torch import Tensor

from spava_app.engine.comm import Comm
from spava_app.engine.kv_cache import KVCache
from spava_app.engine.layout import Layout, PromptShape
from spava_app.engine.parallel.buffers import Buffers, HeadShape
from spava_app.engine.parallel.partials import merge_packed, pack_partial
from spava_app.engine.parallel.work import Call, Step, num_pairs
from spava_app.errors import InvalidInput
from spava_app.kernels.attention import BACKENDS, attention


@dataclass(frozen=True)
class Method(ABC):
    """A prefill method: its options as frozen fields, its layout, and one attention step per layer.

    A subclass in a file of this folder registers itself under `name`.

    Attributes:
        backend: attention kernel of the prefill, "auto" for the fastest that serves each call.
    """

    name: ClassVar[str]

    backend: str = "auto"

    def __post_init__(self) -> None:
        if self.backend not in {"auto", *BACKENDS}:
            fix = f"choose auto or one of {', '.join(BACKENDS)}"
            raise InvalidInput("backend", self.backend, fix)

    @classmethod
    def from_options(cls, options: Mapping[str, Any]) -> Self:
        """Build from user options.

        Raises:
            InvalidInput: an option this method does not have, or a value out of range.
        """
        known = [field.name for field in fields(cls)]
        for option, value in options.items():
            if option not in known:
                allowed = ", ".join(known) or "no options"
                raise InvalidInput(option, value, f"method {cls.name} takes {allowed}")
        return cls(**options)

    def layout(self, prompt: PromptShape, world_size: int) -> Layout:
        """Where the tokens of `prompt` live on `world_size` ranks.

        Raises:
            InvalidInput: options that do not fit this prompt, or more ranks than tokens.
        """
        if world_size > prompt.num_tokens:
            fix = f"the prompt has {prompt.num_tokens} tokens: use at most as many ranks"
            raise InvalidInput("ranks", world_size, fix)
        return self._layout(prompt, world_size)

    @abstractmethod
    def _layout(self, prompt: PromptShape, world_size: int) -> Layout: ...

    @abstractmethod
    def prefill(self, layout: Layout, comm: Comm, cache: KVCache) -> "Prefill":
        """The state of one request on this rank."""

    def check_heads(self, num_heads: int, num_kv_heads: int, world_size: int) -> None:
        """Raise InvalidInput where the method cannot run a model with so many heads."""
        if num_kv_heads < 1 or num_heads % num_kv_heads:
            fix = f"must be a multiple of the model's {num_kv_heads} KV heads"
            raise InvalidInput("num_heads", num_heads, fix)

    def attention_pairs(self, layout: Layout, rank: int) -> int:
        """Query-key pairs per head that `rank` computes in the prefill of one layer.

        Attention FLOPs are 4 x head dim x query heads x layers x pairs.
        """
        return num_pairs(self.steps(layout, rank, HeadShape(1, 1, 1, 1)))

    def steps(self, layout: Layout, rank: int, heads: HeadShape) -> Sequence[Step]:
        """What `rank` does in one layer of the prefill between projections and output. By default
        exact causal attention over its rows, all keys being there.
        """
        blocks = (layout.blocks[j] for j in layout.own(rank))
        return [Step(tuple(Call(len(block), block.stop, causal=True) for block in blocks))]

    def buffers(self, layout: Layout, rank: int, heads: HeadShape) -> Buffers:
        """What `rank` holds at the peak of `Prefill.attend`. By default the output alone."""
        return Buffers(layout.num_rows(rank) * (heads.q_row + heads.lse_row))


class Prefill(ABC):
    """One request's prefill on one rank: computes attention and fills the cache, layer by layer."""

    def __init__(self, method: Method, layout: Layout, comm: Comm, cache: KVCache) -> None:
        self.layout, self.comm, self.cache = layout, comm, cache
        self._attention = partial(attention, backend=method.backend)

    @abstractmethod
    def attend(
        self, layer: int, q: Tensor, k: Tensor, v: Tensor, key_scores: Tensor | None = None
    ) -> Tensor:
        """Attention of this rank's rows in one layer.

        Args:
            layer: the layer's index.
            q: rotated queries of `layout.rows(rank)`, `[T, H, D]`.
            k, v: rotated keys and values of the same rows, `[T, Hkv, D]`.
            key_scores: a retaining head's score of each row per KV head, `[Hkv, T]`; None for
                query-aware scores.

        Returns:
            `[T, H, D]` in q's dtype.
        """


class Decode:
    """Attention of one new token over the cache shards of all ranks; exact over what is cached.

    New tokens are cached round-robin, starting with the owner of the query.
    """

    def __init__(self, layout: Layout, comm: Comm, cache: KVCache) -> None:
        self.comm, self.cache = comm, cache
        self._keeper = layout.query_owner

    def next_token(self) -> None:
        """Call after each token: the next one is kept by the next rank."""
        self._keeper = (self._keeper + 1) % self.comm.world_size

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """As `Prefill.attend`, for the rows `[1, ...]` of one token, the same on every rank."""
        if self.comm.rank == self._keeper:
            self.cache.append(layer, k, v)
        part = attention(q, *self.cache.view(layer), causal=False)
        out, _ = merge_packed(self.comm.all_gather(pack_partial(part))())
        return out.to(q.dtype)


def methods() -> dict[str, type[Method]]:
    """All methods by name: every `Method` defined in a file of this folder."""
    package = __name__.rpartition(".")[0]
    for module in iter_modules(import_module(package).__path__):
        import_module(f"{package}.{module.name}")
    found: dict[str, type[Method]] = {}
    pending = Method.__subclasses__()
    while pending:
        cls = pending.pop()
        pending += cls.__subclasses__()
        if name := cls.__dict__.get("name"):
            found[name] = cls
    return dict(sorted(found.items()))


def make_method(name: str, options: Mapping[str, Any] | None = None) -> Method:
    """The method called `name` with `options`.

    Raises:
        InvalidInput: an unknown name or option, or a value out of range.
    """
    known = methods()
    if name not in known:
        raise InvalidInput("method", name, f"choose one of {', '.join(known)}")
    return known[name].from_options(options or {})
