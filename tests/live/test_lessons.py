"""Lessons: their files, one report of what is wrong in them, refusals, and what an interrupted run leaves."""

import json
import re
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from shlex import quote
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from small_lab import cluster as small_lab
from small_lab import own_backend

from cli.main import main
from config import paths as config_paths
from live import cluster as live_cluster
from live import drills, lessons, status
from live.cluster import Cluster
from live.drift import run as drifts
from live.drift.run import Drift
from live.lessons import actions, lesson, record
from live.lessons.lesson import Lesson, read_all
from live.lessons.record import Record
from toolchain import paths, stack
from toolchain.errors import ToolchainError

_CHECKOUT = config_paths.checkout()
_ALL = read_all()
_ONE: dict[str, Any] = yaml.safe_load((_CHECKOUT / "lessons" / "node-not-ready.yaml").read_text())


def scripts(each: Lesson) -> list[str]:
    """All scripts of a lesson."""
    parts = (each.fault, each.check.holds, each.solution.actions, each.wrong.actions, each.undo)
    return [action.run for part in parts for action in part]


def test_there_are_lessons_of_each_level_and_their_chapters_exist() -> None:
    chapters = re.findall(r"^## (\d+) ", (_CHECKOUT / "docs" / "chapters.md").read_text(), re.M)
    assert len(_ALL) >= 38
    assert {each.level for each in _ALL} == {"easy", "medium", "hard"}
    assert {str(each.chapter) for each in _ALL} <= set(chapters)
    assert len({each.title for each in _ALL}) == len(_ALL)


@pytest.mark.parametrize("each", _ALL, ids=lambda each: each.name)
def test_scripts_of_a_lesson_are_bash_and_use_what_it_needs(each: Lesson) -> None:
    """A quote that is missing; a variable of a machine that a lab without it does not have; a fix that is no fix."""
    for script in scripts(each):
        subprocess.run(["bash", "-n"], input=script, text=True, check=True)
    text = "\n".join(scripts(each))
    assert "two-workers" in each.needs or "other_worker" not in text
    places = {a.where for part in (each.fault, each.check.holds, each.solution.actions) for a in part}
    assert "load-balancer" in each.needs or "load-balancers" not in places
    assert each.wrong.actions != each.solution.actions
    # What the lesson makes it removes.
    assert ("namespace\n" not in text.replace("remove_namespace", "")) or "remove_namespace" in text


def test_every_lesson_is_in_the_table_for_learners() -> None:
    page = (_CHECKOUT / "docs" / "lessons.md").read_text()
    rows = re.findall(r"^\| `([a-z0-9-]+)` \| (\w+) \| (\d+) \| (.*) \|$", page, re.M)
    assert rows == [(each.name, each.level, str(each.chapter), each.title) for each in _ALL]


def test_everything_wrong_in_all_files_is_one_report(tmp_path: Path) -> None:
    wrong = {
        "first": {key: value for key, value in _ONE.items() if key != "symptom"} | {"level": "trivial"},
        "second": _ONE | {"hints": ["one"], "colour": "red"},
        "Third": _ONE | {"chapter": "9"},
        "fourth": _ONE | {"fault": [{"where": "everywhere", "run": " "}]},
        "good": _ONE,
    }
    for name, document in wrong.items():
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(document))
    (tmp_path / "fifth.yaml").write_text("a: [")
    (tmp_path / "sixth.yaml").write_text("just text")
    with pytest.raises(ToolchainError) as raised:
        read_all(tmp_path)
    said = str(raised.value)
    for expected in (
        "first.yaml: symptom",
        "first.yaml: level",
        "second.yaml: hints",
        "second.yaml: colour",
        "Third.yaml: name",
        "Third.yaml: chapter",
        "fourth.yaml: fault.0.where",
        "fourth.yaml: fault.0.run",
        "fifth.yaml: not valid YAML",
        "sixth.yaml: no map",
    ):
        assert expected in said, expected
    assert "good.yaml" not in said


