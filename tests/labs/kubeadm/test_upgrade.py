"""`upgrade` of a lab of kubeadm's that serves, from Kubernetes 1.35.8 to 1.36.4, under load; and a rollback."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from config import upgrade_record
from config.upgrade_record import UpgradeRecord
from lab import session
from lab.cluster import Cluster
from lab.commands import Started
from lab.load import BUDGET, Load
from lab.session import Show
from lab.settings_file import lab_settings
from labs.kubeadm.conftest import STACK
from live import cluster as live_cluster
from live import running_versions
from toolchain import stack as stacks

pytestmark = pytest.mark.long

OLD, NEW = "1.35.8", "1.36.4"
_MINUTES = 15 * 60


@pytest.fixture(scope="module")
def old_lab(show: Show) -> Iterator[Cluster]:
    """The lab in the old version."""
    with session.empty_stack(STACK, show), lab_settings(STACK, versions={"kubernetes": OLD}):
        # Where releases cannot be reached, it builds the version: ten minutes and more.
        done = _start("setup", show=show).wait(60 * 60)
        assert done.code == 0, done.output
        yield session.made(session.settings_of(STACK), show)


def test_an_upgrade_under_load_loses_nothing(old_lab: Cluster, show: Show, tmp_path: Path) -> None:
    """What it would catch: two API servers that restart at once, a Node that is not drained, kube-proxy left behind."""
    assert _versions() == {OLD}
    with Load(old_lab, tmp_path) as seen:
        started = time.monotonic()
        done = _start("upgrade", NEW, show=show).wait(_MINUTES)
        seconds = time.monotonic() - started
    show(f"\nupgrade {OLD} to {NEW}: {seconds:.0f} s; {seen}\n" + "".join(f"  {each}\n" for each in seen.failed))
    assert done.code == 0, done.output
    assert _versions() == {NEW}
    assert "v1.36.4" in old_lab.kubectl("get", "configmap", "kubeadm-config", "-n", "kube-system", "-o", "yaml")
    assert seen.lost == []
    assert seen.lowest >= BUDGET
    assert seen.gap <= 2
    assert len(seen.failed) <= seen.requests // 100
    _assert_nothing_to_do()


def test_an_unfinished_upgrade_is_rolled_back(old_lab: Cluster, show: Show) -> None:
    """After the test before; as if it had been ended before its record was removed."""
    before, after = {"kubernetes": OLD}, {"kubernetes": NEW}
    upgrade_record.write(STACK, UpgradeRecord(before=before, after=after, snapshot="none"))
    done = _start("upgrade", "--rollback", show=show).wait(_MINUTES)
    assert done.code == 0, done.output
    assert _versions() == {OLD}
    assert "v1.35.8" in old_lab.kubectl("get", "configmap", "kubeadm-config", "-n", "kube-system", "-o", "yaml")
    _assert_nothing_to_do()


def _assert_nothing_to_do() -> None:
    again = _start("up").wait()
    assert again.code == 0 and again.summary.keys() == {"unchanged"}, again.output


def _versions() -> set[str]:
    """The versions of Kubernetes that the machines run."""
    running = running_versions.ask(live_cluster.find(stacks.read(STACK)))
    return {each.version for each in running if each.product == "kubernetes"}


def _start(*words: str, show: Show = lambda line: None) -> Started:
    return Started(*words, show=show, stack=STACK)
