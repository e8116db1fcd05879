"""The chapters of the hard way: what a lab has that ends with one, and that nothing else knows other chapters."""

import re
from functools import cache
from pathlib import Path

import pytest

from config import chapters
from config.chapters import CHAPTERS, COMPLETE, NAMES
from config.errors import UserError
from lab.pictures import _kind
from unit.conftest import HARD_WAY, LABS, program
from unit.mocked_engine import Run, run_program

DOCS = Path(__file__).parents[2] / "docs"


@cache
def until(stack: str, name: str) -> Run:
    """The program, ended with a chapter."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(chapters.VARIABLE, name)
        return run_program(stack, LABS[stack])


def components(run: Run) -> set[str]:
    return {each.type.rpartition(":")[2] for each in run.resources if each.is_component} - {"Script"}


SOME = ("machines", "kubeconfigs", "encryption", "etcd", "control-plane", "load-balancer", "workers", "pod-network")
CASES = [*(("dev", name) for name in SOME), *((stack, "workers") for stack in ("dedicated", "gcp-classic", "shared"))]


@pytest.mark.parametrize(("stack", "name"), CASES)
def test_a_lab_has_the_components_of_its_chapters(stack: str, name: str, no_output_in_a_string: None) -> None:
    wanted = {kind for each in CHAPTERS[: NAMES.index(name) + 1] for kind in each.components}
    assert components(until(stack, name)) == components(program(stack)) & wanted


@pytest.mark.parametrize("name", SOME)
def test_the_next_up_only_adds_to_it(name: str, no_output_in_a_string: None) -> None:
    """But for the clock of the machines, which is compared with the CAs once there are CAs."""
    whole = {each.urn: each for each in program("dev").resources}
    part = until("dev", name).resources
    assert {each.urn for each in part} <= whole.keys()
    changed = {each.name for each in part if each.inputs != whole[each.urn].inputs}
    assert changed == ({each.name for each in part if each.name.startswith("host-")} if name == "machines" else set())


@pytest.mark.parametrize("stack", HARD_WAY)
def test_nothing_waits_for_a_later_chapter(stack: str) -> None:
    """A lab that ends with a chapter could not be built."""
    run = program(stack)
    at = {kind: number for number, each in enumerate(CHAPTERS) for kind in each.components}
    kinds = {each.urn: kind for each in run.resources if (kind := _kind(run, each))}
    late = {
        (kinds[each.urn], kinds[urn])
        for each in run.resources
        if each.urn in kinds
        for urn in each.request.dependencies
        if urn in kinds and at[kinds[urn]] > at[kinds[each.urn]]
    }
    # The clock of a machine; see `hard_way`.
    assert late == {("Host", "Pki")}


def test_the_outputs_say_where_a_lab_ends(no_output_in_a_string: None) -> None:
    assert until("dev", "etcd").outputs["until"] == "etcd"
    assert "readiness" not in until("dev", "etcd").outputs
    assert until("dev", "machines").outputs["certificates"] == []
    assert "kubeconfig" not in until("dev", "machines").outputs
    assert "until" not in until("dev", COMPLETE).outputs


def test_kubeadm_has_no_chapters(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(chapters.VARIABLE, "etcd")
    with pytest.raises(Exception, match="one command, `kubeadm init`"):
        run_program("kubeadm", LABS["kubeadm"])


def test_an_unknown_chapter_lists_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(chapters.VARIABLE, "etc")
    with pytest.raises(UserError, match=r"machines, certificates, .*, dns"):
        chapters.last_chapter("hard-way")


def test_the_last_chapter_that_was_begun() -> None:
    assert chapters.reached(["Etcd", "Host", "Pki", "Script"]) == "etcd"
    assert chapters.reached([]) == ""


def test_the_page_has_a_section_for_each_chapter() -> None:
    sections = re.findall(r"^## (.*)$", (DOCS / "chapters.md").read_text(), re.M)
    assert {each.section for each in CHAPTERS} <= set(sections)
