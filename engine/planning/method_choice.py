"""Which prefill method serves a prompt best: exact below the crossover, approximate above it.

W = ranks. The candidates are exact attention on one rank, by a ring or by heads, and spava with
2 W virtual hosts and multiples of that. The fastest prediction wins; where an exact method comes
within a twentieth, it does.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from spava_app.engine.layout import Layout, PromptShape
from spava_app.engine.parallel.base import Method, make_method, methods
from spava_app.errors import InvalidInput

AUTO = "auto"
EXACT = ("full", "zigzag_ring", "ulysses")
APPROXIMATE = "spava"
# What an approximation must save to be worth it, and more virtual hosts than fewer.
TIE = 1.05
# More virtual hosts cost more passing than they save, with the default lengths.
_MOST_HOSTS = 16


@dataclass(frozen=True)
class Variant:
    """A method with its options, as a request names them."""

    method: Method
    options: dict[str, Any]

    @property
    def exact(self) -> bool:
        return self.method.name != APPROXIMATE


@dataclass(frozen=True)
class MethodChoice:
    """The variant that serves a prompt, its layout, and why it was chosen, as a sentence."""

    variant: Variant
    layout: Layout
    why: str


def variants(
    method: str, options: Mapping[str, Any] | None, world_size: int
) -> tuple[Variant, ...]:
    """What can be chosen from: the method that was asked for, or for "auto" every candidate that
    takes the given options.

    Raises:
        InvalidInput: an unknown method, or options that it does not take.
    """
    if not isinstance(options, Mapping | None):
        raise InvalidInput("method_options", options, "give a dictionary of the method's options")
    options = options or {}
    if method not in (AUTO, *methods()):
        raise InvalidInput("method", method, f"choose auto or one of {', '.join(methods())}")
    if method != AUTO:
        return (_variant(method, options),)
    hosts: list[dict[str, Any]] = [{}]
    if "virtual_hosts" not in options:
        each = 2 * world_size
        hosts = [{"virtual_hosts": each * m} for m in range(1, max(2, _MOST_HOSTS // each + 1))]
    # Last, so that options that nobody takes are refused by the method that takes most.
    wanted = [{**options, **more} for more in hosts]
    spava = [_variant(APPROXIMATE, given) for given in wanted]
    exact = []
    for name in EXACT if world_size > 1 else EXACT[:1]:
        try:
            exact.append(_variant(name, options))
        except InvalidInput:
            continue  # it lacks an option that was asked for
    return (*exact, *spava)


def _variant(name: str, options: Mapping[str, Any]) -> Variant:
    method = make_method(name, options)
    # As the method has them: numbers of other libraries have become plain ones there.
    return Variant(method, {option: getattr(method, option) for option in options})


def choose(
    candidates: Sequence[Variant],
    shape: PromptShape,
    world_size: int,
    *,
    heads: tuple[int, int],
    seconds: Callable[[Method, Layout], float],
    fits: Callable[[Method, Layout], bool],
) -> MethodChoice | None:
    """The best of `candidates` for a prompt; None where no layout fits into memory.

    Args:
        heads: query and KV heads of the model.
        seconds: predicted for a prefill.
        fits: whether the ranks' memory suffices.

    Raises:
        InvalidInput: none of them can lay out this prompt on so many ranks.
    """
    usable: list[tuple[Variant, Layout]] = []
    refused: InvalidInput | None = None
    for variant in candidates:
        try:
            variant.method.check_heads(*heads, world_size)
            usable.append((variant, variant.method.layout(shape, world_size)))
        except InvalidInput as error:
            refused = refused or error
    if not usable and refused is not None:
        raise refused
    fitting = [(variant, layout) for variant, layout in usable if fits(variant.method, layout)]
    if not fitting:
        return None
    if len(candidates) == 1:
        return MethodChoice(*fitting[0], "asked for")
    timed = [(seconds(variant.method, layout), variant, layout) for variant, layout in fitting]
    took, variant, layout = _best(timed)
    others = [one for one in timed if one[1].exact != variant.exact]
    kind = "exact" if variant.exact else f"{len(layout.blocks)} virtual hosts"
    why = f"{kind}, prefill predicted to take {_told(took)}"
    if not others:
        left = "fits into memory" if len(fitting) < len(usable) else "takes the given options"
        return MethodChoice(variant, layout, f"{why}; nothing {_other(variant)} {left}")
    other_took, other, _ = min(others, key=lambda one: one[0])
    margin = ", less than 5 % faster" if variant.exact and other_took < took else ""
    return MethodChoice(variant, layout, f"{why}; {other.method.name} {_told(other_took)}{margin}")


def _told(seconds: float) -> str:
    return f"{seconds:.3f} s" if seconds < 1 else f"{seconds:.1f} s"


def _other(variant: Variant) -> str:
    return "approximate" if variant.exact else "exact"


def _best(timed: Sequence[tuple[float, Variant, Layout]]) -> tuple[float, Variant, Layout]:
    """The first that comes within `TIE` of the fastest: candidates go from exact to coarse. Among
    exact ones, the fastest.
    """
    limit = TIE * min(took for took, _, _ in timed)
    near = [one for one in timed if one[0] <= limit]
    exact = [one for one in near if one[1].exact]
    return min(exact, key=lambda one: one[0]) if exact else near[0]
