"""An update that failed, or was killed: the next run does it again, also where the old configuration was put back."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.project import Project, Ran
from lab.polling import eventually

_CHECKOUT = Path(__file__).parents[2]
_PROGRAM = """
import sys
sys.path.insert(0, {checkout!r})
from pathlib import Path
import pulumi
from pulumi_command import local
from components.unfinished_updates import UnfinishedUpdates
UnfinishedUpdates(Path({record!r})).run_again()
# As the firewall: a script on standard input.
local.Command("script", create="sh -s", stdin={script!r}, delete="true")
# As the steps: `update` is another command than `create`.
local.Command("updated", create="true", update="sh -s", stdin="echo updated >>{log}\\nexit {updated}")
# As the boot unit and the machines.
replaced = pulumi.ResourceOptions(replace_on_changes=["create"], delete_before_replace=True)
local.Command("replaced", create="echo {replaced} >>{log}; exit {replaced}", opts=replaced)
local.Command("other", create="echo other >>{log}")
"""


class Lab:
    """A project whose commands write into a log when they run."""

    def __init__(self, project: Project, home: Path) -> None:
        self.project = project
        self.log = home / "log"
        self.record = home / "state of the lab" / "unfinished.json"
        self.wants("echo good >>{log}")

    def wants(self, script: str, *, updated: int = 0, replaced: int = 0) -> None:
        self.project.program(
            _PROGRAM.format(
                checkout=str(_CHECKOUT),
                record=str(self.record),
                log=self.log,
                script=script.format(log=self.log),
                updated=updated,
                replaced=replaced,
            )
        )

    def up(self, *, ok: bool = True) -> tuple[Ran, list[str]]:
        """The run, and what ran in it."""
        self.log.write_text("")
        ran = self.project.up(ok=ok)
        return ran, sorted(self.log.read_text().split())


@pytest.fixture
def lab(project: Project, tmp_path: Path) -> Iterator[Lab]:
    made = Lab(project, tmp_path)
    assert made.up()[1] == ["0", "good", "other"]
    yield made
    project.kill()


def _unchanged(ran: Ran) -> bool:
    return re.search(r"Resources:\n +5 unchanged\n", ran.output) is not None


def test_old_inputs_that_are_put_back_are_applied_again(lab: Lab) -> None:
    for _ in range(2):
        lab.wants("echo bad >>{log}\nexit 1", updated=1)
        assert lab.up(ok=False)[1] == ["bad", "updated"]
        lab.wants("echo good >>{log}")
        preview = lab.project.preview().output
        assert "~ 2 to update" in preview, preview
        assert "# again: unfinished since 20" in preview, preview
        assert lab.up()[1] == ["good", "updated"]
        ran, done = lab.up()
        assert (done, _unchanged(ran)) == ([], True), ran.output


def test_an_update_that_was_killed_is_done_again(lab: Lab) -> None:
    lab.wants("echo begins >>{log}\nexec sleep 60")
    engine = lab.project.start("up", "--yes", "--skip-preview")
    eventually("the update begins", lambda: "begins" in lab.log.read_text(), seconds=60, pause=0.05)
    lab.project.kill()
    engine.wait()
    lab.project.pulumi("cancel", "--yes", ok=True)
    lab.wants("echo good >>{log}")
    # As `./hardway up` does it: what was under way goes out of the state.
    lab.project.pulumi("refresh", "--yes", "--skip-preview", "--clear-pending-creates", ok=True)
    assert lab.up()[1] == ["good"]
    ran, done = lab.up()
    assert (done, _unchanged(ran)) == ([], True), ran.output


def test_a_failed_replacement_is_the_engines_own_to_finish(lab: Lab) -> None:
    lab.wants("echo good >>{log}", replaced=1)
    assert lab.up(ok=False)[1] == ["1"]
    lab.wants("echo good >>{log}")
    assert lab.up()[1] == ["0"]


def test_an_update_that_succeeds_leaves_nothing(lab: Lab) -> None:
    lab.wants("echo better >>{log}")
    assert lab.up()[1] == ["better"]
    assert json.loads(lab.record.read_text()) == {}
    assert _unchanged(lab.up()[0])


@pytest.mark.long
def test_a_record_that_is_lost_or_torn_costs_one_more_run(lab: Lab) -> None:
    lab.wants("exit 1")
    lab.up(ok=False)
    lab.wants("echo good >>{log}")
    assert lab.up()[1] == ["good"]
    lab.record.write_text('{"torn')
    assert lab.up()[1] == ["good"]
    assert _unchanged(lab.up()[0])


def test_a_destroy_needs_no_program(lab: Lab) -> None:
    lab.project.program("raise SystemExit('the program was run')")
    assert "5 deleted" in lab.project.destroy().output
