"""Dataclasses come back from JSON as they were."""

import json
from dataclasses import asdict, dataclass, field

import pytest

from spava_app.engine.serialization import from_plain


@dataclass(frozen=True)
class Part:
    size: tuple[int, int]
    names: tuple[str, ...] = ()


@dataclass(frozen=True)
class Whole:
    parts: tuple[Part, ...]
    by_rank: dict[int, Part]
    best: Part | None = None
    lengths: list[tuple[float, ...]] = field(default_factory=list)
    value: int | str | None = None


WHOLE = Whole(
    parts=(Part((1, 2), ("a",)), Part((3, 4))),
    by_rank={0: Part((5, 6)), 7: Part((7, 8))},
    best=Part((9, 9)),
    lengths=[(1.0, 2.5), ()],
    value="x",
)


@pytest.mark.parametrize("whole", [WHOLE, Whole((), {})])
def test_back_from_json(whole: Whole) -> None:
    assert from_plain(Whole, json.loads(json.dumps(asdict(whole)))) == whole


def test_other_versions_are_understood() -> None:
    assert from_plain(Part, {"size": [1, 2], "colour": "red"}) == Part((1, 2))
    with pytest.raises(TypeError, match="size"):
        from_plain(Part, {"names": []})
