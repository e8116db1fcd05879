"""The requirements of the program, development, the policy pack and `view`: made of the lists, with checksums."""

import re
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from toolchain.versions import tools

CHECKOUT = Path(__file__).parents[2]
PIN = re.compile(r"([A-Za-z0-9_.-]+)==([^ ;]+)")
NAMES = ("requirements", "requirements-dev", "policy/requirements", "live/view/requirements")


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


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("requirements.txt", "requirements-dev.txt"),
        # The packages of `view` are imported beside the program's, and in tests beside those of development.
        ("requirements.txt", "live/view/requirements.txt"),
        ("requirements-dev.txt", "live/view/requirements.txt"),
    ],
)
def test_no_package_is_pinned_to_two_versions(first: str, second: str) -> None:
    one, other = pins(first), pins(second)
    both = one.keys() & other.keys()
    assert {name: one[name] for name in both} == {name: other[name] for name in both}


def test_the_packages_of_view_have_all_that_they_need_beside_the_programs() -> None:
    """They are installed without dependencies, since Django is not needed: these are the server's."""
    available = pins("requirements.txt").keys() | pins("live/view/requirements.txt").keys()
    for name in pins("live/view/requirements.txt").keys() - {"django-htmx"}:
        needed = [Requirement(each) for each in metadata.requires(name) or ()]
        missing = [each.name for each in needed if not each.marker or each.marker.evaluate({"extra": ""})]
        assert {canonicalize_name(each) for each in missing} <= {canonicalize_name(each) for each in available}, name
