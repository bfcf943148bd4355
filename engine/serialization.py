"""Dataclasses from the plain values that JSON gives back."""

import types
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

T = TypeVar("T")


def from_plain(kind: type[T], value: Any) -> T:
    """What `dataclasses.asdict` was given, with JSON between.

    Nested dataclasses and tuples come back as the fields' types say. A field that is missing takes
    its default, and what is no field is passed over, so that another version is understood as far
    as it can be.

    Raises:
        TypeError: a field without a default is missing.
    """
    return _made(kind, value)


def _made(kind: Any, value: Any) -> Any:
    if is_dataclass(kind) and isinstance(kind, type) and isinstance(value, Mapping):
        types_of = get_type_hints(kind)
        given = {field.name for field in fields(kind) if field.init} & value.keys()
        return kind(**{name: _made(types_of[name], value[name]) for name in given})
    origin, inner = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        others = [one for one in inner if one is not types.NoneType]
        return _made(others[0], value) if value is not None and len(others) == 1 else value
    if isinstance(value, list):
        return _several(origin or kind, inner, value)
    if isinstance(value, Mapping) and len(inner) == 2:
        return {_key(inner[0], key): _made(inner[1], one) for key, one in value.items()}
    return value


def _several(origin: Any, inner: tuple[Any, ...], value: list[Any]) -> Any:
    if origin is tuple and len(inner) == len(value) and Ellipsis not in inner:
        return tuple(_made(kind, one) for kind, one in zip(inner, value, strict=True))
    made = [_made(inner[0] if inner else Any, one) for one in value]
    return tuple(made) if origin is tuple else made


def _key(kind: Any, key: str) -> Any:
    return int(key) if kind is int else key
