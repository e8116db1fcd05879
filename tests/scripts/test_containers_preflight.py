"""The preflight of labs in containers: its report, with false programs for the engine and ip."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from components.substrates.containers import preflight
from scripts.preflight_host import problems
from toolchain import paths
from unit.mocked_engine import Run

PROGRAM = paths.checkout() / "components" / "substrates" / "containers" / "preflight.py"

PODMAN = {"name": "podman", "id": "2f25", "network_interface": "podman0", "subnets": [{"subnet": "10.88.0.0/16"}]}
DOCKER = {"Name": "bridge", "Id": "9" * 64, "IPAM": {"Config": [{"Subnet": "172.17.0.0/16"}]}}
DEFAULT_ROUTE = {"dst": "default", "gateway": "192.168.1.1", "dev": "eth0"}


@dataclass
class Host:
    """What the engine and the kernel of a host say."""

    directory: Path
    engine: str = "podman"
    networks: list[dict[str, Any]] = field(default_factory=lambda: [PODMAN])
    routes: list[dict[str, Any]] = field(default_factory=lambda: [DEFAULT_ROUTE])
    has_image: bool = True
    installed: bool = True
    has_ip: bool = True
    permitted: bool = True
    mirror_filled: bool = True
    ruleset: dict[str, Any] = field(default_factory=lambda: {"nftables": []})
    firewalld: bool = False

    def ask(
        self,
        *,
        machines: int = 4,
        ranges: Sequence[str] = ("10.240.0.0/24", "10.200.0.0/16"),
        modules: Sequence[str] = (),
    ) -> list[str]:
        """The problems that the program reports, one line each; none when it is content."""
        tools, mirror = self.directory / "bin", self.directory / "mirror"
        for each in (tools, mirror):
            each.mkdir(exist_ok=True)
        if self.mirror_filled:
            (mirror / "SHA256SUMS").touch()
        names = "\n".join(network.get("name") or network["Name"] for network in self.networks)
        denied = "permission denied while trying to connect to the socket"
        answers = {
            f"{self.engine} network ls --format {{{{.Name}}}}": [0, names, ""] if self.permitted else [1, "", denied],
            f"{self.engine} image inspect the-image": [0 if self.has_image else 1, "[]", ""],
            "ip -j -4 route show": [0, json.dumps(self.routes), ""],
            "nft -j list ruleset": [0, json.dumps(self.ruleset), ""],
            "firewall-cmd --state": [0, "running", ""],
            "firewall-cmd --get-zone-of-source=10.240.0.0/24": [0, "trusted", ""],
            "firewall-cmd --get-zone-of-source=10.200.0.0/16": [2, "no zone", ""],
        }
        for network in self.networks:
            name = network.get("name") or network["Name"]
            answers[f"{self.engine} network inspect {name}"] = [0, json.dumps([network]), ""]
        firewall = ["nft", *(["firewall-cmd"] if self.firewalld else [])]
        programs = (*firewall, *(["ip"] if self.has_ip else []), *([self.engine] if self.installed else []))
        arguments = [
            *("--engine", self.engine, "--network", "hardway-dev"),
            *("--image", "the-image", "--mirror", str(mirror), "--machines", str(machines), "--ranges", *ranges),
            *(["--modules", *modules] if modules else []),
        ]
        found, _ = problems(PROGRAM, arguments, tools, programs, answers)
        return found


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


def test_host_that_meets_all_preconditions_passes_without_output(host: Host) -> None:
    assert host.ask() == []


def test_an_engine_that_is_not_installed(host: Host) -> None:
    host.installed = False
    (problem,) = host.ask()
    assert problem == "podman is not installed: run `./hardway setup`, or install it"


def test_a_host_without_the_tools_to_ask_about_routes(host: Host) -> None:
    host.has_ip = host.installed = False
    assert [problem.split(" ")[0] for problem in host.ask()] == ["podman", "ip"]


def test_a_kernel_without_what_the_pod_network_needs(host: Host) -> None:
    """Calico on a kernel without VXLAN."""
    here = next(path.name for path in Path("/sys/module").iterdir())
    (problem,) = host.ask(modules=[here, "no_such_module"])
    assert problem.startswith("its kernel has no module no_such_module, which the pod network needs")


def test_an_engine_that_is_not_permitted(host: Host) -> None:
    host.permitted = False
    (problem,) = host.ask()
    assert problem.startswith("podman does not work or is not permitted: permission denied")


def test_a_node_image_that_is_missing(host: Host) -> None:
    host.has_image = False
    (problem,) = host.ask()
    assert problem == "the node image the-image is missing: run `./hardway setup`"


def test_a_mirror_that_is_empty(host: Host) -> None:
    host.mirror_filled = False
    (problem,) = host.ask()
    assert "mirror is empty: run `./hardway setup`" in problem


def test_too_little_memory_and_disk(host: Host) -> None:
    memory, disk = host.ask(machines=1_000_000)
    assert "MiB of memory are free, 1000000 machines want" in memory
    assert "MiB of disk are free, 1000000 machines want" in disk


def test_overlapping_network_of_an_engine_is_reported(host: Host) -> None:
    host.networks.append({"name": "other", "subnets": [{"subnet": "10.240.0.128/25"}], "network_interface": "br0"})
    (problem,) = host.ask()
    assert problem.startswith("10.240.0.0/24 overlaps 10.240.0.128/25, the podman network other")
    assert "lab.network" in problem


def test_overlapping_docker_network_is_reported(host: Host) -> None:
    host.engine = "docker"
    host.networks = [DOCKER, {"Name": "host", "Id": "1", "IPAM": {"Config": None}}]
    (problem,) = host.ask(ranges=["172.16.0.0/12"])
    assert problem.startswith("172.16.0.0/12 overlaps 172.17.0.0/16, the docker network bridge")


def test_overlapping_route_is_reported(host: Host) -> None:
    host.routes += [{"dst": "10.200.7.0/24", "dev": "tun0"}, {"dst": "10.0.0.1", "dev": "eth0"}]
    (problem,) = host.ask()
    assert problem.startswith("10.200.0.0/16 overlaps 10.200.7.0/24, a route by tun0")


@pytest.mark.parametrize("route", ["0.0.0.0/1", "128.0.0.0/1", "8.0.0.0/5"])
def test_vpn_default_routes_do_not_conflict(host: Host, route: str) -> None:
    host.routes.append({"dst": route, "dev": "tun0"})
    assert host.ask() == []


def test_route_of_the_same_size_is_reported(host: Host) -> None:
    host.routes.append({"dst": "10.0.0.0/8", "dev": "tun0"})
    (problem,) = host.ask()
    assert problem.startswith("10.200.0.0/16 overlaps 10.0.0.0/8, a route by tun0")


def test_a_firewall_that_drops_what_is_forwarded(host: Host) -> None:
    """All of its own is in tests/engine/test_firewall.py; here it stands in the report."""
    chain = {"family": "inet", "table": "filter", "name": "forward", "hook": "forward", "policy": "drop"}
    host.ruleset = {"nftables": [{"metainfo": {}}, {"chain": chain}]}
    (problem,) = host.ask()
    assert "table inet filter, chain forward, policy drop" in problem
    assert "`nft insert rule inet filter forward ip saddr { 10.240.0.0/24, 10.200.0.0/16 } accept`" in problem


def test_firewalld_is_told_by_its_own_command(host: Host) -> None:
    host.firewalld = True
    (problem,) = host.ask()
    assert "`firewall-cmd --permanent --zone=trusted --add-source=10.200.0.0/16`" in problem


@pytest.mark.parametrize(
    ("server", "is_reachable"),
    [
        ("10.0.0.2", True),
        ("192.168.127.1", True),
        ("169.254.169.254", True),
        ("2001:db8::1", True),
        ("127.0.0.53", False),
        ("::1", False),
        ("::ffff:127.0.0.1", False),
        ("fe80::1%eth0", False),
        ("nonsense", False),
    ],
)
def test_a_name_server_that_pods_can_ask(server: str, is_reachable: bool) -> None:
    assert preflight._is_reachable(server) is is_reachable


def test_ipv6_ranges_do_not_conflict(host: Host) -> None:
    host.networks.append({"name": "six", "subnets": [{"subnet": "fd00::/64"}], "network_interface": "br6"})
    assert host.ask() == []


def test_a_route_to_nowhere_is_no_crash(host: Host) -> None:
    host.routes += [{"type": "blackhole", "dst": "10.9.0.0/16", "flags": []}]
    assert host.ask() == []


@pytest.mark.parametrize(
    ("engine", "own", "interface"),
    [
        (
            "podman",
            {
                "name": "hardway-dev",
                "id": "x",
                "network_interface": "podman7",
                "subnets": [{"subnet": "10.240.0.0/24"}],
            },
            "podman7",
        ),
        (
            "docker",
            {"Name": "hardway-dev", "Id": "abcdef0123456789", "IPAM": {"Config": [{"Subnet": "10.240.0.0/24"}]}},
            "br-abcdef012345",
        ),
    ],
)
def test_own_network_and_routes_do_not_conflict(host: Host, engine: str, own: dict[str, Any], interface: str) -> None:
    host.engine = engine
    host.networks = [own]
    host.routes += [
        {"dst": "10.240.0.0/24", "dev": interface, "scope": "link"},
        {"dst": "10.200.0.0/24", "gateway": "10.240.0.20", "dev": interface},
    ]
    assert host.ask() == []


def test_all_failed_preconditions_are_in_one_report(host: Host) -> None:
    host.mirror_filled = host.has_image = False
    host.networks.append({"name": "other", "subnets": [{"subnet": "10.200.0.0/24"}], "network_interface": "br0"})
    host.routes.append({"dst": "10.240.0.0/16", "dev": "tun0"})
    found = "\n".join(host.ask(machines=1_000_000))
    for words in ("mirror", "memory", "disk", "the-image", "podman network other", "a route by tun0"):
        assert words in found


def test_preflight_arguments_equal_those_of_the_program(dev: Run) -> None:
    command = dev.named("machines-preflight", "command:local:Command").inputs["create"]
    words = command.split()
    for option in ("--engine", "--network", "--image", "--mirror", "--machines", "--ranges"):
        assert option in words
    assert words[words.index("--machines") + 1] == "4"
    assert words[words.index("--network") + 1] == "hardway-dev"
    script = next(word for word in words if word.endswith("containers/preflight.py"))
    assert (paths.checkout() / script).exists()
    assert Path(words[words.index("--mirror") + 1]).is_absolute()
