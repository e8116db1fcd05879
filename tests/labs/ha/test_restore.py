"""A restore that fails on one member, on three members: acknowledged writes never diverge, and no data are lost."""

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from lab.cluster import Cluster
from lab.commands import Ran, Started
from lab.footprint import podman
from lab.polling import eventually
from lab.session import Show
from labs.ha.conftest import STACK

VICTIM = "controller-1"
_MASK = "/etc/systemd/system.control/etcd.service"
_ETCDCTL = ". /etc/etcd/etcdctl.env && etcdctl"
# The member of the machine itself, alone.
_OWN_MEMBER = ". /etc/etcd/etcdctl.env && ETCDCTL_ENDPOINTS=https://127.0.0.1:2379 etcdctl --command-timeout=2s"
# Of etcd's own keys: no API server reads it.
_LATER = "/hardway-test/later"


def live(*words: str, show: Show = lambda line: None) -> Ran:
    """`./hardway snapshot`, `./hardway restore`, `./hardway status`."""
    return Started(*words, show=show, stack=STACK).wait()


def test_members_whose_restore_failed_stay_down_until_it_is_run_again(
    cluster: Cluster, show: Show, tmp_path: Path
) -> None:
    """Members that were restored beside one that was not: a split cluster; or live data deleted without a copy."""
    file = tmp_path / "lab.db"
    controllers = [each.name for each in cluster.controllers]
    cluster.kubectl("create", "configmap", "account", "--from-literal=v=saved")
    assert live("snapshot", str(file)).code == 0
    cluster.kubectl("patch", "configmap", "account", "-p", '{"data":{"v":"later"}}')
    before = _data(cluster, controllers)
    # What is mounted cannot be moved; the mount ends with the boot.
    cluster.ssh(VICTIM, "mount --bind /var/lib/etcd/member /var/lib/etcd/member")
    failed = live("restore", str(file), show=show)
    assert failed.code == 1
    assert f"{VICTIM}: mv: cannot move '/var/lib/etcd/member'" in failed.output
    assert f"etcd.service is masked on {', '.join(controllers)}" in failed.output
    assert f"./hardway restore -s {STACK} {file}" in failed.output
    assert {_etcd(cluster, name) for name in controllers} == {"masked inactive"}
    _reboot(cluster, controllers)
    for name in controllers:
        assert _etcd(cluster, name) == "masked inactive"
        assert "etcd.service is masked" in cluster.try_ssh(name, "systemctl start etcd.service").stderr

    new = [name for name in controllers if name != VICTIM]
    _start_all_by_hand(cluster, new)

    restored = live("restore", str(file), show=show)
    assert restored.code == 0, restored.output
    after = _data(cluster, controllers)
    assert len({each["cluster"] for each in after.values()}) == 1
    assert {each["cluster"] for each in after.values()}.isdisjoint(each["cluster"] for each in before.values())
    # Above what the members that were started by hand have had, too.
    assert min(each["revision"] for each in after.values()) > 2 * 10**9
    eventually("the API", lambda: cluster.try_kubectl("get", "configmap", "account").returncode == 0, seconds=60)
    assert cluster.get("configmap", "account")["data"] == {"v": "saved"}
    # The first restore has left its marker on these members, and etcd has written since.
    for name in new:
        assert _copies(cluster, name) == ["without", "with"]
    assert _copies(cluster, VICTIM) == ["without"]
    cluster.kubectl("delete", "configmap", "account")
    eventually("a healthy lab", lambda: live("status").code == 0, seconds=120, report=lambda: live("status").output)


def _reboot(cluster: Cluster, names: Sequence[str]) -> None:
    """Restart machines, and wait until all that starts at a boot has started or failed."""
    podman("restart", "--time", "0", *(f"hardway-{STACK}-{name}" for name in names))
    for name in names:
        eventually(f"{name} up again", partial(_has_booted, cluster, name), seconds=60)


def _has_booted(cluster: Cluster, name: str) -> bool:
    said = cluster.try_ssh(name, "systemctl is-system-running --wait").stdout
    return said.strip() in ("running", "degraded")


def _start_all_by_hand(cluster: Cluster, new: Sequence[str]) -> None:
    """Start etcd everywhere, against the message's advice: those with new data serve, and refuse the other."""
    for name in (*new, VICTIM):
        cluster.ssh(name, f"rm {_MASK} && systemctl daemon-reload && systemctl start --no-block etcd.service")
    for name in new:
        eventually(f"a write on {name}", partial(cluster.ssh, name, f"{_OWN_MEMBER} put {_LATER} {name}"), seconds=60)
    refused = "journalctl -b -u etcd.service | grep -m 1 'cluster ID mismatch'"
    eventually(f"{VICTIM} refused", lambda: cluster.try_ssh(VICTIM, refused).returncode == 0, seconds=60)
    # Without a leader there is no write and no linearizable read.
    assert cluster.try_ssh(VICTIM, f"{_OWN_MEMBER} put {_LATER} {VICTIM}").returncode != 0


def _etcd(cluster: Cluster, name: str) -> str:
    asked = "echo $(systemctl is-enabled etcd.service) $(systemctl is-active etcd.service)"
    return cluster.ssh(name, asked).strip()


def _copies(cluster: Cluster, name: str) -> list[str]:
    """Whether the copies of a member's data, oldest first, are with what was written after the first restore."""
    copies = "/var/lib/etcd-restore/before-*/member/snap/db"
    listed = f"for db in {copies}; do grep -q {_LATER} $db && echo with || echo without; done"
    return cluster.ssh(name, listed).split()


def _data(cluster: Cluster, controllers: Sequence[str]) -> dict[str, dict[str, int]]:
    """Endpoint -> ID of its cluster, and its revision."""
    found = json.loads(cluster.ssh(controllers[0], f"{_ETCDCTL} endpoint status -w json"))
    headers = {each["Endpoint"]: each["Status"]["header"] for each in found}
    assert len(headers) == len(controllers)
    return {
        endpoint: {"cluster": header["cluster_id"], "revision": header["revision"]}
        for endpoint, header in headers.items()
    }
