"""Flags of the user's own in a cluster of kubeadm's that runs: only what they concern restarts, one by one."""

from collections.abc import Iterator
from itertools import pairwise

import pytest

from config.machines import Role
from lab.cluster import Cluster
from lab.polling import eventually
from lab.session import Show
from lab.settings_file import lab_settings
from labs.kubeadm.conftest import STACK, live

pytestmark = pytest.mark.long

_PROGRAMS = ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet")
# A leader exits where the API server of its machine is away for longer than its lease's deadline, as upstream has it.
_LEADERS = {"kube-controller-manager", "kube-scheduler"}
_FLAGS = {"kube-apiserver": {"max-requests-inflight": 500}, "kubelet": {"v": 3}}


@pytest.fixture(scope="module")
def _flags(cluster: Cluster, show: Show) -> Iterator[None]:
    """The lab with the flags in its settings; as before in the end."""
    with lab_settings(STACK, extra_flags=_FLAGS):
        yield
    back = live("up", show=show)
    assert back.code == 0, back.output
    for controller in cluster.settings.with_role(Role.CONTROLLER):
        assert "max-requests-inflight" not in _command_line(cluster, controller.name, "kube-apiserver")


@pytest.mark.usefixtures("_flags")
def test_a_flag_restarts_its_program_alone(cluster: Cluster, show: Show) -> None:
    controllers = [each.name for each in cluster.settings.with_role(Role.CONTROLLER)]
    before = {name: _starts(cluster, name) for name in controllers}
    manifests = {name: _manifests(cluster, name) for name in controllers}
    pod = cluster.ssh(cluster.workers[0].name, "pgrep -x kube-proxy")
    ran = live("up", show=show)
    assert ran.code == 0, ran.output
    for name in controllers:
        after = _starts(cluster, name)
        restarted = {each for each in _PROGRAMS if after[each] != before[name][each]}
        assert restarted - _LEADERS == {"kube-apiserver", "kubelet"}
        changed = {file for file, sum_ in _manifests(cluster, name).items() if sum_ != manifests[name][file]}
        assert changed == {"kube-apiserver.yaml"}
        assert "--max-requests-inflight=500" in _command_line(cluster, name, "kube-apiserver")
    # One after the other, each in its turn: workers `max_unavailable` at a time, which is 1 here.
    machines = [*controllers, *(each.name for each in cluster.workers)]
    restarts = {name: _kubelet_restart(cluster, name) for name in machines}
    for earlier, later in pairwise(machines):
        assert restarts[earlier][1] < restarts[later][0], f"{later} did not wait for {earlier}: {restarts}"
    for name in machines:
        assert "--v=3" in _command_line(cluster, name, "kubelet")
    assert cluster.ssh(cluster.workers[0].name, "pgrep -x kube-proxy") == pod, "a pod was restarted with the kubelet"
    assert "500" in cluster.kubectl("get", "configmap", "kubeadm-config", "--namespace", "kube-system", "-o", "yaml")
    again = live("up", show=show)
    assert again.code == 0 and again.summary.keys() == {"unchanged"}, again.output


@pytest.mark.usefixtures("_flags")
def test_a_flag_with_which_no_kubelet_serves_stops_at_the_first_controller(cluster: Cluster, show: Show) -> None:
    first, *others = [*(each.name for each in cluster.controllers), *(each.name for each in cluster.workers)]
    before = {name: _kubelet_start(cluster, name) for name in others}
    with lab_settings(STACK, extra_flags={**_FLAGS, "kubelet": {"image-gc-high-threshold": 500}}):
        ran = live("up", show=show)
    assert ran.code != 0
    assert f"kubelet.service on {first}" in ran.output and "image-gc-high-threshold" in ran.output.lower(), ran.output
    assert {name: _kubelet_start(cluster, name) for name in others} == before
    # With the flags as they were: the kubelet that does not serve restarts.
    ran = live("up", show=show)
    assert ran.code == 0, ran.output
    assert "--v=3" in _command_line(cluster, first, "kubelet")
    cluster.kubectl("wait", "--for=condition=Ready", f"node/{first}", "--timeout=10s")


@pytest.mark.usefixtures("_flags")
def test_a_flag_without_which_nothing_serves_stops_at_the_first_controller(cluster: Cluster, show: Show) -> None:
    others = [each.name for each in cluster.settings.with_role(Role.CONTROLLER)][1:]
    before = {name: _starts(cluster, name) for name in others}
    with lab_settings(STACK, extra_flags={**_FLAGS, "kube-apiserver": {"runtime-config": "no/such=thing"}}):
        ran = live("up", show=show)
    assert ran.code != 0
    assert "kube-apiserver on controller-0 does not serve with its new flags" in ran.output
    assert {name: _starts(cluster, name) for name in others} == before
    assert cluster.get("nodes")["items"]


def _starts(cluster: Cluster, machine: str) -> dict[str, str]:
    """Program -> when its process started."""
    words = "".join(f"echo {each} $(ps -o lstart= -p $(pgrep -o -x {each[:15]}));" for each in _PROGRAMS)
    found: dict[str, str] = {}

    def all_run() -> bool:
        rows = (line.partition(" ") for line in cluster.ssh(machine, words).splitlines())
        found.update({program: start for program, _, start in rows if start})
        return found.keys() == set(_PROGRAMS)

    # A leader that has ended by itself is started again after some seconds.
    eventually("every program running", all_run, seconds=60, report=lambda: str(found), pause=1)
    return found


def _kubelet_start(cluster: Cluster, machine: str) -> str:
    """When a machine's kubelet was started."""
    return cluster.ssh(machine, "systemctl show kubelet.service -p ActiveEnterTimestampMonotonic")


def _kubelet_restart(cluster: Cluster, machine: str) -> tuple[int, int]:
    """When a machine's kubelet was last stopped, and when it was started again, in microseconds; all have one clock."""
    properties = ("ActiveExitTimestampMonotonic", "ActiveEnterTimestampMonotonic")
    said = cluster.ssh(machine, f"systemctl show kubelet.service {' '.join(f'-p {each}' for each in properties)}")
    found = dict(line.split("=", 1) for line in said.splitlines())
    stopped, started = (int(found[each]) for each in properties)
    assert 0 < stopped < started
    return stopped, started


def _manifests(cluster: Cluster, machine: str) -> dict[str, str]:
    """Manifest of a static pod -> its checksum."""
    lines = cluster.ssh(machine, "cd /etc/kubernetes/manifests && sha256sum *.yaml").splitlines()
    return {file: checksum for checksum, file in map(str.split, lines)}


def _command_line(cluster: Cluster, machine: str, program: str) -> str:
    return cluster.ssh(machine, f"tr '\\0' '\\n' </proc/$(pgrep -x {program[:15]})/cmdline")
