import re
from pathlib import Path

from toolchain.versions import tools

CHECKOUT = Path(__file__).parents[2]
PIN = re.compile(r"([A-Za-z0-9_-]+)==(\S+)")


def pins(name: str) -> dict[str, str]:
    lines = [line for line in (CHECKOUT / name).read_text().splitlines() if line and not line.startswith("#")]
    matches = [PIN.fullmatch(line) for line in lines]
    assert all(matches), "every requirement is pinned"
    return {match[1]: match[2] for match in matches if match}


def test_sdks_are_of_the_versions_of_the_engine_and_the_plugins() -> None:
    runtime = pins("requirements.txt")
    assert runtime["pulumi"] == tools().pulumi
    assert {name: runtime[f"pulumi-{name}"] for name in tools().plugins} == dict(tools().plugins)


def test_no_package_is_pinned_twice() -> None:
    assert not pins("requirements.txt").keys() & pins("requirements-dev.txt").keys()