@dataclass
class Lab:
    """A lab on paper, and what was done with it."""

    cluster: Cluster
    broken: bool = False
    done: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    api_answers: bool = True


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lab:
    monkeypatch.setattr(paths, "state", lambda: tmp_path)
    own_backend(tmp_path, monkeypatch)
    made = small_lab(tmp_path, controllers=1)
    lab = Lab(cluster=made)
    made.stack.directory.mkdir()
    one = lesson.Lesson.model_validate({**_ONE, "name": "one", "undo": [{"where": "controller", "run": "undo"}]})
    other = one.model_copy(update={"name": "other"})
    monkeypatch.setattr(lessons, "read_all", lambda: [one, other])
    monkeypatch.setattr(live_cluster, "find", lambda _, **given: lab.cluster)
    monkeypatch.setattr(stack, "read", lambda name: lab.cluster.stack)
    monkeypatch.setattr(status, "gather", lambda _: SimpleNamespace(problems=lab.problems))
    monkeypatch.setattr(status, "not_working", lambda _: [])
    monkeypatch.setattr(lessons, "_HEALTHY_SECONDS", 0)

    def run(_: Cluster, given: Sequence[lesson.Action], *, command: str) -> None:
        words = [each.run for each in given if "no_namespace" not in each.run]
        if words == ["undo"] and not lab.api_answers:
            raise ToolchainError("the API does not answer")
        lab.done += words
        lab.broken = given == one.fault if words and words != ["undo"] else lab.broken

    def put_back(_: Cluster, deployment: object, *, seconds: float) -> Drift:
        lab.done.append("repair")
        lab.broken, lab.api_answers = False, True
        return Drift(stack="paper", differences=[], not_asked={})

    monkeypatch.setattr(actions, "run", run)
    monkeypatch.setattr(actions, "failing", lambda _, holds: [actions.shown(lab.cluster, holds[0].says)] * lab.broken)
    monkeypatch.setattr(drifts, "put_back", put_back)
    monkeypatch.setattr(drifts, "state_of", lambda _: {})
    return lab


def hardway(*words: str) -> int:
    return main(["lesson", "-s", "paper", *words])


