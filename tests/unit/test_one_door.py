"""Where an artifact comes from is decided in one place: toolchain/providers.py."""

import re

import pytest

from config import paths

_DECIDES = re.compile(
    r"\bOrigin\.\w+ is\b|\bis (not )?(origin\.)?Origin\.|[=!]= (origin\.)?Origin\.|\.why_not\(|\bpolicy\(\)"
)
_MAY = {
    "toolchain/origin.py",
    "toolchain/providers.py",
    # Says for each file of the mirror where it came from.
    "toolchain/ledger.py",
    # Stand-ins also serve where a release that is reached cannot be installed.
    "toolchain/plugins.py",
}


def test_no_other_file_asks_where_an_artifact_comes_from() -> None:
    root = paths.checkout()
    files = [file for layer in ("toolchain", "cli", "live") for file in (root / layer).rglob("*.py")]
    found = {
        f"{file.relative_to(root)}: {line.strip()}"
        for file in files
        if str(file.relative_to(root)) not in _MAY
        for line in file.read_text().splitlines()
        if _DECIDES.search(line)
    }
    assert found == set()


@pytest.mark.parametrize(
    "line",
    [
        "if origin.of(url) is Origin.UPSTREAM:",
        "if entry.origin is not origin.Origin.SOURCE:",
        "if entry.origin == Origin.SOURCE:",
        "if origin.released(url).why_not():",
        "match origin.policy():",
    ],
)
def test_a_decision_elsewhere_is_found(line: str) -> None:
    assert _DECIDES.search(line)
