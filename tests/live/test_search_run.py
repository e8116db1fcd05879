"""The order of one fault, on an API in memory: it is repaired however it goes, and its history is judged."""

import json
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

import pytest
import small_lab
from memory_api import MemoryApi, serving

from live.cluster import Cluster
from live.drills.faults import Fault
from live.search import faults
from live.search import run as order
from live.search.checks import Checker
from live.search.plan import Planned
from live.search.run import Place, Verdict, inject, repair_what_is_left
from toolchain import paths
from toolchain.errors import ToolchainError
from toolchain.from_source import linearizability
from toolchain.progress import Report
from toolchain.recovery import locks_of

PLANNED = Planned(seed=1, number=3, kind="kill", machine="controller-0", program="etcd")


class Injected(Fault):
    """Does what a test wants, and counts its repairs."""

    def __init__(self, cluster: Cluster, effect: Callable[[], None]) -> None:
        super().__init__(cluster)
        self._effect = effect
        self.repairs = 0

    def inject(self) -> float:
        self._effect()
        return 0.0

    def recover(self) -> None:
        self.repairs += 1


@pytest.fixture
def api() -> Iterator[MemoryApi]:
    with serving() as made:
        yield made


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cluster:
    monkeypatch.setattr(paths, "state", lambda: tmp_path)
    monkeypatch.setenv("PULUMI_BACKEND_URL", f"file://{tmp_path}/backend")
    made = small_lab.cluster(tmp_path)
    made.stack.directory.mkdir(exist_ok=True)
    return made


@pytest.fixture
def place(api: MemoryApi, lab: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    monkeypatch.setattr(order, "data_path_complaints", lambda cluster, api: [])
    monkeypatch.setattr(order, "_different_members", lambda place: [])
    with Report() as report:
        checker = Checker(program=linearizability.ensure(report))
    return Place(cluster=lab, api=api, checker=checker, directory=tmp_path)


def injected(place: Place, effect: Callable[[], None] = lambda: None) -> tuple[Verdict, Injected]:
    fault = Injected(place.cluster, effect)
    return inject(PLANNED, place, lambda *_: fault), fault


def test_a_fault_without_effect_passes(place: Place, lab: Cluster) -> None:
    verdict, fault = injected(place)
    assert verdict.violations == []
    assert verdict.passed, verdict
    assert fault.repairs == 1
    assert verdict.events == verdict.acknowledged > 0
    assert not (lab.stack.directory / "search.json").exists()
    assert (place.directory / "3.jsonl").read_text().count("\n") == sum(verdict.operations.values()) + verdict.events


def test_a_fault_that_cannot_be_injected_is_repaired_and_fails(place: Place, lab: Cluster) -> None:
    def refuse() -> None:
        assert json.loads((lab.stack.directory / "search.json").read_text()) == asdict(PLANNED)
        raise ToolchainError("no such machine")

    verdict, fault = injected(place, refuse)
    assert verdict.failure == "no such machine"
    assert not verdict.passed
    assert fault.repairs == 1
    assert not (lab.stack.directory / "search.json").exists()


def test_data_of_before_are_found(api: MemoryApi, place: Place) -> None:
    """Acknowledged writes are gone, and their versions are given again."""

    def go_back() -> None:
        with api.lock:
            api.objects, api.version = {}, 100

    verdict, _ = injected(place, go_back)
    assert not verdict.passed
    assert any("not linearizable" in each for each in verdict.violations), verdict


def test_without_an_acknowledged_write_nothing_passes() -> None:
    assert not Verdict(planned=PLANNED).passed
    assert Verdict(planned=PLANNED, acknowledged=1).passed


def test_the_next_run_repairs_what_is_left(lab: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    fault, said = Injected(lab, lambda: None), list[str]()
    monkeypatch.setattr(faults, "of", lambda planned, cluster: {PLANNED: fault}[planned])
    repair_what_is_left(lab, said.append)
    assert fault.repairs == 0
    (lab.stack.directory / "search.json").write_text(json.dumps(asdict(PLANNED)))
    repair_what_is_left(lab, said.append)
    assert fault.repairs == 1
    assert said == ["Repairing what a seeded drill left: it was killed during: SIGKILL of etcd on controller-0."]
    assert not (lab.stack.directory / "search.json").exists()


@pytest.mark.parametrize(("kind", "held"), [("kill", ["./hardway drill"]), ("killed-up", [])])
def test_a_repair_that_runs_make_up_leaves_it_the_stacks_locks(
    lab: Cluster, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, kind: str, held: list[str]
) -> None:
    planned = Planned(seed=1, number=1, kind=kind, machine="controller-0", program="etcd", way="all")
    seen: list[str] = []

    class Seeing(Injected):
        def recover(self) -> None:
            seen.extend(lock.command for lock in locks_of(tmp_path / "backend", lab.stack))

    monkeypatch.setattr(faults, "of", lambda planned, cluster: Seeing(lab, lambda: None))
    (lab.stack.directory / "search.json").write_text(json.dumps(asdict(planned)))
    repair_what_is_left(lab, lambda said: None)
    assert seen == held


def hashes(*each: int, compacted: tuple[int, ...] = (900, 900, 900)) -> subprocess.CompletedProcess[str]:
    said = [
        {"Endpoint": f"m{number}", "HashKV": {"hash": one, "compact_revision": compacted[number]}}
        for number, one in enumerate(each)
    ]
    return subprocess.CompletedProcess([], 0, stdout=json.dumps(said), stderr="")


def compared(place: Place, monkeypatch: pytest.MonkeyPatch, *said: subprocess.CompletedProcess[str]) -> list[str]:
    """Compare members that say this, the last of it again and again."""
    left = list(said)
    monkeypatch.setattr(Cluster, "ssh", lambda *_, **__: left.pop(0) if len(left) > 1 else left[0])
    monkeypatch.setattr(order, "_SEEN_WITHIN", 1)
    return order._different_members(place)


@pytest.fixture
def paper(lab: Cluster, api: MemoryApi, tmp_path: Path) -> Place:
    """A place whose members a test has say something."""
    return Place(cluster=lab, api=api, checker=Checker(program=tmp_path), directory=tmp_path)


@pytest.mark.parametrize(
    ("said", "differ"),
    [(hashes(7, 7, 7), False), (hashes(7, 8, 7), True), (hashes(7, 7), True)],
    ids=["equal", "one-differs", "one-is-missing"],
)
def test_members_are_compared(
    paper: Place, monkeypatch: pytest.MonkeyPatch, said: subprocess.CompletedProcess[str], differ: bool
) -> None:
    assert bool(compared(paper, monkeypatch, said)) == differ


def test_members_that_have_not_compacted_alike_are_compared_later(
    paper: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    between = hashes(7, 8, 7, compacted=(900, 800, 900))
    assert compared(paper, monkeypatch, between, hashes(7, 7, 7)) == []
    with pytest.raises(ToolchainError, match="800, 900"):
        compared(paper, monkeypatch, between)


def test_members_that_cannot_be_compared_are_no_success(paper: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    failed = subprocess.CompletedProcess([], 1, stdout="", stderr="required revision is a future revision")
    assert compared(paper, monkeypatch, failed, hashes(7, 7, 7)) == []
    with pytest.raises(ToolchainError, match="future revision"):
        compared(paper, monkeypatch, failed)
