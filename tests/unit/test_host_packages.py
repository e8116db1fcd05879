"""Which Debian packages a machine gets: those that something on it needs."""

import re

import pytest

from components.host import node_packages
from unit.mocked_engine import Run


def packages_of(run: Run, step: str) -> set[str]:
    found = re.search(r"^packages (.*)$", run.script(step), re.M)
    assert found
    return set(found[1].split())


@pytest.mark.parametrize(
    ("version", "calico", "needed"),
    [
        ("1.36.4", False, []),
        ("1.32.0", False, []),
        ("1.31.9", False, ["conntrack"]),
        ("1.9.0", True, ["conntrack", "ipset"]),
        ("1.36.4", True, ["ipset"]),
    ],
)
def test_what_the_settings_need(version: str, calico: bool, needed: list[str]) -> None:
    assert node_packages(kubernetes=version, calico=calico) == needed


def test_machines_with_pods_have_what_the_settings_need(lab: Run) -> None:
    names = {each["name"]: each for each in lab.outputs["machines"]}
    has_calico = any(each.type == "hardway:index:Calico" for each in lab.resources)
    for name, machine in names.items():
        found = packages_of(lab, f"host-{name}")
        assert ("ipset" in found) == (has_calico and machine["pod_cidr"] is not None)
        assert ("socat" in found) == ("load-balancer" in machine["roles"])
        assert "conntrack" not in found
