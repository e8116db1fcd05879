"""Property values as plain Python: dict, list, str, float, bool, and two of their own, Secret and UNKNOWN.

Source: the protocol's special signatures, `sdk/go/common/resource/properties.go` in Pulumi.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from google.protobuf.struct_pb2 import NULL_VALUE, ListValue, Struct, Value

Properties = dict[str, Any]

_SIGNATURE = "4dabf18193072939515e22adb298388d"
_SECRET = "1b47061264138c4ac30d75fd1eb44270"
_UNKNOWN = "04da6b54-80e4-46f7-96ec-b56ff0331ba9"


class Unknown:
    """A value that is not known before the update."""

    def __repr__(self) -> str:
        return "UNKNOWN"


UNKNOWN = Unknown()


@dataclass(frozen=True)
class Secret:
    """A value that the engine encrypts in the state and hides on the screen."""

    value: Any

    def __repr__(self) -> str:
        return "Secret(...)"


def decode(struct: Struct) -> Properties:
    """Make Python values of a message's; absent and null are the same to Pulumi, so nulls are left out."""
    decoded = {name: _decode(value) for name, value in struct.fields.items()}
    return {name: value for name, value in decoded.items() if value is not None}


def _decode(value: Value) -> Any:
    match value.WhichOneof("kind"):
        case "struct_value":
            fields = value.struct_value.fields
            if _SIGNATURE in fields and fields[_SIGNATURE].string_value == _SECRET:
                return Secret(_decode(fields["value"]))
            return decode(value.struct_value)
        case "list_value":
            return [_decode(item) for item in value.list_value.values]
        case "string_value":
            return UNKNOWN if value.string_value == _UNKNOWN else value.string_value
        case "number_value":
            return value.number_value
        case "bool_value":
            return value.bool_value
        case _:
            return None


def encode(properties: Mapping[str, Any]) -> Struct:
    """Make a message of Python values."""
    return Struct(fields={name: _encode(value) for name, value in properties.items() if value is not None})


def _encode(value: Any) -> Value:
    match value:
        case Secret():
            wrapped = {_SIGNATURE: Value(string_value=_SECRET), "value": _encode(value.value)}
            return Value(struct_value=Struct(fields=wrapped))
        case Unknown():
            return Value(string_value=_UNKNOWN)
        case bool():
            return Value(bool_value=value)
        case int() | float():
            return Value(number_value=value)
        case str():
            return Value(string_value=value)
        case list():
            return Value(list_value=ListValue(values=[_encode(item) for item in value]))
        case dict():
            return Value(struct_value=encode(value))
        case None:
            return Value(null_value=NULL_VALUE)
        case _:
            raise TypeError(f"a property cannot be a {type(value).__name__}")


def revealed(value: Any) -> Any:
    """The same value without its marks of secrecy, for the one who needs to use it."""
    match value:
        case Secret():
            return revealed(value.value)
        case dict():
            return {name: revealed(item) for name, item in value.items()}
        case list():
            return [revealed(item) for item in value]
        case _:
            return value


def changes(old: Any, new: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """Each place where two values differ: its path, and whether it was added, deleted or updated there."""
    if isinstance(old, dict) and isinstance(new, dict):
        for name in old | new:
            yield from changes(old.get(name), new.get(name), f"{path}.{name}" if path else name)
    elif isinstance(old, list) and isinstance(new, list):
        for index in range(max(len(old), len(new))):
            before = old[index] if index < len(old) else None
            after = new[index] if index < len(new) else None
            yield from changes(before, after, f"{path}[{index}]")
    elif old != new:
        yield path, "ADD" if old is None else "DELETE" if new is None else "UPDATE"
