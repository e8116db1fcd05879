"""A lab's packets and the firewall of its host: what the lab opens, takes back, and names because it cannot open it."""

import json
import subprocess
import sys
from collections.abc import Iterator
from ipaddress import IPv4Network
from pathlib import Path

import pytest

from components.substrates import machine_firewall as own
from components.substrates.containers import firewall_check as check
from components.substrates.containers.substrate import close_firewall, firewall_program, firewall_script, open_firewall
from engine.firewalled_host import BRIDGE, NODES, PODS, FirewalledHost

PREFIX = "hardway-firewall-test"
SCRIPT = firewall_script("podman", PREFIX)
LAB = check.Lab([IPv4Network(NODES), IPv4Network(PODS)], BRIDGE)
ALL, NONE = dict.fromkeys(("machines", "pods", "outside"), True), dict.fromkeys(("machines", "pods", "outside"), False)


@pytest.fixture
def host(tmp_path: Path) -> Iterator[FirewalledHost]:
    """A host whose firewall forwards nothing, as Docker and ufw leave it; without a lab's rules."""
    made = FirewalledHost(tmp_path)
    try:
        assert made.passes() == ALL
        made.run("iptables", "-P", "FORWARD", "DROP")
        yield made
    finally:
        made.stop()
        subprocess.run(["rm", "-rf", str(Path(firewall_program(PREFIX)).parent)], check=True)


def rules(host: FirewalledHost) -> list[str]:
    """The filter's."""
    return host.run("iptables", "-S").splitlines()


def named(host: FirewalledHost) -> list[str]:
    """What the preflight says of the firewall."""
    ruleset = json.loads(host.run("nft", "-j", "list", "ruleset"))
    return [
        f"{found.chain.place}: {'rule' if found.rule else 'policy'}{', perhaps' if found.unsure else ''}"
        for found in check.dropping(ruleset, LAB)
    ]


def opened(host: FirewalledHost) -> None:
    """Have the lab's rules."""
    host.run("bash", "-c", open_firewall(PREFIX), stdin=SCRIPT)


def test_a_lab_opens_a_firewall_that_forwards_nothing_and_closes_it_again(host: FirewalledHost) -> None:
    before = rules(host)
    assert host.passes() == NONE
    opened(host)
    assert host.passes() == ALL
    once = rules(host)
    # At boot, and at every `up`.
    host.run("sh", firewall_program(PREFIX), "open")
    opened(host)
    assert rules(host) == once
    host.run("bash", "-c", close_firewall(PREFIX), stdin=SCRIPT)
    assert rules(host) == before
    assert not Path(firewall_program(PREFIX)).exists()


def test_rules_of_others_stay(host: FirewalledHost) -> None:
    """Also those of a lab whose name begins like this one's."""
    for comment in (f"{PREFIX}-2", "docker"):
        host.run("iptables", "-A", "FORWARD", "-i", "x", "-m", "comment", "--comment", comment, "-j", "ACCEPT")
    before = rules(host)
    opened(host)
    host.run("bash", "-c", close_firewall(PREFIX), stdin=SCRIPT)
    assert rules(host) == before


def test_explicit_drops_behind_the_labs_rules(host: FirewalledHost) -> None:
    for end in ("-s", "-d"):
        for range_ in (NODES, PODS):
            host.run("iptables", "-A", "FORWARD", end, range_, "-j", "DROP")
    opened(host)
    assert host.passes() == ALL
    assert named(host) == []


def test_dockers_own_chain_is_opened_too(host: FirewalledHost) -> None:
    host.run("iptables", "-N", "DOCKER-USER")
    host.run("iptables", "-A", "DOCKER-USER", "-j", "DROP")
    before = rules(host)
    opened(host)
    # A restart of docker puts its jump first.
    host.run("iptables", "-I", "FORWARD", "-j", "DOCKER-USER")
    assert host.passes() == ALL
    host.run("iptables", "-D", "FORWARD", "-j", "DOCKER-USER")
    host.run("bash", "-c", close_firewall(PREFIX), stdin=SCRIPT)
    assert rules(host) == before


