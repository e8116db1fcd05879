"""What the preflight of existing machines makes of what they say: every hindrance in words, and none that is none."""

import asyncio
import json
import os
import socket
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from components.substrates.existing import preflight, reach
from components.substrates.existing.plan import Host, Login, Plan, from_json
from components.substrates.existing.preflight import Findings
from components.substrates.existing.reach import Credentials

LAB = "own SHA256:mine"
MARKS = {name: f"{LAB} {name}" for name in ("balancer", "server", "node")}


def host(name: str, role: str, number: int) -> Host:
    address = f"192.168.1.{number}"
    return Host(name=name, roles=(role,), login=Login(host=address, port=22, user="root"), address=address)


HOSTS = (host("balancer", "load-balancer", 5), host("server", "controller", 10), host("node", "worker", 20))
PLAN = Plan(stack="own", hosts=HOSTS, pods="10.200.0.0/16", services="10.32.0.0/24")
# 192.168.1.0/24 on eth0, and the way out by 192.168.1.1, as /proc/net/route writes them.
ROUTES = ["0001A8C0 00FFFFFF 00000000 eth0", "00000000 00000000 0101A8C0 eth0"]


def fine(at: Host, **said: list[str]) -> Findings:
    """A host that nothing is wrong with, but for what is given."""
    number = at.address.rpartition(".")[2]
    lines = {
        "arch": ["x86_64"],
        "container": ["none"],
        "cgroup": ["2 cpuset cpu io memory pids"],
        "memavailable": ["2000"],
        "swaptotal": ["0"],
        "swapfree": ["0"],
        "disk": ["20000"],
        "uuid": [f"uuid-{at.name}"],
        "mac": [f"52:54:00:00:00:{number} eth0"],
        "listens": ["0016 641 sshd"],
        "route": ROUTES,
        "address": ["127.0.0.1", at.address],
    }
    return Findings(lines={**lines, **said}, skew=0.1)


def report(
    monkeypatch: pytest.MonkeyPatch, answers: dict[str, Findings | str] | None = None, plan: Plan = PLAN
) -> dict[str, list[str]]:
    async def ask(at: Host, plan: Plan, credentials: Credentials) -> Findings | str:
        return (answers or {}).get(at.name, fine(at))

    monkeypatch.setattr(preflight, "_ask", ask)
    return asyncio.run(preflight.check(plan, Credentials(), MARKS))


def test_hosts_that_meet_all_preconditions_have_no_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    assert report(monkeypatch) == {}


def match(key: str, value: object) -> dict[str, object]:
    left = {"payload": {"protocol": "ip", "field": key}} if "addr" in key else {"meta": {"key": key}}
    return {"match": {"op": "==", "left": left, "right": value}}


def closed(hook: str, name: str, *matches: dict[str, object]) -> str:
    """What nft lists of a base chain that drops, with a rule that accepts for each match."""
    place = {"family": "inet", "table": "filter"}
    rules = [{"rule": {**place, "chain": name, "expr": [each, {"accept": None}]}} for each in matches]
    return json.dumps({"nftables": [{"chain": {**place, "name": name, "hook": hook, "policy": "drop"}}, *rules]})


