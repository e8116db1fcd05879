"""`upgrade` of a kubeadm lab from Kubernetes 1.35.8 to 1.36.4: stopped at its first machine, under load, and back."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from config import upgrade_record
from config.machines import Role
from config.upgrade_record import UpgradeRecord
from lab import session
from lab.cluster import Cluster
from lab.commands import Started, settings_file
from lab.load import BUDGET, Load
from lab.polling import eventually
from lab.session import Show
from lab.settings_file import lab_settings
from labs.kubeadm.conftest import STACK
from live import cluster as live_cluster
from live import running_versions
from live.running_versions import Running
from toolchain import stack as stacks

pytestmark = pytest.mark.long

OLD, NEW = "1.35.8", "1.36.4"
# The old version takes this flag. To the new one the feature gate is unknown, and its API server ends at once.
_ONLY_OLD = {"kube-apiserver": {"feature-gates": "ServiceTrafficDistribution=true"}}
_MINUTES = 15 * 60


@pytest.fixture(scope="module")
def old_lab(show: Show) -> Iterator[Cluster]:
    """The lab in the old version, with a flag that the new one refuses."""
    with (
        session.empty_stack(STACK, show),
        lab_settings(STACK, versions={"kubernetes": OLD}, extra_flags=_ONLY_OLD),
    ):
        # Where releases cannot be reached, it builds the version: ten minutes and more.
        done = _start("setup", show=show).wait(60 * 60)
        assert done.code == 0, done.output
        yield session.made(session.settings_of(STACK), show)


def test_an_api_server_that_ends_in_the_new_version_stops_the_upgrade_at_the_first_machine(
    old_lab: Cluster, show: Show
) -> None:
    """What it would catch: a second controller that is changed, or one left without an API server."""
    controllers = [each.name for each in old_lab.settings.with_role(Role.CONTROLLER)]
    others = {name: _started(old_lab, name) for name in controllers[1:]}
    started = time.monotonic()
    done = _start("upgrade", NEW, show=show).wait(_MINUTES)
    show(f"\nstopped at the first machine after {time.monotonic() - started:.0f} s\n")
    assert done.code != 0
    assert f"The version before was put back on {controllers[0]}" in done.output
    assert "is not finished" in done.output and "--rollback" in done.output
    assert {each.version for each in _running()} == {OLD}
    assert {name: _started(old_lab, name) for name in others} == others
    # The kubelet of a controller uses the API server of its machine: its Node is not Ready for some seconds.
    eventually(
        "a healthy lab", lambda: _start("status").wait().code == 0, seconds=60, report=old_lab.situation, pause=1
    )
    stands = _start("upgrade", "--continue", "--preview").wait()
    assert stands.code == 0 and f"kubernetes {OLD} to {NEW}" in stands.output, stands.output
    back = _start("upgrade", "--rollback", show=show).wait(_MINUTES)
    assert back.code == 0, back.output
    assert upgrade_record.read(STACK) is None
    assert {each.version for each in _running()} == {OLD}
    assert f"v{OLD}" in _configuration(old_lab)
    _assert_nothing_to_do()


def test_an_upgrade_under_load_loses_nothing(old_lab: Cluster, show: Show, tmp_path: Path) -> None:
    """What it would catch: two API servers that restart at once, a Node that is not drained, kube-proxy left behind.

    The flag is removed by the same `up`, on all controllers before the first of them is upgraded.
    """
    _remove_flag()
    assert {each.version for each in _running()} == {OLD}
    with Load(old_lab, tmp_path) as seen:
        started = time.monotonic()
        done = _start("upgrade", NEW, show=show).wait(_MINUTES)
        seconds = time.monotonic() - started
    show(f"\nupgrade {OLD} to {NEW}: {seconds:.0f} s; {seen}\n" + "".join(f"  {each}\n" for each in seen.failed))
    assert done.code == 0, done.output
    assert {each.version for each in _running()} == {NEW}
    assert f"v{NEW}" in _configuration(old_lab)
    assert seen.lost == []
    assert seen.lowest >= BUDGET
    assert len(seen.failed) <= seen.requests // 100
    if len(old_lab.settings.with_role(Role.CONTROLLER)) > 1:
        assert seen.gap <= 2
    _assert_nothing_to_do()


def test_an_unfinished_upgrade_is_rolled_back(old_lab: Cluster, show: Show) -> None:
    """After the test before; as if it had been ended before its record was removed."""
    before, after = {"kubernetes": OLD}, {"kubernetes": NEW}
    upgrade_record.write(STACK, UpgradeRecord(before=before, after=after, snapshot="none"))
    done = _start("upgrade", "--rollback", show=show).wait(_MINUTES)
    assert done.code == 0, done.output
    assert {each.version for each in _running()} == {OLD}
    assert f"v{OLD}" in _configuration(old_lab)
    _assert_nothing_to_do()


def _remove_flag() -> None:
    file = settings_file(STACK)
    document = yaml.safe_load(file.read_text())
    del document["config"]["hardway:lab"]["extra_flags"]
    file.write_text(yaml.safe_dump(document, sort_keys=False))


def _assert_nothing_to_do() -> None:
    again = _start("up").wait()
    assert again.code == 0 and again.summary.keys() == {"unchanged"}, again.output


def _running() -> list[Running]:
    """The programs of Kubernetes on all machines."""
    running = running_versions.ask(live_cluster.find(stacks.read(STACK)))
    return [each for each in running if each.product == "kubernetes"]


def _started(lab: Cluster, machine: str) -> str:
    """When the API server of a machine started."""
    return lab.ssh(machine, "ps -o lstart= -p $(pgrep -x kube-apiserver)")


def _configuration(lab: Cluster) -> str:
    """What machines that join are told."""
    return lab.kubectl("get", "configmap", "kubeadm-config", "--namespace", "kube-system", "--output", "yaml")


def _start(*words: str, show: Show = lambda line: None) -> Started:
    return Started(*words, show=show, stack=STACK)
