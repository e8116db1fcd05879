"""A whole lab on Docker, beside a firewall that drops what it forwards: made, restarted, repaired, destroyed."""

import json
import re
import shlex
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from components.substrates.containers.substrate import boot_unit, firewall_program
from components.substrates.pulumi_host import host_routes
from config import lab as config
from lab import session
from lab.commands import CHECKOUT
from lab.polling import eventually
from labs.docker.conftest import STACK
from labs.docker.docker_host import OUTSIDE, OUTSIDE_ADDRESS, DockerHost

PREFIX = f"hardway-{STACK}"
HARDWAY = ("cli", "--stack", STACK)
_REWINDS = 3


@pytest.fixture(scope="module")
def before(host: DockerHost) -> dict[str, str]:
    """The host before the lab."""
    return traces(host)


@pytest.fixture(scope="module")
def settings() -> config.Lab:
    """What the lab is to be."""
    return session.settings_of(STACK)


@pytest.fixture(scope="module")
def up(host: DockerHost, before: dict[str, str]) -> Iterator[str]:
    """What `up` printed."""
    assert "-P FORWARD DROP" in before["rules"]
    yield host.python(*HARDWAY, "up")
    # Among those of `-m long` is no test that destroys it, and its files would be there before the next run.
    host.python(*HARDWAY, "destroy")


def traces(host: DockerHost) -> dict[str, str]:
    """All that a lab leaves on a host."""
    return {
        "containers": host.run("docker", "ps", "--all", "--format", "{{.Names}}"),
        "networks": host.run("docker", "network", "ls", "--format", "{{.Name}}"),
        "volumes": host.run("docker", "volume", "ls", "--quiet"),
        "rules": rules(host),
        "translation": host.run("iptables", "-t", "nat", "-S"),
        "routes": host.run("ip", "-4", "route"),
        "links": "\n".join(re.findall(r"^\d+: (\S+):", host.run("ip", "-o", "link", "show", "type", "bridge"), re.M)),
        "files": "\n".join(str(path) for path in Path("/usr/local/lib").glob(f"{PREFIX}*")),
    }


def rules(host: DockerHost) -> str:
    """The rules of the filter, without their counters."""
    return host.run("iptables", "-S")


def resolves(host: DockerHost, dns: str) -> bool:
    """Whether CoreDNS, which is a pod, has the answer of the name server outside."""
    answer = host.run(
        "docker", "exec", f"{PREFIX}-worker-0", "dig", "+short", "+time=2", "+tries=1", f"@{dns}", OUTSIDE
    )
    return answer.strip() == OUTSIDE_ADDRESS


def works(host: DockerHost, settings: config.Lab) -> None:
    """Wait for the Node, the cluster's DNS and an answer from outside."""
    dns = str(settings.network.dns_service)

    def is_ready() -> bool:
        nodes = json.loads(host.python(*HARDWAY, "kubectl", "get", "nodes", "-o", "json"))["items"]
        ready = [c["status"] for node in nodes for c in node["status"]["conditions"] if c["type"] == "Ready"]
        return ready == ["True"]

    eventually("the Node's being Ready", is_ready, seconds=90)
    eventually("an outside name's address", lambda: resolves(host, dns), seconds=60)


def test_a_lab_comes_up_and_its_pods_resolve_outside_names(host: DockerHost, up: str, settings: config.Lab) -> None:
    assert "worker-0   Ready" in up
    works(host, settings)
    machine = host.run("docker", "exec", f"{PREFIX}-worker-0", "cat", "/etc/resolv.conf")
    # Docker's own resolver, which a pod cannot reach: that it is there makes the line above mean something.
    assert "nameserver 127.0.0.11" in machine


def test_rules_for_the_labs_bridge_stand_first(host: DockerHost, up: str) -> None:
    network = host.run("docker", "network", "inspect", "-f", "{{.Id}}", PREFIX)[:12]
    for chain in ("FORWARD", "DOCKER-USER"):
        found = [line for line in rules(host).splitlines() if line.startswith(f"-A {chain} ") and PREFIX in line]
        assert [re.sub(" -m comment.*", "", line) for line in found] == [
            f"-A {chain} -i br-{network}",
            f"-A {chain} -o br-{network} -m conntrack --ctstate RELATED,ESTABLISHED",
        ]


