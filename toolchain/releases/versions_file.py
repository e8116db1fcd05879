"""Changing versions.yaml as text: comments and layout stay, and what `git diff` shows is what is new."""

import copy
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from toolchain.errors import ToolchainError

Value = str | Mapping[str, "Value"]


@dataclass(frozen=True, kw_only=True)
class Edit:
    """One value that the file is to have, instead of the one that it has there, if any.

    Args:
        keys: where it is, from the top.
        value: a text, or a mapping of texts and mappings.
        first: whether a new version is inserted before the others instead of after them.
    """

    keys: tuple[str, ...]
    value: Value
    first: bool = False


def changed(text: str, edits: Sequence[Edit]) -> str:
    """The text with some values in their places; mappings in it must have a line for each key.

    Raises:
        ToolchainError: the text is laid out in another way.
    """
    expected: Any = yaml.safe_load(text)
    for edit in edits:
        text = _with(text, edit)
        _put(expected, edit)
        if _parsed(text) != expected:
            raise _unusual(edit)
    return text


def _parsed(text: str) -> Any:
    """The document; None where the text is none any more."""
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        return None


def _put(document: Any, edit: Edit) -> None:
    for key in edit.keys[:-1]:
        document = document[key]
    document[edit.keys[-1]] = copy.deepcopy(edit.value)


def _with(text: str, edit: Edit) -> str:
    lines = text.splitlines(keepends=True)
    start, end = 0, len(lines)
    for depth, key in enumerate(edit.keys[:-1]):
        at = _line_of(lines[:end], key, start, depth)
        if at is None:
            raise _unusual(edit)
        start, end = at + 1, _end(lines, at + 1, depth + 1)
    depth = len(edit.keys) - 1
    at = _line_of(lines[:end], edit.keys[-1], start, depth)
    if at is None:
        at = after = start if edit.first else end
    else:
        after = _end(lines, at + 1, depth + 1)
    return "".join([*lines[:at], _rendered(edit.keys[-1], edit.value, depth), *lines[after:]])


def _line_of(lines: Sequence[str], key: str, start: int, depth: int) -> int | None:
    found = re.compile(rf"{'  ' * depth}{re.escape(key)}:(\s|$)")
    return next((at for at in range(start, len(lines)) if found.match(lines[at])), None)


def _end(lines: Sequence[str], start: int, depth: int) -> int:
    """Where the lines end that are indented at least so far; empty lines after them are not among them."""
    end = start
    for at in range(start, len(lines)):
        if lines[at].startswith("  " * depth):
            end = at + 1
        elif lines[at].strip():
            break
    return end


def _rendered(key: str, value: Value, depth: int) -> str:
    indented = "  " * depth
    if isinstance(value, str):
        return f"{indented}{key}: {_scalar(value)}\n"
    return f"{indented}{key}:\n" + "".join(_rendered(name, inner, depth + 1) for name, inner in value.items())


def _scalar(text: str) -> str:
    # 1.35 would be a number.
    return text if yaml.safe_load(text) == text else f'"{text}"'


def _unusual(edit: Edit) -> ToolchainError:
    return ToolchainError(
        f"config/versions.yaml is laid out in an unusual way: there is no single line for {'.'.join(edit.keys)}. "
        "Write it as git has it, one line for each key, and run this again. Nothing was written."
    )