PODS = {"prefix": {"addr": "10.200.0.0", "len": 16}}
NODE, SERVER, BALANCER = HOSTS[2], HOSTS[1], HOSTS[0]
HINDRANCES: dict[str, tuple[Host, dict[str, list[str]], str]] = {
    "architecture": (NODE, {"arch": ["aarch64"]}, "its architecture is arm64, not amd64"),
    "systemd": (NODE, {"lacks": ["systemd as its first process"]}, "it lacks systemd"),
    "container": (
        NODE,
        {"container": ["podman"]},
        "it is a container (podman): set lab.machines.shares_kernel to true",
    ),
    "module": (NODE, {"module": ["overlay"]}, "its kernel has no module overlay"),
    "cgroup v1": (NODE, {"cgroup": ["1 cpu memory pids"]}, "it has cgroup v1, which kubelets refuse"),
    "cgroup": (NODE, {"cgroup": ["2 cpu pids"]}, "its cgroups lack memory"),
    "memory": (NODE, {"memavailable": ["100"]}, "100 MiB of memory are free, 400 MiB are wanted"),
    "disk": (NODE, {"disk": ["900"]}, "900 MiB of disk are free"),
    "swap": (NODE, {"swaptotal": ["9000"], "swapfree": ["1000"]}, "8000 MiB are swapped out"),
    "address": (NODE, {"address": ["10.0.0.9"]}, "none of its interfaces has the address 192.168.1.20"),
    "blocked": (NODE, {"blocked": ["192.168.1.10:6443"]}, "it does not reach server at 192.168.1.10, port 6443"),
    "another port": (NODE, {"blocked": ["192.168.1.10:2379"]}, "it does not reach server at 192.168.1.10, port 2379"),
    "VXLAN": (NODE, {"blocked": ["192.168.1.10:4789/udp"]}, "server at 192.168.1.10, port 4789 (UDP, VXLAN)"),
    "noexec": (NODE, {"noexec": ["/var", "/var"]}, "/var is mounted noexec"),
    "forwarding": (
        NODE,
        {"nft": [closed("forward", "f")]},
        "drops what it forwards for pods: table inet filter, chain f, policy drop. Let the lab pass: "
        "`nft insert rule inet filter f ip saddr { 10.200.0.0/16 } accept && ",
    ),
    "forwarding for Docker alone": (
        NODE,
        {"nft": [closed("forward", "FORWARD", match("iifname", "docker0"))], "ufw": ["yes"]},
        "`ufw route allow from 10.200.0.0/16 && ufw route allow to 10.200.0.0/16`",
    ),
    "iptables": (NODE, {"legacy": [":FORWARD DROP [0:0]"]}, "`iptables-legacy -I FORWARD -s 10.200.0.0/16 -j ACCEPT"),
    "RHEL's end of a chain": (
        NODE,
        {"legacy": [":FORWARD ACCEPT [0:0]", "-A FORWARD -j REJECT --reject-with icmp-host-prohibited"]},
        "chain FORWARD, rule `-A FORWARD -j REJECT --reject-with icmp-host-prohibited`. Let the lab pass: "
        "`iptables-legacy -I FORWARD -s 10.200.0.0/16 -j ACCEPT && iptables-legacy -I FORWARD -d 10.200.0.0/16 ",
    ),
    "a chain that is jumped to": (
        NODE,
        {
            "legacy": [
                ":FORWARD ACCEPT [0:0]",
                ":mine - [0:0]",
                "-A FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
                "-A FORWARD ! -i lo -j mine",
                "-A mine -p icmp -j ACCEPT",
                "-A mine -j DROP",
            ]
        },
        "chain FORWARD, rule `-A FORWARD ! -i lo -j mine`",
    ),
    "firewalld": (
        NODE,
        {"firewalld": ["192.168.1.0/24"]},
        "`firewall-cmd --permanent --zone=trusted --add-source=10.200.0.0/16 && firewall-cmd --reload`",
    ),
    "router": (SERVER, {"route": ROUTES[1:]}, "it reaches node by a router (192.168.1.1)"),
    "port": (SERVER, {"listens": ["192B 812 their server"]}, "6443    Kubernetes API server        their server ("),
    "balancer's port": (
        BALANCER,
        {"listens": ["0050 7 httpd"]},
        "80      HAProxy, health              httpd (process 7)",
    ),
    "etcd's port": (SERVER, {"listens": ["094B 9 etc"]}, "2379    etcd, clients                etc (process 9)"),
    "port of nobody": (NODE, {"listens": ["280A"]}, "10250   kubelet                      no process that can"),
    "node port": (NODE, {"listens": ["7530 5 x"]}, "30000   a Service, as NodePort       x (process 5)"),
    "runtime": (NODE, {"runs": ["dockerd"]}, "it has a container runtime already: dockerd"),
    "images": (NODE, {"keeps": ["/var/lib/containerd"]}, "it has a container runtime already: /var/lib/containerd"),
    "haproxy": (BALANCER, {"enables": ["haproxy"]}, "haproxy is in use there"),
    "nginx": (SERVER, {"runs": ["nginx"]}, "nginx is in use there"),
    "pods": (
        NODE,
        {"route": [*ROUTES, "0001C80A 00FFFFFF 00000000 tun0"]},
        "(lab.network.pods) overlaps 10.200.1.0/24",
    ),
    "services": (NODE, {"route": [*ROUTES, "0000200A 0000FFFF 00000000 tun0"]}, "(lab.network.services) overlaps"),
    "MAC address": (NODE, {"mac": ["52:54:00:00:00:10 eth0"]}, "its MAC address 52:54:00:00:00:10 is server's, too"),
    "product uuid": (NODE, {"uuid": ["uuid-server"]}, "its product uuid uuid-server is server's, too"),
    "cluster": (NODE, {"cluster": ["/var/lib/kubelet", "kubelet"]}, "it is part of another cluster already, by"),
    "lab": (NODE, {"lab": ["theirs SHA256:x node"]}, "it is part of the lab theirs already, as node"),
    "other name": (NODE, {"lab": ["own SHA256:mine node-1"]}, "it is part of the lab own already, as node-1"),
    "emptied mark": (NODE, {"lab": [""], "cluster": ["/var/lib/hardway"]}, "is damaged: ''; if the host is node of"),
    "mark cut short": (NODE, {"lab": [MARKS["node"][:-1]]}, f"echo '{MARKS['node']}' >/var/lib/hardway/lab"),
    "namesake": (NODE, {"lab": ["own SHA256:x node"]}, "it is part of the lab own already, as node"),
}


