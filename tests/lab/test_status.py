"""What `make status` says of a lab that is well, and of one that is not."""

import json

from lab.cluster import Cluster
from lab.commands import Ran, live
from lab.polling import eventually


def _well(*arguments: str) -> Ran:
    ran = live("status", *arguments)
    assert ran.code == 0, ran.output
    return ran


def test_all_is_well_and_the_tables_say_so(cluster: Cluster) -> None:
    """A status that finds fault with a healthy lab, or that does not show what people look for."""
    # Leases and checks of the balancer may still be settling after what other tests did.
    said = eventually("a lab that is well", _well, seconds=90).output
    assert said.splitlines()[-1] == "All is well."
    for name in [machine.name for machine in cluster.machines]:
        assert f"\n{name} " in said
    for word in ("leader", "kube-scheduler", "L7OK", str(cluster.balancer.address), "certificates: none ends within"):
        assert word in said


def test_the_json_tells_programs_the_same(cluster: Cluster) -> None:
    """JSON with other names or units than documented."""
    ran = eventually("a lab that is well", lambda: _well("--json"), seconds=90)
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


def test_a_unit_that_is_stopped_is_said_and_comes_back(cluster: Cluster) -> None:
    """A status that is well whatever happens."""
    controller = cluster.controller.name
    cluster.ssh(controller, "systemctl stop nginx.service")
    try:
        ran = live("status")
    finally:
        cluster.ssh(controller, "systemctl start nginx.service")
    assert ran.code == 1
    last = ran.output.splitlines()[-1]
    assert last.startswith("Not well: ")
    assert f"nginx.service on {controller} does not run" in last
    eventually("a lab that is well again", _well, seconds=90)


def test_an_api_server_that_is_gone_is_said_without_a_traceback(cluster: Cluster) -> None:
    """A status that needs the API to say that there is none."""
    controller = cluster.controller.name
    cluster.ssh(controller, "systemctl stop kube-apiserver.service")
    try:
        ran = live("status", "--json")
    finally:
        cluster.ssh(controller, "systemctl start kube-apiserver.service")
        eventually("a lab that is well again", _well, seconds=120)
    assert ran.code == 1
    said = json.loads(ran.output)
    assert said["api_servers"][0]["ready"] is False
    assert said["etcd"][0]["healthy"] is True
    assert "no API server tells of leases and nodes" in said["problems"]