def test_a_host_without_iptables(host: FirewalledHost, tmp_path: Path) -> None:
    """nftables alone, and a chain that something else has made."""
    tools = tmp_path / "few"
    tools.mkdir()
    for tool in ("sh", "bash", "id", "mkdir", "tee", "nft", "grep", "sed", "rm", "cat", "printf"):
        (tools / tool).symlink_to(Path(host.run("sh", "-c", f"command -v {tool} || echo /bin/true").strip()))
    (tools / "podman").symlink_to(tmp_path / "bin" / "podman")
    before = rules(host)
    for _ in range(2):
        done = host.try_run("/bin/bash", "-c", open_firewall(PREFIX), stdin=SCRIPT, path=tools)
        assert done.returncode == 0, done.stderr
    assert host.passes() == ALL
    assert sum(PREFIX in line for line in host.run("nft", "list", "ruleset").splitlines()) == 2
    done = host.try_run("/bin/bash", "-c", close_firewall(PREFIX), stdin=SCRIPT, path=tools)
    assert done.returncode == 0, done.stderr
    assert rules(host) == before


# The rules of a user's chain, and what of it drops.
DROPS = {
    "a policy": ("policy drop;", "policy"),
    "a policy with what most people add": (
        "policy drop; ct state established,related accept; ct state invalid drop",
        "policy",
    ),
    "a rule for all": ("oifname != lo counter drop", "rule"),
    "a rule for a part": (f"ip daddr {PODS} reject", "rule"),
    "a rule for private addresses": ("ip saddr { 10.0.0.0/8, 192.168.0.0/16 } drop", "rule"),
    "firewalld's kind of end": (
        "ct state established,related accept; ct state invalid drop; iifname lo accept; "
        "reject with icmpx admin-prohibited",
        "rule",
    ),
    "a map by state, and an end": (
        "ct state vmap { established : accept, invalid : drop }; tcp dport 22 accept; drop",
        "rule",
    ),
    "new connections": ("ct state new reject", "rule"),
    "a jump": ("meta nfproto ipv4 jump g", "rule"),
    "a map of jumps": ("ct state vmap { established : accept, new : jump g }", "rule"),
    "one range accepted": (f"ip saddr {NODES} accept; ip daddr {NODES} accept; drop", "rule"),
    "a named set": ("ip saddr @ours drop", "rule"),
}


@pytest.mark.parametrize(("chain", "what"), DROPS.values(), ids=DROPS)
def test_what_the_lab_cannot_open_is_named_with_what_helps(host: FirewalledHost, chain: str, what: str) -> None:
    opened(host)
    host.chain(chain)
    assert host.passes() != ALL
    assert named(host) == [f"inet mine f: {what}"]
    program = Path(check.__file__)
    script = (
        "import sys; from ipaddress import IPv4Network as N; "
        "from components.substrates.containers import firewall_check as c; "
        f"print(*c.problems(c.Lab([N('{NODES}'), N('{PODS}')], None)), sep='\\n')"
    )
    (problem,) = host.run("env", f"PYTHONPATH={program.parents[3]}", sys.executable, "-B", "-c", script).splitlines()
    commands = [part for part in problem.split("`") if part.startswith("nft insert rule inet mine f ")]
    assert len(commands) == 2, problem
    host.nft(*(command.removeprefix("nft ") for command in commands))
    assert host.passes() == ALL
    assert named(host) == []


LETS_PASS = {
    "nothing": "policy accept;",
    "the lab's bridge": f"policy drop; iifname {BRIDGE} accept; oifname {BRIDGE} accept",
    "another interface": "iifname wlan0 drop",
    "other addresses": "ip saddr 192.168.7.0/24 drop",
    "nonsense": "ct state invalid drop",
    "a port": "tcp dport 25 drop; udp dport 137 reject",
    "each range by a rule of its own": (
        f"ct state established accept; ip saddr {NODES} accept; ip saddr {PODS} accept; drop"
    ),
    "a named set": "ct state established accept; ip saddr @ours accept; ip daddr @ours accept; drop",
    "all interfaces but one": "iifname wlan0 jump g; ct state vmap { established : accept, invalid : drop }; accept",
    "other addresses' jump": "ip daddr 192.168.7.0/24 jump g",
    "a jump that returns": "iifname != lo jump h; policy accept",
}


@pytest.mark.parametrize("chain", LETS_PASS.values(), ids=LETS_PASS)
def test_a_firewall_that_lets_the_lab_pass_is_not_named(host: FirewalledHost, chain: str) -> None:
    opened(host)
    host.chain(chain)
    assert host.passes() == ALL
    assert named(host) == []


def test_a_rule_in_a_chain_that_is_jumped_to(host: FirewalledHost) -> None:
    opened(host)
    host.chain("jump g", family="ip", priority=-5)
    assert host.passes() == NONE
    assert named(host) == ["ip mine f: rule"]