@pytest.mark.parametrize("name", HINDRANCES)
def test_problem_is_reported_for_its_host(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    at, said, words = HINDRANCES[name]
    found = report(monkeypatch, {at.name: fine(at, **said)})
    assert list(found) == [at.name]
    assert any(words in problem for problem in found[at.name]), found


@pytest.mark.parametrize(("skew", "words"), [(60.0, "its clock is 60 s ahead of"), (-60.0, "its clock is 60 s behind")])
def test_wrong_clock_is_reported(skew: float, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found = report(monkeypatch, {"node": replace(fine(NODE), skew=skew)})
    assert words in found["node"][0]


@pytest.mark.parametrize(
    ("at", "said"),
    [
        # A load balancer may have what only workers must not, and the other way round.
        (BALANCER, {"runs": ["dockerd"]}),
        (BALANCER, {"cgroup": ["1 cpu"]}),
        (NODE, {"runs": ["nginx"]}),
        (NODE, {"listens": ["192B 812 haproxy"]}),
        # This lab's own: a run that goes on, or a second one.
        (
            SERVER,
            {
                "lab": [MARKS["server"]],
                "cluster": ["etcd", "/etc/kubernetes"],
                "listens": ["192B 9 k"],
                "runs": ["nginx"],
            },
        ),
        (
            NODE,
            {"lab": [MARKS["node"]], "cluster": ["kubelet"], "runs": ["containerd"], "keeps": ["/var/lib/containerd"]},
        ),
        (NODE, {"swaptotal": ["900"], "swapfree": ["0"]}),
        (NODE, {"nft": [closed("forward", "f", match("saddr", PODS))]}),
        (NODE, {"nft": [closed("forward", "f", match("iifname", "cnio0"))]}),
        (NODE, {"legacy": [":FORWARD DROP [0:0]", "-A FORWARD -s 10.0.0.0/8 -j ACCEPT"]}),
        (NODE, {"legacy": [":FORWARD ACCEPT [0:0]", "-A FORWARD -i docker0 -j DROP", "-A FORWARD -p tcp -j DROP"]}),
        # kube-proxy's and Calico's own.
        (NODE, {"legacy": [":FORWARD ACCEPT [0:0]", ":KUBE-X - [0:0]", "-A FORWARD -j KUBE-X", "-A KUBE-X -j DROP"]}),
        # The others reach it; and nothing of pods passes through a controller.
        (NODE, {"nft": [closed("input", "i")]}),
        (SERVER, {"nft": [closed("forward", "f")]}),
        (NODE, {"firewalld": ["192.168.1.0/24 10.0.0.0/8"]}),
        # Behind a NAT of its own, which all machines have.
        (NODE, {"mac": ["08:00:27:00:00:01 eth1", "52:54:00:00:00:20 eth0"]}),
    ],
)
def test_harmless_findings_are_not_reported(
    at: Host, said: dict[str, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert report(monkeypatch, {at.name: fine(at, **said)}) == {}


def test_containers_have_their_hosts_kernel_and_uuid(monkeypatch: pytest.MonkeyPatch) -> None:
    said = {"container": ["podman"], "cgroup": ["1 cpu memory pids"], "uuid": ["one"]}
    answers: dict[str, Findings | str] = {each.name: fine(each, **said) for each in HOSTS}
    assert report(monkeypatch, answers, replace(PLAN, shares_kernel=True)) == {}


def test_all_hosts_are_reported_with_all_that_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    answers: dict[str, Findings | str] = {
        "server": "root@192.168.1.10 does not answer within 4 s",
        "node": fine(NODE, disk=["1"], memavailable=["1"]),
    }
    found = report(monkeypatch, answers)
    assert len(found["server"]) == 1 and len(found["node"]) == 2
    text = preflight.report(PLAN, found)
    assert text.startswith("The preflight failed; nothing was changed.\nserver (root@192.168.1.10)\n  1. ")
    assert "node (root@192.168.1.20)\n  1. 1 MiB of memory are free" in text


def test_ports_that_are_taken_are_a_table(monkeypatch: pytest.MonkeyPatch) -> None:
    """One sentence for each port, without a word on what it is for, or whom to stop."""
    controller = replace(SERVER, roles=("kubeadm-controller", "worker"))
    plan = replace(PLAN, hosts=(BALANCER, controller, NODE))
    # The API server's by two programs, one for each family of addresses; one that no machine of kubeadm's needs.
    said = {"listens": ["280A 77 socat", "192B 812 apache", "192B 811 nginx", "0050 811 nginx", "0016 641 sshd"]}
    found = report(monkeypatch, {"server": fine(SERVER, **said)}, plan)
    assert preflight.report(plan, found).splitlines()[1:] == [
        "server (root@192.168.1.10)",
        "  1. ports that the lab needs are in use:",
        "     PORT    FOR                          TAKEN BY",
        "     6443    Kubernetes API server        apache (process 812), nginx (process 811)",
        "     10250   kubelet                      socat (process 77)",
    ]


@pytest.fixture
def probe() -> Callable[[], str]:
    """The probe's own words about the machine that runs these tests."""
    text = preflight._PROBE.read_text()

    def run() -> str:
        script = f"peers='127.0.0.1:1'\nmodules='overlay no_such_module'\n{text}"
        return subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True, timeout=30).stdout

    return run


def test_probe_prints_what_the_preflight_reads(probe: Callable[[], str]) -> None:
    said = probe().splitlines()
    words = {line.split()[0] for line in said}
    assert {"arch", "cgroup", "memavailable", "swaptotal", "swapfree", "disk", "mac", "route", "address"} <= words
    assert said[-1] == "done yes"
    assert "module no_such_module" in said and "module overlay" not in said
    # Nobody listens there, and the machine itself says so.
    assert "blocked 127.0.0.1:1" not in said


@pytest.mark.parametrize(("family", "address"), [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")])
def test_probe_prints_listening_processes(probe: Callable[[], str], family: socket.AddressFamily, address: str) -> None:
    """A port that nobody seems to have, or that is looked for in one family of addresses only."""
    with socket.create_server((address, 0), family=family) as listener:
        port = listener.getsockname()[1]
        me = f"listens {port:04X} {os.getpid()} {Path('/proc/self/comm').read_text().strip()}"
        assert me in probe().splitlines()
    assert me not in probe().splitlines()


def test_workers_are_asked_for_the_modules_of_their_pod_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Calico on a kernel without VXLAN; a controller that is refused for what it does not need."""
    asked: dict[str, str] = {}

    class Connection:
        async def __aenter__(self) -> "Connection":
            return self

        async def __aexit__(self, *_: object) -> None:
            return None

    async def as_root(connection: object, login: Login, script: str, *, quiet: bool) -> str:
        asked[str(login)] = next(line for line in script.splitlines() if line.startswith("modules="))
        return "done yes"

    async def skew(connection: object) -> float:
        return 0.0

    monkeypatch.setattr(reach, "connected", lambda *_: Connection())
    monkeypatch.setattr(reach, "as_root", as_root)
    monkeypatch.setattr(preflight, "_skew", skew)
    plan = replace(PLAN, modules=("ip_set", "vxlan"))
    assert from_json(plan.to_json()) == plan and "modules" not in PLAN.to_json()
    for at in HOSTS:
        asyncio.run(preflight._ask(at, plan, Credentials()))
        assert ("vxlan" in asked[str(at.login)]) == ("worker" in at.roles)


def test_a_closed_port_is_named_with_the_chain_that_drops(monkeypatch: pytest.MonkeyPatch) -> None:
    answers: dict[str, Findings | str] = {
        "node": fine(NODE, nft=[closed("input", "i")]),
        "server": fine(SERVER, blocked=["192.168.1.20:10250"]),
    }
    found = report(monkeypatch, answers)
    assert "it does not reach node at 192.168.1.20, port 10250" in found["server"][0]
    assert "drops what it gets from the other machines: table inet filter, chain i, policy drop" in found["node"][0]
    assert "ip saddr { 192.168.1.5/32, 192.168.1.10/32 } accept`" in found["node"][0]


def test_equal_addresses_of_a_nat_are_no_copies(monkeypatch: pytest.MonkeyPatch) -> None:
    answers: dict[str, Findings | str] = {
        each.name: fine(each, mac=["08:00:27:8d:c0:4d nat0", f"52:54:00:00:00:{number} eth0"])
        for number, each in enumerate(HOSTS, 10)
    }
    assert report(monkeypatch, answers) == {}


def test_existing_vxlan_device_is_no_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    answers: dict[str, Findings | str] = {
        "node": fine(NODE, udp=["12B5"]),
        "server": fine(SERVER, blocked=["192.168.1.20:4789/udp"]),
    }
    assert report(monkeypatch, answers) == {}


def test_every_port_between_machines_is_tried() -> None:
    assert list(preflight._tried(NODE, SERVER, PLAN)) == ["80", "2379", "2380", "6443"]
    assert list(preflight._tried(SERVER, NODE, PLAN)) == ["10250", "10256"]
    other = replace(NODE, name="node-1")
    assert list(preflight._tried(other, NODE, replace(PLAN, modules=("vxlan",))))[-1] == "4789/udp"
