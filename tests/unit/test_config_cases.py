"""Settings files of people that used to pass, or to fail far from their cause: one report with key, value and fix."""

from pathlib import Path
from typing import Any

import pytest

from config.lab import parse
from config.problems import ConfigError

NETWORK = {"nodes": "10.231.3.0/24", "pods": "10.234.0.0/16", "services": "10.233.3.0/24"}


def said(lab: dict[str, Any]) -> str:
    with pytest.raises(ConfigError) as caught:
        parse("dev", {"network": NETWORK, **lab})
    return str(caught.value)


def database(directory: Path, text: str) -> dict[str, Any]:
    file = directory / "machines.txt"
    file.write_text(text)
    return {"substrate": "machines", "machines": {"database": str(file)}}


def test_an_address_is_no_domain() -> None:
    report = said({"load_balancing": {"domain": "203.0.113.7"}})
    assert "lab.load_balancing.domain: an address, and not a name ('203.0.113.7')" in report
    assert "write a DNS name" in report


def test_each_domain_that_is_an_address_is_reported() -> None:
    report = said({"network": {**NETWORK, "domain": "10.0.0.11", "cluster_domain": "10.1.2.3"}})
    for key, value in (("domain", "10.0.0.11"), ("cluster_domain", "10.1.2.3")):
        assert f"lab.network.{key}: an address, and not a name ('{value}')" in report


def test_a_fqdn_that_is_an_address_is_reported_with_its_line(tmp_path: Path) -> None:
    report = said(
        database(
            tmp_path,
            "10.231.3.10  10.0.0.11      controller-0  -\n"
            "10.231.3.20  10.0.0.12      worker-0      10.234.0.0/24\n"
            "10.231.3.5   10.0.0.13      lb-0          -  role=load-balancer\n",
        )
    )
    for line, value in ((1, "10.0.0.11"), (2, "10.0.0.12"), (3, "10.0.0.13")):
        assert f"machines.txt, line {line}: fqdn: an address, and not a name ('{value}')" in report


def test_two_machines_with_one_fqdn_are_reported(tmp_path: Path) -> None:
    report = said(
        database(
            tmp_path,
            "10.231.3.10  same.example  controller-0  -\n"
            "10.231.3.20  same.example  worker-0      10.234.0.0/24\n"
            "10.231.3.5   lb.example    lb-0          -  role=load-balancer\n",
        )
    )
    assert "the FQDN same.example is" in report and "give each machine a FQDN of its own" in report


def test_two_machines_with_one_name_are_one_problem() -> None:
    report = said({"workers": [{"name": "worker-0"}, {"name": "worker-0", "address": "10.231.3.99"}]})
    assert "the name worker-0 is" in report and "FQDN" not in report


@pytest.mark.parametrize(("length", "fits"), [(64, True), (65, False)])
def test_a_domain_must_fit_a_certificates_common_name(length: int, fits: bool) -> None:
    domain = "a" * (length - len(".example.com")) + ".example.com"
    lab = {"load_balancing": {"mode": "terminate", "domain": domain}}
    if fits:
        parse("dev", {"network": NETWORK, **lab})
    else:
        report = said(lab)
        assert f"lab.load_balancing.domain: {domain} has 65 characters" in report
        assert "write a name of at most 64 characters" in report


def test_users_with_dots_and_capitals_are_accepted(tmp_path: Path) -> None:
    """Debian's useradd does; the file in sudoers.d is not named for the user."""
    found = parse(
        "dev",
        {
            "network": NETWORK,
            **database(
                tmp_path,
                "10.231.3.10  c.example.com  controller-0  -  user=jane.doe\n"
                "10.231.3.20  w.example.com  worker-0      10.234.0.0/24 user=Jane jumpbox=jane.doe@gate\n"
                "10.231.3.5   l.example.com  lb-0          -  role=load-balancer\n",
            ),
        },
    )
    assert [found.own_machines[name].user for name in ("controller-0", "worker-0")] == ["jane.doe", "Jane"]


@pytest.mark.parametrize("user", ["0jane", ".jane", "-j", "a b", "jane:x", "j/x", "a" * 33])
def test_other_users_are_refused_with_what_would_be_right(user: str) -> None:
    machine = {"address": "10.231.3.10", "fqdn": "c.example.com", "name": "controller-0", "user": user}
    report = said({"substrate": "machines", "machines": {"database": [machine]}})
    assert f"lab.machines.database[0].user: no user name ({user!r})" in report
    assert "write one that useradd accepts" in report
