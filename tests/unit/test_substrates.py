"""The table of substrates: what depends on the substrate asks for a trait."""

import inspect
import re
import subprocess

import pytest

from components.substrate import Substrate
from components.substrates.operations import Operations
from config.settings import LabSettings
from config.substrates import SUBSTRATES, traits_of
from toolchain import paths

_BY_NAME = re.compile(rf"substrate\W+(?:[!=]=|(?:not )?in\b|is\b).*|case \(?\"(?:{'|'.join(SUBSTRATES)})\"")


def test_nothing_outside_the_table_compares_the_name_of_a_substrate() -> None:
    product = ("__main__.py", "bootstrap", "components", "config", "cli", "live", "toolchain", "benchmarks")
    listing = subprocess.run(
        ["git", "ls-files", *product], cwd=paths.checkout(), capture_output=True, text=True, check=True
    )
    files = [name for name in listing.stdout.split() if name.endswith(".py") and name != "config/substrates.py"]
    assert len(files) > 100
    lines = [
        f"{name}: {line.strip()}"
        for name in files
        for line in (paths.checkout() / name).read_text().splitlines()
        if _BY_NAME.search(line)
    ]
    assert lines == []


@pytest.mark.parametrize(
    "line", ['if settings.substrate == "gcp":', "if stack.substrate in ROOT:", 'case "libvirt", _:']
)
def test_a_comparison_by_name_is_found(line: str) -> None:
    assert _BY_NAME.search(line)


@pytest.mark.parametrize("name", SUBSTRATES)
def test_the_row_names_a_class_that_makes_machines(name: str) -> None:
    source = inspect.getsource(traits_of(name).load())
    assert set(Substrate.__annotations__) <= set(re.findall(r"self\.(\w+)(?::|,| =)", source))


@pytest.mark.parametrize("name", SUBSTRATES)
def test_the_row_names_operations(name: str) -> None:
    assert isinstance(traits_of(name).load_operations(), Operations)


def test_an_unknown_substrate_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"'containers', 'gcp', 'libvirt' or 'machines'"):
        traits_of("docker")
    with pytest.raises(ValueError, match=r"'containers', 'gcp', 'libvirt' or 'machines'"):
        LabSettings.model_validate({"substrate": "docker"})