def test_a_lesson_from_start_to_reset(lab: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    """Texts that say what is broken before `solve`; a check that is never passed; a record that stays."""
    said = ""
    for words, code in ((("start", "one"), 0), (("check", "--within", "0"), 1), (("hint",), 0), (("hint",), 0)):
        assert hardway(*words) == code
        said += capsys.readouterr().out
    assert "becomes NotReady" in said and "worker-0" in said and "$worker" not in said
    assert "2 of 3" in said and "3 of 3" not in said
    assert "is stopped" not in said and "enable --now" not in said
    assert hardway("solve") == 0
    assert "is stopped" in (shown := capsys.readouterr().out) and "systemctl enable --now kubelet.service" in shown
    assert lab.broken
    assert hardway("solve", "--apply") == 0
    assert "Solved." in capsys.readouterr().out
    assert hardway("reset") == 0
    assert lab.done[-2:] == ["undo", "repair"]
    assert record.read(lab.cluster.stack) is None
    for words in (("check",), ("hint",), ("solve",), ("reset",)):
        assert hardway(*words) == 1
        assert "has no lesson" in capsys.readouterr().err


def test_what_the_api_must_undo_is_undone_after_the_repair_where_it_does_not_answer(lab: Lab) -> None:
    assert hardway("start", "one") == 0
    lab.api_answers = False
    assert hardway("reset") == 0
    assert lab.done[-2:] == ["repair", "undo"]


def test_only_one_lesson_at_a_time(lab: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    assert hardway("start", "one") == 0
    done = list(lab.done)
    for name in ("one", "other"):
        assert hardway("start", name) == 1
        assert "has the lesson one since" in capsys.readouterr().err
    assert lab.done == done
    with pytest.raises(ToolchainError, match="A drill needs a lab without one"):
        drills.main(lab.cluster.stack, ["kill-kubelet"])


def test_an_interrupted_start_is_finished_by_the_next(lab: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    record.write(lab.cluster.stack, Record(lesson="one", phase="starting", since="2026-11-29T12:00:00Z"))
    # Its fault may be at work.
    lab.problems.append("worker-0 is not Ready")
    assert hardway("check") == 1
    assert "was interrupted (starting)" in capsys.readouterr().err
    assert hardway("start", "other") == 1
    assert hardway("start", "one") == 0
    assert record.read(lab.cluster.stack) == Record(lesson="one", phase="started", since="2026-11-29T12:00:00Z")


@pytest.mark.parametrize("words", [("reset",), ("start", "other")])
def test_an_interrupted_reset_is_finished_by_the_next(lab: Lab, words: Sequence[str]) -> None:
    record.write(lab.cluster.stack, Record(lesson="one", phase="resetting", since="2026-11-29T12:00:00Z"))
    assert hardway("hint") == 1
    assert hardway(*words) == 0
    assert lab.done[:2] == ["undo", "repair"]
    kept = record.read(lab.cluster.stack)
    assert (kept.lesson if kept else None) == (words[1] if len(words) > 1 else None)


def test_a_lab_that_differs_after_the_repair_keeps_its_lesson(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    assert hardway("start", "one") == 0
    left = Drift(stack="paper", differences=[], not_asked={"worker-0": "no answer"})
    monkeypatch.setattr(drifts, "put_back", lambda *_, seconds: left)
    assert hardway("reset") == 1
    kept = record.read(lab.cluster.stack)
    assert kept is not None and kept.phase == "resetting"


def test_a_lab_that_cannot_have_a_lesson_is_refused(lab: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    """A fault on hosts that are the user's own, or on a lab where nobody can tell it from others."""

    def refused(words: str, name: str = "one") -> None:
        assert hardway("start", name) == 1
        said = capsys.readouterr().err
        assert words in said and "othing was changed" in said, said
        assert lab.done == [] and record.read(lab.cluster.stack) is None

    refused("There is no lesson 'none'", "none")
    lab.problems.append("worker-0 is not Ready")
    refused("only on a healthy lab")
    lab.problems.clear()
    (lab.cluster.stack.directory / "drill.json").write_text("{}")
    refused("killed `./hardway drill`")
    (lab.cluster.stack.directory / "drill.json").unlink()
    before = lab.cluster
    lab.cluster = replace(before, stack=replace(before.stack, substrate="machines"))
    refused("existing hosts")
    lab.cluster = replace(before, stack=replace(before.stack, features=frozenset({"kubeadm"})))
    refused("by the hard way")


def test_what_a_lab_lacks_for_a_lesson(tmp_path: Path) -> None:
    made = small_lab(tmp_path)
    needs = _ONE | {"name": "one", "needs": ["two-workers", "load-balancer", "routes"]}
    assert actions.lacking(made, Lesson.model_validate(needs)) == ["a second worker"]
    without = replace(made, machines=[each for each in made.machines if each.name != "load-balancer-0"])
    assert actions.lacking(without, Lesson.model_validate(needs)) == ["a second worker", "a load balancer"]


def test_scripts_get_the_labs_names_and_end_at_the_first_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[tuple[str, str]] = []

    def change(self: Cluster, machine: Any, script: str, **_: Any) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=False)
        ran.append((machine.name, done.stdout))
        return done

    monkeypatch.setattr(Cluster, "change", change)
    made = small_lab(tmp_path, controllers=2)
    good = lesson.Action(where="controllers", run='echo "$worker $worker_address $dns $endpoint_address"')
    bad = lesson.Action(where="worker", run="false; echo not reached")
    with pytest.raises(ToolchainError, match="failed on worker-0"):
        actions.run(made, [good, bad, good], command="test")
    expected = "worker-0 10.0.0.20 10.32.0.10 10.0.0.5\n"
    assert sorted(ran) == [("controller-0", expected), ("controller-1", expected), ("worker-0", "")]


def test_a_damaged_record_is_an_error_that_says_what_to_do(lab: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    (lab.cluster.stack.directory / "lesson.json").write_text("{")
    assert hardway("check") == 1
    assert "hardway repair" in capsys.readouterr().err


def test_the_list_for_programs(lab: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    assert hardway("start", "one") == 0
    capsys.readouterr()
    assert hardway("list", "--json") == 0
    rows = json.loads(capsys.readouterr().out)
    assert [(row["name"], row["state"]) for row in rows] == [("one", "started"), ("other", "")]
    assert rows[0].keys() == {"name", "level", "chapter", "title", "needs", "state"}
    assert hardway("list") == 0
    assert "(started)" in capsys.readouterr().out


def test_the_prelude_and_scripts_pass_shellcheck(tmp_path: Path) -> None:
    """The prelude alone; scripts are read by `bash -n` above."""
    prelude = _CHECKOUT / "live" / "lessons" / "prelude.sh"
    done = subprocess.run(
        ["bash", "-c", f"shellcheck --shell=bash --severity=info {quote(str(prelude))}"],
        env={"PATH": f"{_CHECKOUT / '.venv' / 'bin'}:/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
