"""What `status` says of firewalls: in the preflight's words, and never as nothing where they could not be read."""

import json
import subprocess
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from small_lab import CERTIFICATES, NOW, cluster, ok, saying, well

from live import firewalls, probe
from live.cluster import Cluster
from live.firewalls import FirewallStatus
from live.probe import Answer, Probe
from live.status import Status, judge, table

PLACE = {"family": "inet", "table": "mine"}
NODE, HEADER = "worker-0", {"metainfo": {"version": "1.0.6"}}


@pytest.fixture
def lab(tmp_path: Path) -> Cluster:
    """A lab on existing hosts."""
    made = cluster(tmp_path)
    return replace(made, stack=replace(made.stack, substrate="machines"))


def judged(lab: Cluster, probes: Sequence[Probe], *here: FirewallStatus) -> Status:
    return judge(lab, probes, endpoint_says="ok", certificates=CERTIFICATES, firewall_here=here, now=NOW)


def chain(policy: str, *rules: list[dict[str, Any]]) -> str:
    """A line of the script: a chain that sees what is forwarded."""
    made = {**PLACE, "name": "f", "hook": "forward", "policy": policy}
    numbered = [{"rule": {**PLACE, "chain": "f", "handle": 7 + at, "expr": rule}} for at, rule in enumerate(rules)]
    return f"nft {json.dumps({'nftables': [HEADER, {'chain': made}, *numbered]})}"


def asked(lab: Cluster, said: str) -> Status:
    return judged(lab, saying(well(lab), NODE, "firewall", ok(said)))


def test_a_chain_that_drops_is_a_problem_with_its_table_and_the_command(lab: Cluster) -> None:
    (problem,) = asked(lab, chain("drop")).problems
    assert problem.startswith(
        "worker-0: its firewall drops what it forwards for pods: table inet mine, chain f, policy drop. Let the lab "
        "pass: `nft insert rule inet mine f ip saddr { 10.200.0.0/16 } accept"
    )


def test_a_rule_that_rejects_is_quoted(lab: Cluster) -> None:
    said = f"{chain('accept', [{'reject': None}])}\nrule inet mine 7 reject with icmpx admin-prohibited"
    (problem,) = asked(lab, said).problems
    assert "table inet mine, chain f, rule `reject with icmpx admin-prohibited`. Let" in problem


@pytest.mark.parametrize("said", [chain("accept"), chain("drop", [{"accept": None}]), ""])
def test_what_lets_the_lab_pass_is_no_problem(lab: Cluster, said: str) -> None:
    found = asked(lab, said)
    assert found.well and [each.read for each in found.firewalls] == [True]


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (ok("unread nft: netlink: Error: cache initialization failed"), "cache initialization failed"),
        (Answer(status=124, out=""), "no answer within 5 s"),
    ],
)
def test_a_firewall_that_cannot_be_read_is_said(
    lab: Cluster, answer: Answer, why: str, capsys: pytest.CaptureFixture[str]
) -> None:
    found = judged(lab, saying(well(lab), NODE, "firewall", answer))
    assert [(each.machine, each.read, each.drops) for each in found.firewalls] == [(NODE, False, ())]
    table.show(found)
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("firewall of")]
    assert line.startswith("firewall of worker-0: not read, ") and why in line


def test_every_machine_with_pods_is_asked_in_the_one_round_trip(lab: Cluster, tmp_path: Path) -> None:
    """A worker's own rules in a lab of containers or VMs, and a status that asks only existing hosts."""
    for each_lab in (lab, cluster(tmp_path)):
        assert [each.name for each in each_lab.machines if "firewall" in probe.questions(each_lab, each)] == [NODE]


def test_the_host_of_containers_is_read_by_the_preflights_program(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab = cluster(tmp_path)
    monkeypatch.setattr("os.geteuid", lambda: 0)
    commands: list[list[str]] = []

    def run(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        commands.append(command)
        return subprocess.CompletedProcess(command, 0, "its firewall drops: x\n", "")

    monkeypatch.setattr(subprocess, "run", run)
    (found,) = firewalls.of_pulumi_host(lab)
    assert commands[0][2].endswith("containers/firewall_check.py") and Path(commands[0][2]).exists()
    assert commands[0][3:] == [
        "--engine",
        "podman",
        "--network",
        "hardway-paper",
        "--ranges",
        "10.240.0.0/24",
        "10.200.0.0/16",
    ]
    assert judged(lab, well(lab), found).problems == ["the host of the containers: its firewall drops: x"]

    def fails(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess(command, 3, "", "netlink: Error\n")

    monkeypatch.setattr(subprocess, "run", fails)
    assert firewalls.of_pulumi_host(lab) == [FirewallStatus(machine=None, read=False, message="netlink: Error")]
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    assert firewalls.of_pulumi_host(lab) == [FirewallStatus(machine=None, read=False, message="only root may read it")]
