"""What `./hardway status` says of a healthy lab, and of one that is not."""

import json
from collections.abc import Sequence

import pytest

from lab.cluster import Cluster
from lab.commands import Ran, live
from lab.footprint import PREFIX, podman
from lab.polling import eventually

# On worker-0 or controller-0: what breaks, what repairs, and the line; {pods}, {hop} and {range} are the lab's.
_FILTER = "type filter hook"
_SCRIPT = "/usr/local/lib/hardway/etcd-snapshot"
_BROKEN = {
    "route": (
        "worker",
        "ip route flush proto 240",
        "systemctl restart hardway-pod-network.service",
        "worker-0 has no route to the pods of worker-1 ({pods} via {hop}): "
        "`systemctl restart hardway-pod-network.service` there sets its routes again",
    ),
    "firewall": (
        "worker",
        f"nft add table inet test && nft add chain inet test f '{{ {_FILTER} forward priority 0; policy drop; }}'",
        "nft delete table inet test",
        "worker-0: its firewall drops what it forwards for pods: table inet test, chain f, policy drop. "
        "Let the lab pass: `nft insert rule inet test f ip saddr {{ {range} }} accept && "
        "nft insert rule inet test f ip daddr {{ {range} }} accept`, and keep that for the next boot",
    ),
    # Where no reader of rules looks.
    "packets": (
        "worker",
        "nft add table netdev test && "
        f"nft add chain netdev test f '{{ {_FILTER} ingress device eth0 priority 0; }}' && "
        "nft add rule netdev test f ip saddr $range drop",
        "nft delete table netdev test",
        "pods on worker-0 and pods on worker-1 do not reach each other",
    ),
    "snapshot": (
        "controller",
        f"mv {_SCRIPT} {_SCRIPT}.aside && printf '#!/bin/sh\necho planted >&2\nexit 1\n' >{_SCRIPT} && "
        f"chmod +x {_SCRIPT} && ! systemctl start etcd-snapshot.service",
        f"mv {_SCRIPT}.aside {_SCRIPT} && systemctl start etcd-snapshot.service",
        "the last snapshot of etcd on controller-0 failed: planted",
    ),
    # What another checkout's `up` makes has another host key.
    "host key": (
        "worker",
        "cd /etc/ssh && mv ssh_host_ed25519_key aside && ssh-keygen -q -t ed25519 -N '' -f ssh_host_ed25519_key && "
        "systemctl restart ssh.service",
        "cd /etc/ssh && rm ssh_host_ed25519_key.pub && mv aside ssh_host_ed25519_key && systemctl restart ssh.service",
        "worker-0 was recreated from another checkout or another state: its SSH host key is not the one that this lab "
        "has pinned. Work where it was recreated; or run `./hardway destroy` there, and `./hardway up` here",
    ),
}


@pytest.fixture(scope="module")
def settled(cluster: Cluster) -> None:
    """Leases and checks of the balancer may still be settling after what other tests did."""
    eventually("a healthy lab", _well, seconds=90)


# Two at once have to do with different machines.
@pytest.mark.parametrize("what", [("route", "snapshot"), ("firewall",), ("packets",), ("host key",)], ids=" and ".join)
@pytest.mark.usefixtures("settled")
def test_what_is_broken_has_its_line_and_nothing_else_does(cluster: Cluster, what: Sequence[str]) -> None:
    """A status that says "The lab is healthy." while pods do not reach each other; effects beside the cause."""
    broken = [_BROKEN[each] for each in what]
    machines = {"worker": cluster.workers[0].name, "controller": cluster.controller.name}
    other, pods = cluster.workers[1], cluster.settings.network.pods
    for role, breaks, _, _ in broken:
        _inside(machines[role], f"range={pods}\n{breaks}")
    try:
        ran = live("status")
    finally:
        for role, _, repairs, _ in broken:
            _inside(machines[role], repairs)
    assert ran.code == 1, ran.output
    expected = [line.format(pods=other.pod_cidr, hop=other.address, range=pods) for *_, line in broken]
    assert sorted(_problems(ran)) == sorted(f"  {each}" for each in expected)
    eventually("a lab that is healthy again", _well, seconds=90)


def _inside(machine: str, script: str) -> None:
    # Not by ssh, which is what one of them breaks.
    podman("exec", f"{PREFIX}-{machine}", "bash", "-ec", script)


def _problems(ran: Ran) -> list[str]:
    lines = ran.output.splitlines()
    return lines[lines.index("Not healthy:") + 1 :]


def _well(*arguments: str) -> Ran:
    ran = live("status", *arguments)
    assert ran.code == 0, ran.output
    return ran


@pytest.mark.usefixtures("settled")
def test_healthy_lab_is_reported_as_healthy(cluster: Cluster) -> None:
    """A status that finds fault with a healthy lab, or that does not show what people look for."""
    said = _well().output
    assert said.splitlines()[-1] == "The lab is healthy."
    for name in [machine.name for machine in cluster.machines]:
        assert f"\n{name} " in said
    for word in ("leader", "kube-scheduler", "L7OK", str(cluster.balancer.address), "certificates: none expires"):
        assert word in said


@pytest.mark.usefixtures("settled")
def test_json_has_the_same_content(cluster: Cluster) -> None:
    """JSON with other names or units than documented."""
    ran = _well("--json")
    said = json.loads(ran.output)
    assert (said["stack"], said["well"], said["problems"]) == ("test", True, [])
    assert said["endpoint"]["held_by"] == [cluster.balancer.name]
    (member,) = said["etcd"]
    assert (member["machine"], member["role"], member["healthy"]) == (cluster.controller.name, "leader", True)
    assert member["revision"] > 1
    assert member["db_size"] >= member["db_size_in_use"] > 4096
    assert {lease["name"]: lease["holder"] for lease in said["leases"]} == {
        "kube-controller-manager": cluster.controller.name,
        "kube-scheduler": cluster.controller.name,
    }
    assert [(each["machine"], each["ready"]) for each in said["api_servers"]] == [(cluster.controller.name, True)]
    assert {each["backend"] for each in said["backends"] if each["up"]} == {
        "api-servers",
        "api-servers-terminated",
        "health-proxies",
    }
    assert [each["name"] for each in said["nodes"]] == [worker.name for worker in cluster.workers]
    ends = {each["name"]: each["not_after"] for each in said["certificates"]}
    assert ends == {each["name"]: each["not_after"] for each in cluster.outputs["certificates"]}


@pytest.mark.usefixtures("settled")
def test_stopped_unit_is_reported(cluster: Cluster) -> None:
    """A status that is always healthy."""
    controller = cluster.controller.name
    cluster.ssh(controller, "systemctl stop nginx.service")
    try:
        ran = live("status")
    finally:
        cluster.ssh(controller, "systemctl start nginx.service")
    assert ran.code == 1
    assert f"  nginx.service on {controller} does not run" in _problems(ran)
    eventually("a lab that is healthy again", _well, seconds=90)


def test_stopped_api_server_is_reported_without_a_traceback(cluster: Cluster) -> None:
    """A status that needs the API to say that there is none."""
    controller = cluster.controller.name
    cluster.ssh(controller, "systemctl stop kube-apiserver.service")
    try:
        ran = live("status", "--json")
    finally:
        cluster.ssh(controller, "systemctl start kube-apiserver.service")
        eventually("a lab that is healthy again", _well, seconds=120)
    assert ran.code == 1
    said = json.loads(ran.output)
    assert said["api_servers"][0]["ready"] is False
    assert said["etcd"][0]["healthy"] is True
    assert "no API server lists leases and nodes" in said["problems"]
