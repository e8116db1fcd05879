"""The lab on the user's hosts works, and shows nobody what the user has."""

import pytest

from components.substrates.existing.reach import SSH_PASSWORD
from lab.cluster import Cluster
from lab.commands import Ran, Started, exported, toolchain
from lab.drilling import drill
from lab.polling import eventually
from lab.session import Show
from lab.workload import NODE_PORT, WEB, Workload
from labs.machines.conftest import BEHIND, HOSTS, JUMPBOX, KEY, STACK, SUDOER
from labs.machines.own_hosts import PASSWORD, OwnHost, OwnHosts, podman
from labs.machines.own_workload import OwnWorkload
from live import cluster as live_cluster
from live.drills.faults import TABLE, Kill
from live.search.faults import Packets, one_way
from toolchain import stack


@pytest.fixture(scope="module")
def workload(cluster: Cluster) -> Workload:
    """Pods on both workers, ready."""
    made = OwnWorkload(cluster=cluster, hosts=HOSTS)
    made.start()
    return made


def test_up_makes_a_cluster(cluster: Cluster) -> None:
    """Workers behind a jumpbox, or of a user who is not root, that are left out."""
    nodes = {node["metadata"]["name"]: node for node in cluster.get("nodes")["items"]}
    assert set(nodes) == {SUDOER.name, BEHIND.name}


def test_pods_reach_each_other_and_are_reached_from_outside(workload: Workload) -> None:
    """A host's own firewall, routes or names that the lab does not get along with."""
    first, second = workload.web
    assert {first.node, second.node} == {SUDOER.name, BEHIND.name}
    assert workload.curl(first, f"http://{second.address}:8080/hostname") == second.name
    assert workload.curl(second, f"http://{WEB}/hostname") in (first.name, second.name)
    assert "kubernetes.default.svc.cluster.local" in workload.exec(first, "dig", "+search", "+short", "-x", "10.46.0.1")
    for host in (SUDOER, BEHIND):
        said = podman("exec", JUMPBOX.container, "bash", "-c", _get(host, NODE_PORT, "/hostname"))
        assert said.splitlines()[-1] in (first.name, second.name)


def _get(host: OwnHost, port: int, path: str) -> str:
    # A plain host has no curl.
    return f"exec 3<>/dev/tcp/{host.address}/{port}; printf 'GET {path} HTTP/1.0\\r\\n\\r\\n' >&3; cat <&3"


def test_a_second_up_needs_no_password_and_changes_nothing(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """A password that is asked for again; steps that run again."""
    monkeypatch.delenv(SSH_PASSWORD, raising=False)
    preview = toolchain("preview", stack=STACK)
    assert preview.code == 0 and preview.summary.keys() == {"unchanged"}, preview.output
    up = toolchain("up", stack=STACK)
    assert up.code == 0 and up.summary.keys() == {"unchanged"}, up.output


def test_a_second_lab_does_not_take_the_machines(cluster: Cluster) -> None:
    """Two labs on one machine, each of which takes it for its own."""
    for host in HOSTS[:4]:
        assert podman("exec", host.container, "cat", "/var/lib/hardway/lab").split()[0] == STACK


def test_data_of_the_user_are_in_no_output(cluster: Cluster) -> None:
    """A password or a private key in the state, in what the engine says, or on a command line."""
    key = KEY.read_text().splitlines()[1]
    state = exported(secrets=True, stack=STACK)
    assert "BEGIN OPENSSH PRIVATE KEY" in state, "the lab's own key is not there: this test shows nothing"
    lines = "\n".join(cluster.command_lines)
    assert "-m components.substrates.existing enter" in lines, "no command was seen: this test shows nothing"
    for text in (state, lines, cluster.up.output):
        assert PASSWORD not in text and key not in text
    assert "BEGIN OPENSSH PRIVATE KEY" not in lines
    assert "BEGIN OPENSSH PRIVATE KEY" not in exported(stack=STACK)


def test_the_private_key_lies_on_no_machine(cluster: Cluster, trusted: OwnHosts) -> None:
    """The lab's key in the hands of an attacker with root on one machine."""
    for host in HOSTS:
        found = trusted.bash(host, "grep -rls 'BEGIN OPENSSH PRIVATE KEY' /root /home /etc /var/lib/hardway || true")
        assert all(line.startswith("/etc/ssh/ssh_host_") for line in found.splitlines()), found


def test_users_reach_every_machine_as_root(cluster: Cluster) -> None:
    """An ssh_config that does not know ports, users and jumpboxes; tools that run as a user without permissions."""
    for host in HOSTS[:4]:
        ran = toolchain("ssh", host.name, "--", "hostname && sudo -n id -u || id -u", stack=STACK)
        assert ran.code == 0 and ran.output.split()[0] == host.name, ran.output
    # Leases and checks of the balancer may still be settling.
    status = eventually("a healthy lab", _well, seconds=90)
    for host in HOSTS[:4]:
        assert host.name in status.output, status.output


def _well() -> Ran:
    ran = Started("status", stack=STACK).wait()
    assert ran.code == 0, ran.output
    return ran


def test_faults_need_only_ssh(cluster: Cluster) -> None:
    """A user who is not root, whose sudo removes where the connection comes from; a host behind a jumpbox."""
    lab = live_cluster.find(stack.read(STACK))
    for host in (SUDOER, BEHIND):
        machine = lab.machine(host.name)
        killed = Kill(lab, machine, "kube-proxy")
        killed.inject()
        killed.recover()
        assert killed.served is not None
        lost = Packets(lab, machine, one_way("in"))
        lost.inject()
        # The host's packets pass, or the repair cannot be made.
        lost.recover()
        assert lab.ssh(machine, f"nft list table inet {TABLE}").returncode == 1


def test_a_drill_that_needs_a_power_switch_is_refused(cluster: Cluster, show: Show) -> None:
    ran = drill("stop-worker", stack=STACK, show=show).wait()
    assert ran.code == 1
    assert "cannot have the drill stop-worker: it needs machines that are containers" in ran.output


@pytest.mark.long
def test_the_ssh_key_is_rotated_and_the_hosts_stay_the_labs(cluster: Cluster, trusted: OwnHosts) -> None:
    """A host that takes the lab for another one, a jumpbox with the old key, a key of the user's that goes.

    test_destroy sees that nothing of it stays.
    """
    keys = {host: trusted.bash(host, _KEYS) for host in HOSTS}
    marks = {host: trusted.bash(host, "cat /var/lib/hardway/lab") for host in HOSTS[:4]}
    rotated = toolchain("rotate", "ssh", stack=STACK)
    assert rotated.code == 0, rotated.output
    for host in HOSTS:
        before, after = keys[host].splitlines(), trusted.bash(host, _KEYS).splitlines()
        old = [line for line in before if line.endswith(f" hardway-{STACK}")]
        (new,) = (line for line in after if f" hardway-{STACK}:SHA256:" in line)
        assert len(old) == 1 and old[0].split()[-2] != new.split()[-2]
        assert [line for line in after if line != new] == [line for line in before if line not in old]
    assert {host: trusted.bash(host, "cat /var/lib/hardway/lab") for host in HOSTS[:4]} == marks
    up = toolchain("up", stack=STACK)
    assert up.code == 0 and up.summary.keys() == {"unchanged"}, up.output


_KEYS = "cat /root/.ssh/authorized_keys /home/*/.ssh/authorized_keys 2>/dev/null || true"
