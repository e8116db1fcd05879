"""The page of `./hardway view` while etcd loses its leader, in a real browser; HARDWAY_PICTURE=FILE draws the page."""

import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import pytest

from lab.browser import Tab
from lab.cluster import Cluster
from lab.polling import eventually
from lab.session import Show
from lab.viewing import BAR_SECONDS, UNITS, looking, lose_unit, seen_after, viewed

_TILE = "#tile-etcd"
_TRIES = 3


@pytest.mark.long
def test_lost_leader_of_etcd_is_seen_within_a_second(cluster: Cluster, stack: str, show: Show, tmp_path: Path) -> None:
    """A page that shows the old leader until there is a new one."""
    took = list[float]()
    with viewed(stack) as url, looking(url, tmp_path) as tab:
        # Where other work has the cores, one slow try says nothing.
        while len(took) < _TRIES and (not took or min(took) > BAR_SECONDS):
            took.append(_lose_leader(cluster, tab))
    show(_figures("leader of etcd", took))
    assert min(took) <= BAR_SECONDS, took


@pytest.mark.long
@pytest.mark.parametrize("unit", UNITS)
def test_lost_unit_is_seen_within_a_second(cluster: Cluster, stack: str, show: Show, tmp_path: Path, unit: str) -> None:
    """Units that are asked only now and then. Killed alone, each of them runs again after a second."""
    took = list[float]()
    with viewed(stack) as url, looking(url, tmp_path) as tab:
        while len(took) < _TRIES and (not took or min(took) > BAR_SECONDS):
            took.append(lose_unit(cluster, tab, unit))
    show(_figures(unit, took))
    assert min(took) <= BAR_SECONDS, took


def _figures(what: str, took: Sequence[float]) -> str:
    seconds = ", ".join(f"{each:.2f} s" for each in took)
    return f"\nview: a lost {what} was shown after {seconds}; load {os.getloadavg()[0]:.0f}\n"


def _lose_leader(cluster: Cluster, tab: Tab) -> float:
    """Seconds until the page has no leader; there is another one in the end."""
    count = len(cluster.controllers)
    eventually("all members", lambda: f"{count} of {count} members answer" in tab.text(_TILE), seconds=60)
    leader = tab.text(f"{_TILE} .text")
    # Killed, so that it hands its leadership to no other; stopped, so that it does not run again at once.
    kill = partial(cluster.ssh, leader, "date +%s.%N; systemctl kill --signal=KILL etcd; systemctl stop etcd")
    try:
        took = seen_after(kill, "no leader", lambda: "NO LEADER" in tab.text(_TILE), seconds=15)
        if file := os.environ.get("HARDWAY_PICTURE"):
            tab.screenshot(Path(file), width=1280, height=640)
        eventually("another leader", lambda: f"before: {leader}" in tab.text(_TILE), seconds=60)
        assert f"etcd has lost its leader {leader}" in tab.text("#timeline")
    finally:
        cluster.ssh(leader, "systemctl start etcd")
    return took
