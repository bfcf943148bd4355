"""Settings of JSON files, changed one by one."""

import copy
from collections.abc import Iterator
from typing import Any

DROPPED = object()


def keys_of(content: dict[str, Any], before: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The keys of a JSON object and of the objects in it, each as a path."""
    for key, value in content.items():
        yield (*before, key)
        if isinstance(value, dict) and key != "added_tokens_decoder":
            yield from keys_of(value, (*before, key))


def changed(content: dict[str, Any], keys: tuple[str, ...], value: Any) -> dict[str, Any]:
    """A copy with the value at a path changed."""
    content = copy.deepcopy(content)
    part = content
    for key in keys[:-1]:
        part = part[key]
    if value is DROPPED:
        del part[keys[-1]]
    else:
        part[keys[-1]] = value
    return content
