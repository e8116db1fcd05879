"""The catalogue is whole: every drill that was asked for, every bar where it belongs."""

import pytest

from live.drills.catalogue import DRILLS, Drill, choose
from toolchain.errors import ToolchainError

BY_NAME = {drill.name: drill for drill in DRILLS}
KILLED = (
    *("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler"),
    *("kubelet", "containerd", "kube-proxy", "haproxy"),
)


def bars(drill: Drill) -> dict[str, float]:
    return {measure.what: measure.bar for measure in drill.measures if measure.bar is not None}


def test_every_drill_is_there_once() -> None:
    others = ("stop-leader", "partition", "fill-quota", "stop-worker", "stop-balancer", "restart-all", "restart-engine")
    assert [drill.name for drill in DRILLS] == [*(f"kill-{unit}" for unit in KILLED), *others]


def test_the_quick_half_is_the_kills() -> None:
    assert [drill.name for drill in DRILLS if drill.quick] == [f"kill-{unit}" for unit in KILLED]


@pytest.mark.parametrize("name", ["stop-leader", "partition"])
def test_losing_a_controller_has_the_projects_bars(name: str) -> None:
    assert bars(BY_NAME[name]) == {
        "etcd writes again in": 3,
        "API errors for": 5,
        "new leader of kube-controller-manager in": 20,
        "new leader of kube-scheduler in": 20,
        "API server out of the endpoints in": 25,
    }


@pytest.mark.parametrize("name", ["restart-all", "restart-engine"])
def test_losing_all_machines_has_the_projects_bars(name: str) -> None:
    found = bars(BY_NAME[name])
    assert found["API answers again in"] == 60
    assert found["all nodes Ready in"] == found["DNS answers in a pod in"] == 120


def test_losing_one_balancer_of_two_has_the_projects_bar() -> None:
    assert bars(BY_NAME["stop-balancer"])["API without an answer for"] == 3


@pytest.mark.parametrize("drill", DRILLS, ids=lambda drill: drill.name)
def test_a_drill_says_what_it_does_and_has_something_to_miss(drill: Drill) -> None:
    assert len(drill.does.split()) > 3
    assert bars(drill)
    whats = [measure.what for measure in drill.measures]
    assert len(set(whats)) == len(whats)


def test_all_are_chosen_where_none_is_named() -> None:
    assert choose([]) == list(DRILLS)


def test_the_named_are_done_in_the_catalogues_order() -> None:
    assert [drill.name for drill in choose(["restart-all", "kill-etcd"])] == ["kill-etcd", "restart-all"]


def test_an_unknown_name_is_answered_with_the_right_ones() -> None:
    with pytest.raises(ToolchainError) as refused:
        choose(["kill-etcd", "kill-ectd"])
    assert "There is no drill kill-ectd" in str(refused.value)
    assert all(drill.name in str(refused.value) for drill in DRILLS)
