"""A lab on Debian 13 as an ordinary user makes it: podman 5 beside Docker 26 and ufw, which drop forwarded packets."""

import re

import pytest

from lab.polling import eventually
from labs.debian13.debian_root import PROJECT, USER
from labs.debian13.namespace_host import NamespaceHost

STACK = "hosts-test"
PREFIX = f"hardway-{STACK}"
SETTINGS = """\
config:
  hardway:lab:
    controllers: 1
    workers: 1
    containers: {engine: podman}
    network: {nodes: 10.153.0.0/24, pods: 10.163.0.0/16, services: 10.173.0.0/24}
"""
DNS = "10.173.0.10"
API_SERVICE = "10.173.0.1"


@pytest.fixture(scope="module")
def before(host: NamespaceHost) -> dict[str, str]:
    """The host beside Docker, before there is a lab."""
    host.run(f"cat >Pulumi.{STACK}.yaml <<END\n{SETTINGS}END", user=USER)
    host.load_node_image()
    host.start_docker()
    found = traces(host)
    assert "-P FORWARD DROP" in found["rules"]
    return found


@pytest.fixture(scope="module")
def up(host: NamespaceHost, before: dict[str, str]) -> str:
    """What the user's `sudo make up` printed."""
    return make(host, "up", sudo=True)


def make(host: NamespaceHost, target: str, *, sudo: bool = False) -> str:
    """What the user's `make` prints."""
    return host.run(f"{'sudo ' if sudo else ''}make {target} STACK={STACK}", user=USER)


def traces(host: NamespaceHost) -> dict[str, str]:
    """All that a lab leaves on a host."""
    return {
        "containers": host.run("podman ps --all --format '{{.Names}}'"),
        "networks": host.run("podman network ls --format '{{.Name}}'"),
        "volumes": host.run("podman volume ls --quiet"),
        "rules": host.run("iptables -S"),
        "routes": host.run("ip -4 route"),
        "bridges": host.run("ip -o link show type bridge | cut -d : -f 2"),
        "files": host.run("ls /usr/local/lib"),
    }


def resolves(host: NamespaceHost) -> bool:
    """Whether CoreDNS, a pod that has it from the API, knows the API's Service."""
    name = "kubernetes.default.svc.cluster.local"
    answer = make(host, f"ssh MACHINE=worker-0 ARGS='dig +short +time=2 +tries=1 @{DNS} {name}'")
    return answer.strip() == API_SERVICE


def new_pods_work(host: NamespaceHost) -> None:
    """Have CoreDNS in new pods, which must reach the API before they are available, and wait for their answer."""
    for what in ("restart", "status --timeout=90s"):
        make(host, f"kubectl ARGS='--namespace kube-system rollout {what} deployment/coredns'")
    eventually("an answer of the cluster's DNS", lambda: resolves(host), seconds=60)


def test_the_engines_are_those_of_debian_13(host: NamespaceHost, before: dict[str, str]) -> None:
    assert host.run("podman --version").startswith("podman version 5.")
    assert host.run("docker version --format '{{.Server.Version}}'").startswith("26.")
    assert "Python 3.13" in host.run(".venv/bin/python -V", user=USER)


def test_a_lab_comes_up_where_docker_drops_forwarded_packets(host: NamespaceHost, up: str) -> None:
    assert re.search(r"^worker-0 +Ready", up, re.M)
    # netavark's own rules: otherwise this would be the case of Debian 12.
    assert "table inet netavark" in host.run("nft list tables")
    new_pods_work(host)


def test_the_user_needs_no_sudo_afterwards(host: NamespaceHost, up: str) -> None:
    assert re.search(r"^worker-0 +Ready", make(host, "kubectl ARGS='get nodes'"), re.M)
    assert "worker-0" in make(host, "status")
    preview = make(host, "preview")
    assert re.search(r"^Resources:\n +\d+ unchanged\n", preview, re.M), preview
    assert host.run(f"find {PROJECT} ! -user {USER}") == ""


def test_a_second_up_changes_nothing(host: NamespaceHost, up: str) -> None:
    again = make(host, "up", sudo=True)
    assert re.search(r"^Resources:\n +\d+ unchanged\n\n", again, re.M), again


def test_lab_works_after_ufw_is_enabled(host: NamespaceHost, up: str) -> None:
    host.run("ufw --force enable")
    try:
        assert "-A FORWARD -j ufw-reject-forward" in host.run("iptables -S FORWARD")
        new_pods_work(host)
    finally:
        host.run("ufw --force disable")


def test_destroy_leaves_nothing(host: NamespaceHost, up: str, before: dict[str, str]) -> None:
    make(host, "destroy", sudo=True)
    after = traces(host)
    # ufw leaves its empty chains, and the policy that was there before.
    for found in (before, after):
        found["rules"] = "\n".join(
            line for line in found["rules"].splitlines() if "ufw" not in line and "-P" not in line
        )
    assert after == before