def test_a_second_up_changes_nothing(host: DockerHost, up: str) -> None:
    resources = host.python(*HARDWAY, "up").partition("Resources:\n")[2].splitlines()
    assert re.fullmatch(r" +\d+ unchanged", resources[0]), resources
    assert resources[1] == ""


def test_the_lab_works_again_after_the_daemons_restart(host: DockerHost, up: str, settings: config.Lab) -> None:
    """As after an upgrade of Docker, or a reboot: the unit of the host does it; systemd itself need not run here."""
    host.stop_daemon()
    host.run("iptables", "-F", "DOCKER-USER")
    host.start_daemon()
    assert host.run("docker", "ps", "--quiet") == ""
    names = [machine.name for machine in settings.machines]
    for line in boot_unit("docker", PREFIX, names, host_routes(settings.machines)).splitlines():
        if line.startswith("ExecStart="):
            host.run(*shlex.split(line.removeprefix("ExecStart=")))
    works(host, settings)
    assert len(re.findall(f"--comment {PREFIX} ", rules(host))) == 4


@pytest.mark.long
def test_a_worker_is_replaced(host: DockerHost, up: str, settings: config.Lab) -> None:
    before = host.run("docker", "inspect", "-f", "{{.Id}}", f"{PREFIX}-worker-0")
    host.python(*HARDWAY, "replace", "worker-0")
    assert host.run("docker", "inspect", "-f", "{{.Id}}", f"{PREFIX}-worker-0") != before
    works(host, settings)


@pytest.mark.long
def test_a_lab_is_saved_and_rewound(host: DockerHost, up: str, settings: config.Lab) -> None:
    """Disks that Docker keeps elsewhere than podman, or that are put back half."""
    host.python(*HARDWAY, "kubectl", "create", "configmap", "before-the-save")
    host.python(*HARDWAY, "save", "one")
    assert "one " in host.python(*HARDWAY, "saves")
    containers = traces(host)["containers"]
    for number in range(_REWINDS):
        host.python(*HARDWAY, "kubectl", "create", "configmap", "after-the-save")
        host.python(*HARDWAY, "kubectl", "delete", "configmap", "before-the-save")
        damage = "rm -rf /etc/kubernetes /var/lib/kubelet/config.yaml; echo after >/etc/after"
        host.run("docker", "exec", f"{PREFIX}-worker-0", "sh", "-c", damage)
        began = time.monotonic()
        host.python(*HARDWAY, "rewind", "one")
        print(f"rewind {number + 1}: healthy, with DNS, after {time.monotonic() - began:.1f} s")
        objects = host.python(*HARDWAY, "kubectl", "get", "configmaps", "-o", "name")
        assert "before-the-save" in objects and "after-the-save" not in objects
        assert host.try_run("docker", "exec", f"{PREFIX}-worker-0", "test", "-e", "/etc/after").returncode == 1
    assert traces(host)["containers"] == containers
    works(host, settings)
    assert re.search(r"Resources:\n +\d+ unchanged\n", host.python(*HARDWAY, "preview"))
    host.python(*HARDWAY, "drift")
    host.python(*HARDWAY, "stop")
    host.python(*HARDWAY, "start")
    works(host, settings)
    host.python(*HARDWAY, "saves", "--remove", "one")
    assert "has no saves" in host.python(*HARDWAY, "saves")


def test_destroy_leaves_nothing_also_where_the_state_holds_an_older_script(
    host: DockerHost, up: str, before: dict[str, str]
) -> None:
    """Labs were made with `docker rm -f -t 0 -v`, which Docker refuses."""
    state = CHECKOUT / ".state" / ".pulumi" / "stacks" / "hardway" / f"{STACK}.json"
    now = state.read_text()
    older = now.replace("docker rm -f -v", "docker rm -f -t 0 -v")
    assert older.count("docker rm -f -t 0 -v") > 3
    json.loads(older)
    state.write_text(older)
    host.python(*HARDWAY, "destroy")
    assert traces(host) == before
    resources: list[Any] = json.loads(state.read_text())["checkpoint"]["latest"].get("resources") or []
    assert resources == []
    assert not Path(firewall_program(PREFIX)).exists()
