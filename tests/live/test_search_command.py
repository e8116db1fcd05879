"""`./hardway search --seed ...` as a command: what it prints, writes and returns; what it refuses."""

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import small_lab

from cli import main as command
from live import cluster as live_cluster
from live import search
from live.cluster import Cluster
from live.search import clients, plan
from live.search.plan import Planned
from live.search.run import Verdict
from toolchain.from_source import linearizability
from toolchain.recovery import locks_of

Judge = Callable[[Planned], Verdict]


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cluster:
    """A lab that exists on paper, and an API that takes everything."""
    made = small_lab.searched(tmp_path, monkeypatch, api=None)
    monkeypatch.setattr(linearizability, "ensure", lambda report: tmp_path / "checker")
    monkeypatch.setattr(search, "await_healthy", lambda place: None)
    for name in ("make_namespace", "remove_objects", "remove_namespace"):
        monkeypatch.setattr(clients, name, lambda *_, **__: None)
    return made


def judged(monkeypatch: pytest.MonkeyPatch, judge: Judge) -> list[int]:
    """Have faults judged without being injected; the numbers of those that were."""
    done: list[int] = []

    def inject(planned: Planned, _: object) -> Verdict:
        done.append(planned.number)
        return judge(planned)

    monkeypatch.setattr(search, "inject", inject)
    return done


def run(*words: str) -> int:
    return command.main(["--stack", "paper", "search", *words])


def test_all_that_passes(
    lab: Cluster, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    done = judged(monkeypatch, lambda planned: Verdict(planned=planned, acknowledged=30))
    assert run("--seed", "7", "--faults", "3", "--json", str(tmp_path / "verdicts.json")) == 0
    # No history: `destroy` would leave it.
    assert not (lab.stack.directory / "search").exists()
    assert done == [1, 2, 3]
    said = capsys.readouterr().out
    assert said.count(": ok") == 3
    assert re.search(r"^all +3 +0\.0 +0\.0 +90 +0 +0$", said, re.MULTILINE), said
    written = json.loads((tmp_path / "verdicts.json").read_text())
    assert written["passed"] is True
    assert (written["seed"], len(written["faults"]), sum(written["kinds"].values())) == (7, 3, 3)


def test_the_stack_is_held_but_for_faults_that_run_pulumi(
    lab: Cluster, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    kinds = ["kill", "killed-up", "killed-up", "freeze"]
    planned = [Planned(seed=7, number=n, kind=kind, machine="controller-0") for n, kind in enumerate(kinds, 1)]
    monkeypatch.setattr(plan, "plan", lambda cluster, seed, count: planned)
    held: list[list[str]] = []

    def judge(one: Planned) -> Verdict:
        held.append([lock.command for lock in locks_of(tmp_path / "backend", lab.stack)])
        return Verdict(planned=one, acknowledged=30)

    judged(monkeypatch, judge)
    assert run("--seed", "7", "--faults", "4") == 0
    assert held == [["./hardway drill"], [], [], ["./hardway drill"]]


def test_a_violation_goes_on_and_says_how_to_repeat_it(
    lab: Cluster, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def judge(planned: Planned) -> Verdict:
        return Verdict(planned=planned, acknowledged=9, violations=["lost"] if planned.number == 2 else [])

    done = judged(monkeypatch, judge)
    assert run("--seed", "7", "--faults", "3") == 1
    assert done == [1, 2, 3]
    said = capsys.readouterr().out
    assert "FAILED\n  - lost\n" in said
    assert "Repeat fault 2: hardway search -s paper --seed 7 --only 2\n" in said
    judged(monkeypatch, judge)
    assert run("--seed", "7", "--only", "2") == 1


def test_many_violations_are_not_all_shown(
    lab: Cluster, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    many = [f"violation {number}" for number in range(50)]
    judged(monkeypatch, lambda planned: Verdict(planned=planned, acknowledged=9, violations=many))
    assert run("--seed", "7", "--faults", "1") == 1
    said = capsys.readouterr().out
    assert "  - violation 9\n  - and 40 violations more; --json FILE has all of them\n" in said
    assert re.search(r"^all +1 .* 50$", said, re.MULTILINE), said


def test_a_fault_that_could_not_be_done_ends_the_run(
    lab: Cluster, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    done = judged(monkeypatch, lambda planned: Verdict(planned=planned, failure="not healthy"))
    assert run("--seed", "7") == 1
    assert done == [1]
    assert "Fault 1 could not be done to its end; the run ends here." in capsys.readouterr().err


def test_a_run_without_writes_does_not_pass(lab: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    judged(monkeypatch, lambda planned: Verdict(planned=planned))
    assert run("--seed", "7", "--faults", "1") == 1


def test_what_a_lab_cannot_have_is_said(
    tmp_path: Path, lab: Cluster, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(live_cluster, "find", lambda _, **given: small_lab.cluster(tmp_path, features=("kubeadm",)))
    judged(monkeypatch, lambda planned: Verdict(planned=planned, acknowledged=30))
    assert run("--seed", "7", "--faults", "1") == 0
    assert "full-disk: not applicable, and not done: it needs etcd as a systemd unit." in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["kill-etcd", "--seed", "7"], "Got unexpected extra argument (kill-etcd). See `hardway search --help`."),
        (["--faults", "5"], "Missing option '--seed'. See `hardway search --help`."),
        (["--seed", "7", "--faults", "0"], "--faults 0: must be 1 or more"),
    ],
)
def test_words_that_contradict_each_other(
    lab: Cluster,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: Sequence[str],
    said: str,
) -> None:
    done = judged(monkeypatch, lambda planned: Verdict(planned=planned, acknowledged=1))
    assert run(*words) in (1, 2)
    assert said in capsys.readouterr().err
    assert done == []
