"""The page of `./hardway view` while etcd loses its leader, in a real browser; HARDWAY_PICTURE=FILE draws the page."""

import os
from functools import partial
from pathlib import Path

import pytest

from lab.cluster import Cluster
from lab.polling import eventually
from lab.viewing import BAR_SECONDS, looking, seen_after, viewed

_TILE = "#tile-etcd"
_TRIES = 3


@pytest.mark.long
def test_lost_leader_of_etcd_is_seen_within_a_second(cluster: Cluster, stack: str, tmp_path: Path) -> None:
    """A page that shows the old leader until there is a new one."""
    took = list[float]()
    with viewed(stack) as url, looking(url, tmp_path) as tab:
        while len(took) < _TRIES and (not took or min(took) > BAR_SECONDS):
            everybody = f"{len(cluster.controllers)} of {len(cluster.controllers)} members answer"
            eventually("all members", lambda text=everybody: text in tab.text(_TILE), seconds=60)  # type: ignore[misc]
            leader = next(each.name for each in cluster.controllers if each.name in tab.text(_TILE))
            # Killed, so that it hands its leadership to no other; stopped, so that it does not run again at once.
            kill = partial(cluster.ssh, leader, "date +%s.%N; systemctl kill --signal=KILL etcd; systemctl stop etcd")
            try:
                took.append(seen_after(kill, "no leader", lambda: "NO LEADER" in tab.text(_TILE), seconds=15))
                if file := os.environ.get("HARDWAY_PICTURE"):
                    tab.screenshot(Path(file), width=1280, height=900)
                eventually(
                    "another leader",
                    lambda lost=leader: "before: " + lost in tab.text(_TILE),  # type: ignore[misc]
                    seconds=60,
                )
                assert f"etcd has lost its leader {leader}" in tab.text("#timeline")
            finally:
                cluster.ssh(leader, "systemctl start etcd")
        assert min(took) <= BAR_SECONDS, took
