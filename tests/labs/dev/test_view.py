"""The page of `./hardway view` in a real browser: without JavaScript, and live."""

from pathlib import Path
from statistics import median

import pytest

from lab import browser
from lab.cluster import Cluster
from lab.polling import eventually
from lab.session import Show
from lab.viewing import BAR_SECONDS, UNITS, looking, lose_unit, seen_after, viewed

_TILE = "#tile-kube-scheduler"
_TIMES = 10


def test_page_without_javascript_has_everything_but_secrets(cluster: Cluster, stack: str, tmp_path: Path) -> None:
    """A part that only a script fills in; a key or a token."""
    controller = cluster.controller.name
    with viewed(stack) as url, looking(url, tmp_path, javascript=False) as tab:

        def whole() -> tuple[str, str]:
            # The page loads itself again: both may be asked for between two pages.
            text, html = tab.text(), str(tab.evaluate("document.documentElement.outerHTML"))
            assert "kube-system/coredns" in text and "holds the lease" in text, text
            # Each part comes when its source has answered.
            for word in ("✔ kubelet", "leader", "L7OK", "default/kubernetes", "kubernetes-ca", "Without JavaScript"):
                assert word in text, word
            assert tab.text("#tile-etcd .text") == controller
            return text, html

        text, html = eventually("the page", whole, seconds=30)
    for machine in cluster.machines:
        assert f"{machine.name}\n{machine.address}" in text
    kubeconfig = (cluster.directory / "kubeconfig").read_text()
    encoded = [line.split()[-1] for line in kubeconfig.splitlines() if "-data:" in line]
    assert len(encoded) == 3
    for word in ("-----BEGIN", "-data:", *encoded):
        assert word not in html


def test_lost_leader_is_seen(cluster: Cluster, stack: str, tmp_path: Path, show: Show) -> None:
    """A page that does not change, or that does not say that it is not live. A lab of one controller can lose its
    scheduler. Other tests share the cores: how soon it is seen, labs/ha/test_view.py tests alone."""
    controller = cluster.controller.name

    def lost() -> bool:
        # By the unit: a machine whose lines come late would have a lost scheduler, too.
        return "✖ kube-scheduler" in tab.text(f"#machine-{controller}") and "does not run" in tab.text(_TILE)

    def kill() -> str:
        return cluster.ssh(
            controller, "date +%s.%N; systemctl kill --signal=KILL kube-scheduler; systemctl stop kube-scheduler"
        )

    with browser.opened(tmp_path) as tab:
        with viewed(stack) as url:
            tab.open(url)
            eventually("a scheduler that leads", lambda: "holds the lease" in tab.text(_TILE), seconds=60)
            try:
                took = seen_after(kill, "no scheduler", lost, seconds=20)
                show(f"\nview: a lost scheduler was seen after {took:.2f} s\n")
            finally:
                cluster.ssh(controller, "systemctl start kube-scheduler")
            line = f"kube-scheduler on {controller}"
            eventually("a line in the timeline", lambda: line in tab.text("#timeline"), seconds=10)
            eventually("a page that is live", lambda: tab.evaluate("document.body.className") == "", seconds=15)
        eventually("a page that is not live", lambda: "not live" in tab.text(), seconds=15)


@pytest.mark.long
@pytest.mark.parametrize("unit", UNITS)
def test_lost_unit_is_seen_within_a_second(cluster: Cluster, stack: str, tmp_path: Path, show: Show, unit: str) -> None:
    """A unit that is asked only now and then, or whose loss waits for another source, on a host that does nothing
    else."""
    with viewed(stack) as url, looking(url, tmp_path) as tab:
        took = sorted(lose_unit(cluster, tab, unit) for _ in range(_TIMES))
    show(f"\nview: {unit} lost {_TIMES} times, seen after {' '.join(f'{each:.2f}' for each in took)} s\n")
    assert median(took) <= BAR_SECONDS, took
