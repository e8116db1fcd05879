"""The end of an `up`: whether the lab answers, asked while Pulumi looks for changes, and again where there were any."""

from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from live import answers, bring_up, cluster, last_questions, power
from toolchain import access, operations, prepare
from toolchain.errors import ToolchainError
from toolchain.stack import Stack

TABLE = "NAME STATUS\n"


class Lab:
    """A lab whose state, problems and chapter a test sets; `asked` has each question in its order."""

    def __init__(self) -> None:
        self.state: Mapping[str, Any] = {"resources": [{"urn": "a", "modified": "10:00"}]}
        self.changes_to: Mapping[str, Any] | None = None
        self.problems: list[str] = []
        self.outputs: dict[str, Any] = {"endpoint": "https://10.0.0.1:6443"}
        self.code = 0
        self.asked: list[str] = []

    def up(self, *_: Any, **__: Any) -> int:
        if self.changes_to is not None:
            self.state = self.changes_to
        return self.code

    def early(self, _: Any) -> list[str]:
        self.asked.append("early")
        return self.problems

    def nodes(self, *_: Any, **__: Any) -> str:
        self.asked.append("nodes")
        return TABLE

    def check(self, _: Any) -> None:
        self.asked.append("check")
        if self.problems:
            raise ToolchainError(self.problems[0])


@pytest.fixture
def lab(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Lab:
    lab = Lab()
    monkeypatch.setattr(operations, "check_settings", lambda *_, **__: None)
    monkeypatch.setattr(operations, "up", lab.up)
    monkeypatch.setattr(
        prepare, "everything", lambda *_: SimpleNamespace(state=SimpleNamespace(directory=Path("/nowhere")))
    )
    monkeypatch.setattr(power, "start_for_up", lambda _: None)
    monkeypatch.setattr(bring_up, "recorded", lambda *_: lab.state)
    monkeypatch.setattr(access, "read", lambda _: {"until": "etcd"} if "until" in lab.outputs else {})
    monkeypatch.setattr(access, "room_for_outputs", lambda _: tmp_path / "outputs.json")
    monkeypatch.setattr(operations, "outputs", lambda *_: lab.outputs)
    monkeypatch.setattr(access, "write", lambda *_: None)
    monkeypatch.setattr(last_questions, "table_of_nodes", lab.nodes)
    monkeypatch.setattr(cluster, "find", lambda *_, **__: None)
    monkeypatch.setattr(answers, "problems", lab.early)
    monkeypatch.setattr(answers, "check", lab.check)
    return lab


STACK = Stack(
    name="dev",
    project="hardway",
    settings_file=Path("Pulumi.dev.yaml"),
    substrate="containers",
    engine="podman",
    kubernetes="1.36.4",
)


def test_a_healthy_lab_without_a_change_is_asked_once(lab: Lab) -> None:
    assert bring_up.bring_up(STACK).table == TABLE
    assert sorted(lab.asked) == ["early", "nodes"]


def test_a_lab_that_changed_is_asked_after_the_change(lab: Lab) -> None:
    lab.changes_to = {"resources": [{"urn": "a", "modified": "10:01"}]}
    assert bring_up.bring_up(STACK).table == TABLE
    assert sorted(lab.asked) == ["check", "early", "nodes", "nodes"]


def test_a_new_lab_is_asked_when_it_is_made(lab: Lab) -> None:
    lab.state, lab.changes_to = {}, lab.state
    assert bring_up.bring_up(STACK).table == TABLE
    assert sorted(lab.asked) == ["check", "nodes"]


def test_a_problem_is_looked_at_again_before_it_is_reported(lab: Lab) -> None:
    lab.problems = ["worker-0 does not answer"]
    with pytest.raises(ToolchainError, match="worker-0 does not answer"):
        bring_up.bring_up(STACK)
    assert "check" in lab.asked


def test_a_part_of_a_lab_has_no_table_of_nodes(lab: Lab) -> None:
    lab.outputs["until"] = "etcd"
    assert bring_up.bring_up(STACK).table == ""
    assert lab.asked == ["check"]


def test_a_run_that_failed_reports_nothing_else(lab: Lab) -> None:
    lab.code = 255
    assert bring_up.bring_up(STACK).code == 255
    assert "check" not in lab.asked
