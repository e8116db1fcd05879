"""Which Debian packages a machine gets: those that something on it needs."""

import re

from unit.mocked_engine import Run


def packages_of(run: Run, step: str) -> set[str]:
    found = re.search(r"^packages (.*)$", run.script(step), re.M)
    assert found
    return set(found[1].split())


def test_machines_with_pods_have_what_the_settings_need(lab: Run) -> None:
    names = {each["name"]: each for each in lab.outputs["machines"]}
    has_calico = any(each.type == "hardway:index:Calico" for each in lab.resources)
    for name, machine in names.items():
        found = packages_of(lab, f"host-{name}")
        assert ("ipset" in found) == (has_calico and machine["pod_cidr"] is not None)
        assert ("socat" in found) == ("load-balancer" in machine["roles"])
        assert ("conntrack" in found) == (machine["pod_cidr"] is not None)
