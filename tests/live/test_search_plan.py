"""What a seed stands for."""

from collections import Counter
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import small_lab

from config.machines import Role
from live import search
from live.cluster import Cluster
from live.search import faults
from live.search.plan import KINDS, Planned, lacking, plan
from toolchain.errors import ToolchainError


@pytest.fixture
def lab(tmp_path: Path) -> Cluster:
    return small_lab.cluster(tmp_path)


def test_the_same_seed_stands_for_the_same_faults(lab: Cluster) -> None:
    assert plan(lab, 7, 50) == plan(lab, 7, 50)
    assert plan(lab, 7, 50) != plan(lab, 8, 50)


def test_a_fault_is_the_same_in_a_shorter_run_and_alone(lab: Cluster) -> None:
    long = plan(lab, 7, 100)
    assert plan(lab, 7, 17) == long[:17]
    assert search.choose(lab, 7, count=None, only=17) == [long[16]]


def test_a_repeated_fault_has_the_same_clients(lab: Cluster) -> None:
    whole, alone = plan(lab, 7, 20)[4], search.choose(lab, 7, count=None, only=5)[0]
    assert [whole.chance(2).random() for _ in range(5)] == [alone.chance(2).random() for _ in range(5)]
    assert whole.chance(1).random() != whole.chance(2).random()


def test_a_hundred_faults_have_every_kind(lab: Cluster) -> None:
    counted = Counter(each.kind for each in plan(lab, 1, 100))
    assert counted.keys() == KINDS.keys()
    assert max(counted.values()) < 40


def test_every_fault_hits_a_machine_that_can_have_it(lab: Cluster) -> None:
    for each in plan(lab, 3, 300):
        machine = lab.machine(each.machine)
        assert Role.WORKER not in machine.roles
        assert (each.program == "haproxy") == (Role.LOAD_BALANCER in machine.roles and bool(each.program))
        assert str(each)
        assert faults.of(each, lab).hits == [machine]


def test_a_plan_survives_the_mark_of_a_run_that_was_killed(lab: Cluster) -> None:
    for each in plan(lab, 3, 100):
        assert Planned(**asdict(each)) == each


@pytest.mark.parametrize(
    ("substrate", "features", "kinds"),
    [
        ("containers", (), set()),
        ("containers", ("kubeadm",), {"full-disk", "promotion", "killed-up"}),
        ("gcp", (), {"restart"}),
        ("machines", (), {"restart", "killed-up"}),
    ],
)
def test_what_a_lab_cannot_have_is_not_planned(
    tmp_path: Path, substrate: str, features: tuple[str, ...], kinds: set[str]
) -> None:
    lab = small_lab.cluster(tmp_path, features=features)
    lab = replace(lab, stack=replace(lab.stack, substrate=substrate))
    assert lacking(lab).keys() == kinds
    assert {each.kind for each in plan(lab, 1, 300)} == KINDS.keys() - kinds


def test_a_lab_without_high_availability_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ToolchainError) as refused:
        search.choose(small_lab.cluster(tmp_path, controllers=1), 1, count=None, only=None)
    assert "needs three controllers and three etcd members at least; paper has 1 and 1" in str(refused.value)
    assert "Nothing was changed" in str(refused.value)


def test_all_that_is_wrong_with_the_numbers_is_said(lab: Cluster) -> None:
    with pytest.raises(ToolchainError) as refused:
        search.choose(lab, 1, count=0, only=-1)
    said = str(refused.value)
    assert "--faults and --only: give one of them" in said
    assert "--faults 0: must be 1 or more" in said
    assert "--only -1: must be 1 or more" in said
