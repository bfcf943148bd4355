"""Settings of a JSON object, each checked as it is read: an error names the key, the value and what
is allowed, and `in_file` adds the file.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

from spava_app.errors import CheckpointError, finite_number

# Beyond these a size is no size: products of two must not overflow, and layers are made one by one.
MOST_COUNT, MOST_LAYERS, MOST_POSITIONS = 2**24, 2**11, 2**40


class Settings:
    """A JSON object with the defaults of its kind.

    Args:
        values: the object.
        defaults: of keys that it may leave out; a key without one is required.
        name: of the object inside its file, empty for the whole; for errors.
    """

    def __init__(
        self, values: Mapping[str, Any], defaults: Mapping[str, Any] | None = None, name: str = ""
    ) -> None:
        self._values, self._defaults, self._name = values, defaults or {}, name

    def __contains__(self, key: str) -> bool:
        return self._values.get(key) is not None

    def items(self) -> Iterable[tuple[str, Any]]:
        """What stands in the file."""
        return self._values.items()

    def null(self, key: str) -> bool:
        """Whether the file has null for it, which for a few settings is not as left out."""
        return key in self._values and self._values[key] is None

    def raw(self, key: str, default: Any = None) -> Any:
        """The value as it stands in the file; null counts as left out."""
        value = self._values.get(key)
        return self._defaults.get(key, default) if value is None else value

    def with_defaults(self, defaults: Mapping[str, Any]) -> "Settings":
        """The same object with other defaults."""
        return Settings(self._values, defaults, self._name)

    def part(self, key: str, defaults: Mapping[str, Any] | None = None) -> "Settings":
        """A nested object; an empty one where it is left out."""
        value = self.raw(key, {})
        if not isinstance(value, Mapping):
            self.refuse(key, "must be an object")
        return Settings(value, defaults, f"{self._name}{key}.")

    def count(self, key: str, *, most: int = MOST_COUNT) -> int:
        """A positive whole number."""
        value = self._needed(key)
        if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most:
            self.refuse(key, f"must be a whole number from 1 to {most}")
        return value

    def number(self, key: str, *, above: float = 0.0, most: float = MOST_COUNT) -> float:
        """A number above `above` and at most `most`."""
        value = self._needed(key)
        number = None if isinstance(value, str) else finite_number(value)
        if number is None or not above < number <= most:
            self.refuse(key, f"must be a number above {above:g} and at most {most:g}")
        return float(number)

    def flag(self, key: str) -> bool:
        """True or false."""
        value = self._needed(key)
        if not isinstance(value, bool):
            self.refuse(key, "must be true or false")
        return value

    def counts(self, key: str, *, least: int = 1) -> tuple[int, ...]:
        """A list of whole numbers of at least `least`."""
        value = self._needed(key)
        good = isinstance(value, list | tuple) and all(
            isinstance(it, int) and not isinstance(it, bool) and least <= it <= MOST_COUNT
            for it in value
        )
        if not good:
            self.refuse(key, f"must be a list of whole numbers of at least {least}")
        return tuple(value)

    def side(self, key: str) -> int:
        """A positive whole number, or a list of equal ones: the side of a square."""
        value = self._needed(key)
        if isinstance(value, list | tuple):
            sides = self.counts(key)
            if len(set(sides)) != 1:
                self.refuse(key, "only squares are supported")
            return sides[0]
        return self.count(key)

    def only(self, key: str, supported: Any) -> None:
        """Raise CheckpointError unless the setting has the one value that is supported."""
        value = self.raw(key, supported)
        if value != supported:
            self.refuse(key, f"only {supported!r} is supported")

    def refuse(self, key: str, fix: str) -> NoReturn:
        """Raise the CheckpointError that names `key`, its value and the fix."""
        raise CheckpointError(f"{self._name}{key}", self.raw(key), fix)

    def _needed(self, key: str) -> Any:
        value = self._values.get(key)
        if value is not None:
            return value
        if key not in self._defaults:
            raise CheckpointError(f"{self._name}{key}", None, "is missing")
        return self._defaults[key]


@contextmanager
def in_file(file: str | Path) -> Iterator[None]:
    """Add `file` to a CheckpointError about one of its keys."""
    try:
        yield
    except CheckpointError as error:
        if error.field == "model":
            raise
        if error.fix == "is missing":
            raise CheckpointError("model", str(file), f"lacks {error.field}") from error
        raise CheckpointError("model", str(file), str(error)) from error
