"""Convert frozen dataclasses to JSON objects and back.

Keys that a dataclass does not have are ignored, or kept in its field of :func:`unknown_keys`.
Missing keys take the field's default, so that files of older and newer releases stay readable.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import MISSING, field, fields, is_dataclass
from functools import cache
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, cast, get_args, get_origin, get_type_hints

JsonObject = dict[str, Any]
RecordT = TypeVar("RecordT")
Converter = Callable[[Any], Any]
MAX_NUMBER = 1e300
"""Larger integers cannot be converted to floats."""
MAX_KEY_LENGTH = 40
"""Characters of a key or value in messages."""
JSON_TYPE_NAMES: Mapping[type, str] = {
    NoneType: "null", bool: "a boolean", int: "a number", float: "a number", str: "a text",
    list: "a list", dict: "an object",
}  # fmt: skip


def json_field(
    default: Any = MISSING,
    *,
    key: str = "",
    optional: bool = False,
    none_as_empty: bool = False,
    required: bool = False,
) -> Any:
    """Declare a dataclass field with its own JSON representation.

    Args:
        default: the field's default.
        key: the key in JSON if it is not the name of the field.
        optional: omit the key if the value equals the default.
        none_as_empty: write ``{}`` for None.
        required: JSON without the key is refused, because the default would be unsafe.
    """
    metadata = {
        "key": key,
        "optional": optional,
        "none_as_empty": none_as_empty,
        "required": required,
    }
    if isinstance(default, dict):
        return field(default_factory=dict, metadata=metadata)
    return field(default=default, metadata=metadata)


def unknown_keys() -> Any:
    """Declare the field for keys that this release does not know, such as a newer one's.

    They are written again, so that a rewritten file keeps them. They do not affect equality.
    """
    return field(default_factory=dict, repr=False, compare=False, metadata={"unknown": True})


def to_json(record: Any) -> JsonObject:
    """Return a dataclass as a JSON object."""
    row: JsonObject = {}
    for item in fields(record):
        value = getattr(record, item.name)
        if item.metadata.get("unknown"):
            row = {**row, **{key: one for key, one in value.items() if key not in row}}
            continue
        if item.metadata.get("optional") and value == _default(item):
            continue
        if value is None and item.metadata.get("none_as_empty"):
            value = {}
        row[_json_key(item)] = _to_json_value(value)
    return row


def from_json(kind: type[RecordT], row: Mapping[str, Any]) -> RecordT:
    """Build a dataclass from a JSON object.

    Raises:
        TypeError: a required key is missing, or a value has the wrong type; the message has its
            path.
    """
    return value_from_json(kind, row)


def value_from_json(hint: type[RecordT], value: Any) -> RecordT:
    """Build a value of a type hint, such as ``dict[str, tuple[int, ...]]``, from JSON.

    Integers are accepted for floats, and whole floats for integers. ``Any`` accepts everything.

    Raises:
        TypeError: it has the wrong type; the message has the path.
    """
    try:
        return cast(RecordT, _converter(cast(Any, hint))(value))
    except _MismatchError as error:
        raise TypeError(f"{'.'.join(error.path) or 'it'} {error.problem}") from error


class _MismatchError(Exception):
    """A value has the wrong type; the path to it is completed while the error is passed on."""

    def __init__(self, problem: str) -> None:
        super().__init__(problem)
        self.problem = problem
        self.path: list[str] = []

    def under(self, key: object) -> _MismatchError:
        self.path.insert(0, str(key)[:MAX_KEY_LENGTH])
        return self


def _to_json_value(value: Any) -> Any:
    if is_dataclass(value):
        return to_json(value)
    if isinstance(value, Mapping):
        return {key: _to_json_value(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_to_json_value(item) for item in value]
    return value


def _json_key(item: Any) -> str:
    return str(item.metadata.get("key") or item.name)


def _is_required(item: Any) -> bool:
    has_default = item.default is not MISSING or item.default_factory is not MISSING
    return bool(item.metadata.get("required")) or not has_default


def _default(item: Any) -> Any:
    return item.default if item.default_factory is MISSING else item.default_factory()


@cache
def _converter(hint: Any) -> Converter:
    """Return the function that checks and converts JSON values of a type hint."""
    origin, arguments = get_origin(hint) or hint, get_args(hint)
    if origin in (Union, UnionType):
        return _union_converter(arguments)
    if origin is Literal:
        return _literal_converter(arguments)
    if is_dataclass(origin):
        return _record_converter(origin)
    if origin in (tuple, list):
        return _list_converter(origin, arguments[0] if arguments else Any)
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return _mapping_converter(*(arguments or (str, Any)))
    return {int: _to_int, float: _to_float, str: _to_text, bool: _to_boolean}.get(
        origin, lambda value: value
    )


def _record_converter(kind: Any) -> Converter:
    hints, items = get_type_hints(kind), fields(kind)
    unknown_name = next((item.name for item in items if item.metadata.get("unknown")), "")
    known = [
        (item.name, _json_key(item), _converter(hints[item.name]), _is_required(item))
        for item in items
        if item.name != unknown_name
    ]
    keys = {key for _, key, _, _ in known}

    def convert(row: Any) -> Any:
        _expect_object(row)
        values = {}
        for name, key, convert_value, is_required in known:
            if key in row:
                try:
                    values[name] = convert_value(row[key])
                except _MismatchError as error:
                    raise error.under(key) from None
            elif is_required:
                raise _MismatchError("is missing").under(key)
        if unknown_name:
            values[unknown_name] = {key: row[key] for key in row if key not in keys}
        return kind(**values)

    return convert


def _list_converter(kind: Any, hint: Any) -> Converter:
    convert_item = _converter(hint)

    def convert(value: Any) -> Any:
        if not isinstance(value, list | tuple):
            raise _MismatchError(f"is {_type_name(value)}, not a list")
        items = []
        for index, item in enumerate(value):
            try:
                items.append(convert_item(item))
            except _MismatchError as error:
                raise error.under(index) from None
        return kind(items)

    return convert


def _mapping_converter(key_hint: Any, hint: Any) -> Converter:
    convert_key, convert_item = _to_integer_key if key_hint is int else _to_text, _converter(hint)

    def convert(value: Any) -> Any:
        _expect_object(value)
        converted = {}
        for key, item in value.items():
            try:
                converted[convert_key(key)] = convert_item(item)
            except _MismatchError as error:
                raise error.under(key) from None
        return converted

    return convert


def _union_converter(hints: tuple[Any, ...]) -> Converter:
    inner = [hint for hint in hints if hint is not NoneType]
    is_optional, is_record = len(inner) < len(hints), is_dataclass(inner[0])
    *first, last = (_converter(hint) for hint in inner)

    def convert(value: Any) -> Any:
        if is_optional and (value is None or (is_record and value == {})):
            return None
        for convert_value in first:
            try:
                return convert_value(value)
            except _MismatchError:
                continue
        return last(value)

    return convert


def _literal_converter(values: tuple[Any, ...]) -> Converter:
    def convert(value: Any) -> Any:
        if value not in values:
            raise _MismatchError(f"has the unknown value {str(value)[:MAX_KEY_LENGTH]!a}")
        return value

    return convert


def _to_float(value: Any) -> float:
    """Check a number; it must be finite, because JSON responses cannot hold others."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _MismatchError(f"is {_type_name(value)}, not a number")
    if not -MAX_NUMBER < value < MAX_NUMBER:
        raise _MismatchError("is not a finite number")
    return value


def _to_int(value: Any) -> int:
    number = _to_float(value)
    if number != int(number):
        raise _MismatchError("is not a whole number")
    return int(number)


def _to_integer_key(key: Any) -> int:
    try:
        return int(key)
    except ValueError:
        raise _MismatchError("is not a number") from None


def _to_boolean(value: Any) -> bool:
    if not isinstance(value, bool):
        raise _MismatchError(f"is {_type_name(value)}, not a boolean")
    return value


def _to_text(value: Any) -> str:
    if not isinstance(value, str):
        raise _MismatchError(f"is {_type_name(value)}, not a text")
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:  # half of a surrogate pair
            raise _MismatchError("is not valid Unicode") from None
    return value


def _expect_object(value: Any) -> None:
    if not isinstance(value, Mapping):
        raise _MismatchError(f"is {_type_name(value)}, not an object")


def _type_name(value: Any) -> str:
    return JSON_TYPE_NAMES.get(type(value)) or type(value).__name__
