"""The requirements of the program, development and the policy pack: made of the lists, with checksums."""

import re
from pathlib import Path

import pytest

from toolchain.versions import tools

CHECKOUT = Path(__file__).parents[2]
PIN = re.compile(r"([A-Za-z0-9_.-]+)==([^ ;]+)")
NAMES = ("requirements", "requirements-dev", "policy/requirements")


def requirements(name: str) -> list[str]:
    """Each requirement of a file on one line, with its checksums."""
    text = (CHECKOUT / name).read_text().replace("\\\n", " ")
    return [line for line in text.splitlines() if line and not line.startswith(("#", "--constraint"))]


def pins(name: str) -> dict[str, str]:
    """Package, as the package index writes it, -> version."""
    matches = [PIN.match(line) for line in requirements(name)]
    assert all(matches), "every requirement is pinned"
    return {re.sub(r"[-_.]+", "-", match[1]).lower(): match[2] for match in matches if match}


def test_sdks_are_of_the_versions_of_the_engine_and_the_plugins() -> None:
    runtime = pins("requirements.txt")
    assert runtime["pulumi"] == pins("policy/requirements.txt")["pulumi"] == tools().pulumi
    assert {name: runtime[f"pulumi-{name}"] for name in tools().plugins} == {
        name: plugin.version for name, plugin in tools().plugins.items()
    }


@pytest.mark.parametrize("name", NAMES)
def test_every_requirement_has_checksums(name: str) -> None:
    for line in requirements(f"{name}.txt"):
        assert re.fullmatch(r"[^ ]+( ; [^#]*?)?( +--hash=sha256:[0-9a-f]{64})+", line.strip()), line


@pytest.mark.parametrize("name", NAMES)
def test_the_files_are_made_of_the_lists(name: str) -> None:
    """A list that was changed without its file, or the reverse."""
    assert pins(f"{name}.in").items() <= pins(f"{name}.txt").items()


def test_no_package_is_pinned_to_two_versions() -> None:
    runtime, development = pins("requirements.txt"), pins("requirements-dev.txt")
    both = runtime.keys() & development.keys()
    assert {name: runtime[name] for name in both} == {name: development[name] for name in both}
