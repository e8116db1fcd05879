"""What of the code of an image's recipe its hash is made of."""

import hashlib

import pytest

from toolchain.from_source.statements import statements

_CODE = '''"""What it is for."""

import re  # for names

_NAME = re.compile(r"[a-z]+#")
"""Of a thing."""


def greet(name: str, *, times: int = 2) -> str:
    """Greet."""
    # First the name.
    if not _NAME.match(name):
        return ""

    text = f"""{"#".join([name])!r} {name:>{times}} ü {{}}
  second line""" "third"
    return text * times + "# no comment"
'''


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ('"""What it is for."""', '"""What it is for, and\n\nwhy."""'),
        ('"""What it is for."""\n', ""),
        ('"""Of a thing."""', "'of' ' another'"),
        ('    """Greet."""\n', ""),
        ("# First the name.", "# Second."),
        ("    # First the name.\n", ""),
        ("  # for names", ""),
        ('        return ""\n', '        return ""\n\n\n# Less indented.\n'),
        ("name: str, *, times", "\n    name: str,\n    *,\n    times"),
    ],
)
def test_comments_docstrings_and_layout_are_not_part_of_it(before: str, after: str) -> None:
    changed = _CODE.replace(before, after, 1)

    assert changed != _CODE
    assert statements(changed) == statements(_CODE)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("[a-z]+#", "[a-z]+# "),
        ("times: int = 2", "times: int = 3"),
        ("# no comment", "# comment"),
        ("  second line", " second line"),
        ("{{}}", "{{ }}"),
        ("ü", "u"),
        ('        return ""\n\n    text', '        return ""\n\n        text'),
        ("    return text", "    f'{greet()}'\n    return text"),
        ("return text", "returntext"),
        ("    return text * times + ", "    return text * times\n    + "),
    ],
)
def test_each_statement_is_part_of_it(before: str, after: str) -> None:
    changed = _CODE.replace(before, after, 1)

    assert changed != _CODE
    assert statements(changed) != statements(_CODE)


def test_each_version_of_python_has_the_same_result() -> None:
    assert hashlib.sha256(statements(_CODE).encode()).hexdigest()[:12] == "70374d78383e"
