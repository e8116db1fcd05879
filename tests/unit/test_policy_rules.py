"""The rules of the policy pack: each has a lab that it refuses, and one beside it that it takes."""

import json
import shlex
from typing import Any

import pytest

from policy import rules
from policy.rules import UNKNOWN, Resource


def resource(type: str, /, urn: str = "a", depends_on: tuple[str, ...] = (), **properties: Any) -> Resource:
    return Resource(urn, type, urn, properties, depends_on)


def firewall(**properties: Any) -> Resource:
    ssh = [{"protocol": "tcp", "ports": ["22"]}]
    world: dict[str, Any] = {"allows": ssh, "sourceRanges": ["0.0.0.0/0"]}
    return resource("gcp:compute/firewall:Firewall", **world | properties)


@pytest.mark.parametrize(
    "properties",
    [
        {},
        {"sourceRanges": ["192.0.2.7/32", "::/0"]},
        {"sourceRanges": []},
        {"allows": [{"protocol": "tcp", "ports": ["8000", "6000-7000"]}]},
        {"allows": [{"protocol": "all"}]},
    ],
)
def test_open_to_the_world(properties: dict[str, Any]) -> None:
    (violation,) = rules.open_to_the_world(firewall(**properties))
    assert "can be reached from" in violation
    assert not list(rules.open_to_the_world(firewall(**properties), ["a"]))


@pytest.mark.parametrize(
    "properties",
    [
        {"sourceRanges": ["192.0.2.0/24"]},
        {"sourceRanges": UNKNOWN},
        {"allows": [{"protocol": "tcp", "ports": ["80", "443"]}, {"protocol": "icmp"}]},
        {"allows": [{"protocol": "udp"}]},
        {"direction": "EGRESS"},
        {"sourceRanges": [], "sourceTags": ["worker"]},
    ],
)
def test_not_open_to_the_world(properties: dict[str, Any]) -> None:
    assert not list(rules.open_to_the_world(firewall(**properties)))


def test_validity() -> None:
    leaf = "tls:index/locallySignedCert:LocallySignedCert"
    assert list(rules.leaf_validity(resource(leaf, validityPeriodHours=366 * 24 + 1)))
    assert not list(rules.leaf_validity(resource(leaf, validityPeriodHours=366 * 24)))
    assert not list(rules.leaf_validity(resource(leaf, validityPeriodHours=UNKNOWN)))
    assert not list(rules.leaf_validity(resource(leaf, validityPeriodHours=50000, isCaCertificate=True)))


def test_private_keys() -> None:
    plain = {"environment": {"KEYS": ["x", "-----BEGIN OPENSSH PRIVATE KEY-----\nx"]}}
    (violation,) = rules.plain_private_keys(plain)
    assert violation.startswith("environment.KEYS[1] ")
    assert "OPENSSH" not in violation
    assert not list(rules.plain_private_keys({"key": "[secret]", "public": "-----BEGIN PUBLIC KEY-----"}))


@pytest.mark.parametrize(
    ("connection", "where"),
    [
        ({"host": "10.0.0.1"}, "connection "),
        ({"host": "10.0.0.1", "hostKey": ""}, "connection "),
        ({"host": "10.0.0.1", "hostKey": "ssh-ed25519 x", "proxy": {"host": "10.0.0.2"}}, "connection.proxy "),
    ],
)
def test_host_keys(connection: dict[str, Any], where: str) -> None:
    (violation,) = rules.host_key(resource("command:remote:Command", connection=connection))
    assert violation.startswith(where)


@pytest.mark.parametrize("connection", [UNKNOWN, "[secret]", {"host": "10.0.0.1", "hostKey": UNKNOWN}])
def test_host_keys_that_are_pinned_or_not_known(connection: Any) -> None:
    assert not list(rules.host_key(resource("command:remote:CopyToRemote", connection=connection)))
    assert not list(rules.host_key(resource("command:local:Command")))


@pytest.mark.parametrize(
    "text",
    [
        "ExecStart=/usr/bin/etcd --listen-client-urls=https://10.0.0.1:2379,http://10.0.0.1:2379",
        "ETCD_INITIAL_CLUSTER=a=http://10.0.0.1:2380",
        "kube-apiserver --etcd-servers http://10.0.0.1:2379",
        "advertise-client-urls: 'http://10.0.0.1:2379'",
        "- name: listen-peer-urls\n  value: http://10.0.0.1:2380",
    ],
)
def test_etcd_without_tls(text: str) -> None:
    assert list(rules.etcd_without_tls(resource("command:remote:Command", stdin=f"first line\n{text}\nlast line")))


@pytest.mark.parametrize(
    "text",
    [
        "--listen-client-urls=https://10.0.0.1:2379 --listen-metrics-urls=http://127.0.0.1:2381",
        "--etcd-servers=https://10.0.0.1:2379\ncurl http://127.0.0.1:2381/health",
    ],
)
def test_etcd_by_tls(text: str) -> None:
    assert not list(rules.etcd_without_tls(resource("command:remote:Command", stdin=text)))


def test_images() -> None:
    manifest = resource(
        "command:remote:Command", "dns", stdin="containers:\n- name: x\n  image: registry.k8s.io/x:v1\n"
    )
    archive = resource(
        "command:remote:Command", "images", stdin=f"import_image file:///x.tar {'0' * 64} registry.k8s.io/x:v1"
    )
    assert [urn for urn, _ in rules.images_without_digest([manifest])] == ["dns"]
    assert not list(rules.images_without_digest([manifest, archive]))
    by_digest = resource("command:remote:Command", stdin=f'"image": "registry.k8s.io/x:v1@sha256:{"0" * 64}",')
    assert not list(rules.images_without_digest([by_digest]))


def test_existing_hosts() -> None:
    plan = json.dumps({"stack": "machines", "hosts": [{"login": {"host": "192.0.2.7"}}]})
    lab = resource("hardway:index:Machines", "machines")
    enter = resource(
        "command:local:Command",
        "enter",
        create=f"# enter\npython -m components.substrates.existing enter {shlex.quote(plan)}",
    )

    def step(host: Any, *depends_on: str) -> Resource:
        return resource("command:remote:Command", "step", depends_on, connection={"host": host})

    between = resource("hardway:index:Script", "between", ("enter",))
    found = [lab, enter, between]
    assert [urn for urn, _ in rules.unmarked_hosts([*found, step("192.0.2.7")])] == ["step"]
    assert [urn for urn, _ in rules.unmarked_hosts([*found, step("192.0.2.8", "between")])] == ["step"]
    assert [urn for urn, _ in rules.unmarked_hosts([*found, step(UNKNOWN)])] == ["step"]
    assert not list(rules.unmarked_hosts([*found, step("192.0.2.7", "between")]))
    assert not list(rules.unmarked_hosts([*found, step(UNKNOWN, "enter")]))
    assert not list(rules.unmarked_hosts([step("10.0.0.1")]))
