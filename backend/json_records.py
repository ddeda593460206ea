"""Convert frozen dataclasses to JSON objects and back.

Keys that a dataclass does not have are ignored, and missing keys take the field's default, so
that files of older and newer releases stay readable.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, field, fields, is_dataclass
from functools import cache
from types import NoneType, UnionType
from typing import Any, TypeVar, Union, cast, get_args, get_origin, get_type_hints

JsonObject = dict[str, Any]
RecordT = TypeVar("RecordT")


def json_field(
    default: Any = MISSING, *, key: str = "", optional: bool = False, none_as_empty: bool = False
) -> Any:
    """Declare a dataclass field with its own JSON representation.

    Args:
        default: the field's default.
        key: the key in JSON if it is not the name of the field.
        optional: omit the key if the value equals the default.
        none_as_empty: write ``{}`` for None.
    """
    metadata = {"key": key, "optional": optional, "none_as_empty": none_as_empty}
    if isinstance(default, dict):
        return field(default_factory=dict, metadata=metadata)
    return field(default=default, metadata=metadata)


def to_json(record: Any) -> JsonObject:
    """Return a dataclass as a JSON object."""
    row: JsonObject = {}
    for item in fields(record):
        value = getattr(record, item.name)
        if item.metadata.get("optional") and value == _default(item):
            continue
        if value is None and item.metadata.get("none_as_empty"):
            value = {}
        row[item.metadata.get("key") or item.name] = _to_json_value(value)
    return row


def from_json(kind: type[RecordT], row: Mapping[str, Any]) -> RecordT:
    """Build a dataclass from a JSON object.

    Raises:
        TypeError: a required key is missing, or a nested value has the wrong shape.
    """
    if not isinstance(row, Mapping):
        raise TypeError(f"expected an object, found {type(row).__name__}")
    hints, values = _type_hints(cast(Any, kind)), {}
    for item in fields(cast(Any, kind)):
        key = item.metadata.get("key") or item.name
        if key in row:
            values[item.name] = _from_json_value(hints[item.name], row[key])
    return kind(**values)


@cache
def _type_hints(kind: Any) -> dict[str, Any]:
    return get_type_hints(kind)


def _default(item: Any) -> Any:
    return item.default if item.default_factory is MISSING else item.default_factory()


def _to_json_value(value: Any) -> Any:
    if is_dataclass(value):
        return to_json(value)
    if isinstance(value, Mapping):
        return {key: _to_json_value(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_to_json_value(item) for item in value]
    return value


def _from_json_value(hint: Any, value: Any) -> Any:
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType) and NoneType in arguments:
        inner = next(argument for argument in arguments if argument is not NoneType)
        if value is None or (is_dataclass(inner) and not value):
            return None
        return _from_json_value(inner, value)
    if is_dataclass(hint):
        return from_json(cast(type, hint), value)
    if origin is tuple:
        return tuple(_from_json_value(arguments[0], item) for item in value)
    if origin is not None and issubclass(origin, Mapping):
        if not isinstance(value, Mapping):
            raise TypeError(f"expected an object, found {type(value).__name__}")
        return {key: _from_json_value(arguments[1], item) for key, item in value.items()}
    return value
