"""A sequence diagram in Mermaid, in the form that code hosting sites render."""

from collections.abc import Iterable

# Of Mermaid's syntax: a comment or the end of a statement, and what HTML would read.
_ESCAPED = {"#": "#35;", ";": "#59;", "<": "#lt;", ">": "#gt;", "\n": " "}


def sequence_diagram(messages: Iterable[tuple[str, str, str]]) -> str:
    """The text of a diagram; participants stand in the order of their first message.

    Args:
        messages: who sends or does something, to whom (the same name: to itself), and what, in words.
    """
    messages = list(messages)
    names: dict[str, str] = {}
    for source, target, _ in messages:
        for name in (source, target):
            names.setdefault(name, f"p{len(names)}")
    lines = ["sequenceDiagram", *(f"  participant {key} as {escape(name)}" for name, key in names.items())]
    lines += [f"  {names[source]}->>{names[target]}: {escape(what)}" for source, target, what in messages]
    return "\n".join(lines)


def escape(text: str) -> str:
    """A text in a diagram: without the characters that Mermaid would read as its own."""
    return "".join(_ESCAPED.get(character, character) for character in text).strip()