def test_a_rule_that_may_accept_is_said_to_be_undecided(host: FirewalledHost) -> None:
    opened(host)
    host.chain("meta mark 0x0 accept; drop")
    assert host.passes() == ALL
    assert named(host) == ["inet mine f: rule, perhaps"]


def test_an_end_of_iptables_that_rejects_is_opened(host: FirewalledHost) -> None:
    """As RHEL's iptables has it, with policy ACCEPT."""
    host.run("iptables", "-P", "FORWARD", "ACCEPT")
    host.run("iptables", "-A", "FORWARD", "-j", "REJECT", "--reject-with", "icmp-host-prohibited")
    assert host.passes() == NONE
    opened(host)
    assert host.passes() == ALL
    assert named(host) == []


def up(host: FirewalledHost) -> list[str]:
    """What `./hardway status` says of the firewall: the same program."""
    command = f"{sys.executable} -B {check.__file__} --engine podman --network {PREFIX} --ranges {NODES} {PODS}"
    done = host.try_run(*command.split())
    assert done.returncode == 0, done.stderr
    return done.stdout.split("\n")[:-1] if done.stdout.strip() else []


def test_removed_firewall_rule_of_the_lab_is_reported(host: FirewalledHost) -> None:
    opened(host)
    assert up(host) == []
    host.run("iptables", "-I", "FORWARD", "-j", "REJECT")
    assert host.passes() == NONE
    (problem,) = up(host)
    assert "table ip filter, chain FORWARD, rule `" in problem
    command = problem.split("`")[-2]
    assert command == f"sh {firewall_program(PREFIX)} open"
    host.run(*command.split())
    assert host.passes() == ALL
    assert up(host) == []
    host.chain("policy drop;")
    assert ["table inet mine, chain f, policy drop" in each for each in up(host)] == [True]


def said_of_an_existing_host(host: FirewalledHost) -> list[str]:
    """What the preflight of existing hosts says of the same firewall, by its own script."""
    found: dict[str, list[str]] = {}
    for line in host.run("bash", "-s", stdin=own.SCRIPT.read_text()).splitlines():
        word, _, value = line.partition(" ")
        found.setdefault(word, []).append(value)
    assert found["nft"]
    return list(own.problems(found, IPv4Network(PODS), [], interfaces=[BRIDGE], is_closed=False))


def forwarding(host: FirewalledHost) -> None:
    """Policy ACCEPT, as where the user's firewall is another chain."""
    host.run("iptables", "-P", "FORWARD", "ACCEPT")


# The reading is the same: these show the script, the words and the commands of existing hosts.
@pytest.mark.parametrize("name", ["a policy", "firewalld's kind of end", "a map of jumps", "a named set"])
def test_an_existing_host_that_drops_is_named_and_helped(host: FirewalledHost, name: str) -> None:
    forwarding(host)
    host.chain(DROPS[name][0])
    assert not host.passes()["pods"]
    (problem,) = said_of_an_existing_host(host)
    assert "table inet mine, chain f, " in problem
    assert "rule `handle" not in problem
    host.run("sh", "-c", problem.split("Let the lab pass: `")[1].split("`")[0])
    assert host.passes()["pods"]
    assert said_of_an_existing_host(host) == []


@pytest.mark.parametrize("name", ["nonsense", "a named set", "all interfaces but one"])
def test_an_existing_host_that_lets_pods_pass_is_not_named(host: FirewalledHost, name: str) -> None:
    forwarding(host)
    host.chain(LETS_PASS[name])
    assert host.passes()["pods"]
    assert said_of_an_existing_host(host) == []


def test_an_end_of_iptables_on_an_existing_host_is_opened_by_iptables(host: FirewalledHost) -> None:
    """As RHEL has it; what nft adds there would make iptables refuse the table."""
    forwarding(host)
    for rule in (
        "-m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
        "-p icmp -j ACCEPT",
        "-i lo -j ACCEPT",
        "-j REJECT --reject-with icmp-host-prohibited",
    ):
        host.run("iptables", "-A", "FORWARD", *rule.split())
    assert not host.passes()["pods"]
    (problem,) = said_of_an_existing_host(host)
    assert "table ip filter, chain FORWARD, rule `" in problem and "reject" in problem.lower()
    host.run("sh", "-c", problem.split("Let the lab pass: `")[1].split("`")[0])
    assert host.passes()["pods"]
    assert said_of_an_existing_host(host) == []
    assert "REJECT" in "".join(rules(host))
