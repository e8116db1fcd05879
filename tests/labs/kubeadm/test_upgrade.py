"""`upgrade` of a kubeadm lab from Kubernetes 1.35.8 to 1.36.4: stopped at its first machine, under load, back, killed.

HARDWAY_KILLS says how many kills (6), HARDWAY_SEED which moments (others every time; the seed is printed).
"""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from config import upgrade_record
from config.machines import Role
from lab import upgrades
from lab.cluster import Cluster
from lab.commands import settings_file
from lab.footprint import running
from lab.polling import eventually
from lab.session import Show
from lab.settings_file import lab_settings
from lab.upgrades import NEW, OLD, assert_nothing_to_do, upgrade, versions
from labs.kubeadm.conftest import STACK, live

pytestmark = pytest.mark.long

# The old version takes this flag. To the new one the feature gate is unknown, and its API server ends at once.
_ONLY_OLD = {"kube-apiserver": {"feature-gates": "ServiceTrafficDistribution=true"}}


@pytest.fixture(scope="module")
def old_lab(show: Show) -> Iterator[Cluster]:
    """The lab in the old version, with a flag that the new one refuses."""
    with upgrades.lab_in_the_old_version(STACK, show, extra_flags=_ONLY_OLD) as lab:
        yield lab


def test_an_api_server_that_ends_in_the_new_version_stops_the_upgrade_at_the_first_machine(
    old_lab: Cluster, show: Show
) -> None:
    """What it would catch: a second controller that is changed, or one left without an API server."""
    controllers = [each.name for each in old_lab.settings.with_role(Role.CONTROLLER)]
    others = {name: _started(old_lab, name) for name in controllers[1:]}
    started = time.monotonic()
    done = upgrade(STACK, NEW, show=show)
    show(f"\nstopped at the first machine after {time.monotonic() - started:.0f} s\n")
    assert done.code != 0
    assert f"The version before was put back on {controllers[0]}" in done.output
    assert "is not finished" in done.output and "--rollback" in done.output
    assert versions(STACK) == {OLD}
    assert {name: _started(old_lab, name) for name in others} == others
    # The kubelet of a controller uses the API server of its machine: its Node is not Ready for some seconds.
    eventually("a healthy lab", lambda: live("status").code == 0, seconds=60, report=old_lab.situation, pause=1)
    stands = upgrade(STACK, "--continue", "--preview")
    assert stands.code == 0 and f"kubernetes {OLD} to {NEW}" in stands.output, stands.output
    _assert_joins_are_refused()
    back = upgrade(STACK, "--rollback", show=show)
    assert back.code == 0, back.output
    assert upgrade_record.read(STACK) is None
    assert versions(STACK) == {OLD}
    assert f"v{OLD}" in _configuration(old_lab)
    assert_nothing_to_do(STACK)


def test_an_upgrade_under_load_loses_nothing(old_lab: Cluster, show: Show, tmp_path: Path) -> None:
    """What it would catch: two API servers that restart at once, a Node that is not drained, kube-proxy left behind.

    The flag is removed by the same `up`, on all controllers before the first of them is upgraded.
    """
    _remove_flag()
    assert versions(STACK) == {OLD}
    upgrades.check_upgrade_under_load(old_lab, show, tmp_path)
    assert f"v{NEW}" in _configuration(old_lab)


def test_an_unfinished_upgrade_is_rolled_back(old_lab: Cluster, show: Show) -> None:
    """After the test before; as if it had been ended before its record was removed."""
    upgrades.note_unfinished(STACK)
    done = upgrade(STACK, "--rollback", show=show)
    assert done.code == 0, done.output
    assert versions(STACK) == {OLD}
    assert f"v{OLD}" in _configuration(old_lab)
    assert_nothing_to_do(STACK)


def test_every_upgrade_that_was_killed_is_continued_or_rolled_back(old_lab: Cluster, show: Show) -> None:
    """A static pod that is left in another version, or without its manifest; a record that says more than is done."""
    _remove_flag()
    upgrades.KilledUpgrades(old_lab, show, kills=6, seconds=300).check()


def _assert_joins_are_refused() -> None:
    """Assert that no machine joins while the version changes: its kubelet would be newer than an API server."""
    machines = running(STACK)
    with lab_settings(STACK, workers=3):
        added = live("up")
    replaced = live("replace", "worker-0")
    for ran, name in ((added, "worker-2"), (replaced, "worker-0")):
        assert ran.code == 1, ran.output
        assert f"Refused, and nothing was changed: {name} would join the lab" in ran.output
        assert "--rollback` ends the unfinished upgrade" in ran.output
    assert running(STACK) == machines


def _remove_flag() -> None:
    file = settings_file(STACK)
    document = yaml.safe_load(file.read_text())
    document["config"]["hardway:lab"].pop("extra_flags", None)
    file.write_text(yaml.safe_dump(document, sort_keys=False))


def _started(lab: Cluster, machine: str) -> str:
    """When the API server of a machine started."""
    return lab.ssh(machine, "ps -o lstart= -p $(pgrep -x kube-apiserver)")


def _configuration(lab: Cluster) -> str:
    """What machines that join are told."""
    return lab.kubectl("get", "configmap", "kubeadm-config", "--namespace", "kube-system", "--output", "yaml")
