"""The chapters of the hard way: what a lab has that ends with one, and that nothing else knows other chapters."""

import json
import re
from dataclasses import replace
from functools import cache
from pathlib import Path

import pulumi
import pytest

from config import chapters, paths
from config import lab as config
from config.chapters import CHAPTERS, COMPLETE, NAMES
from config.errors import UserError
from config.lab import parse
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


def stated(directory: Path, *kinds: str, deleted: str = "") -> Path:
    """A state in Pulumi's file, of a lab with these components."""
    resources: list[dict[str, object]] = [{"type": f"hardway:index:{kind}"} for kind in kinds]
    resources += [{"type": f"hardway:index:{deleted}", "delete": True}] if deleted else []
    file = directory / ".pulumi" / "stacks" / "hardway" / "toy.json"
    file.parent.mkdir(parents=True)
    file.write_text(json.dumps({"version": 3, "checkpoint": {"stack": "toy", "latest": {"resources": resources}}}))
    return file


class TestPlainPulumi:
    """`pulumi up` with the variable: the command line is not there to refuse it."""

    @pytest.fixture(autouse=True)
    def backend(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in ("PULUMI_BACKEND_URL", "PULUMI_ACCESS_TOKEN"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("PULUMI_HOME", str(tmp_path / "pulumi"))

    def test_an_earlier_chapter_than_the_state_has_is_refused(self, tmp_path: Path) -> None:
        stated(tmp_path, "Host", "Pki", "Etcd", "ControlPlane", deleted="Worker")
        with pytest.raises(UserError, match=r"has the chapter 'control-plane' already.*would delete everything after"):
            chapters.check_is_next("toy", "etcd", tmp_path)
        for until in ("control-plane", "load-balancer", COMPLETE):
            chapters.check_is_next("toy", until, tmp_path)

    # The tool chain's own environment has such an option (`./hardway env`).
    @pytest.mark.parametrize("options", ["", "?metadata=skip"])
    def test_the_backend_of_the_environment_counts(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: str
    ) -> None:
        stated(tmp_path / "other", "Host", "Etcd")
        chapters.check_is_next("toy", "machines", tmp_path)
        monkeypatch.setenv("PULUMI_BACKEND_URL", f"file://{tmp_path}/other{options}")
        with pytest.raises(UserError, match="'etcd'"):
            chapters.check_is_next("toy", "machines", tmp_path)

    def test_a_lab_without_a_state_may_end_anywhere(self, tmp_path: Path) -> None:
        chapters.check_is_next("toy", "machines", tmp_path)
        stated(tmp_path).write_text(json.dumps({"version": 3, "checkpoint": {"stack": "toy", "latest": None}}))
        chapters.check_is_next("toy", "machines", tmp_path)

    def test_a_state_that_cannot_be_read_is_no_answer(self, tmp_path: Path) -> None:
        stated(tmp_path).write_text("{")
        with pytest.raises(UserError, match="cannot be read"):
            chapters.check_is_next("toy", "machines", tmp_path)
        chapters.check_is_next("toy", COMPLETE, tmp_path)

    @pytest.mark.parametrize(
        ("facts", "has"), [('{"until": "etcd"}', "etcd"), ('{"endpoint": "x"}', COMPLETE), ("[", "cannot be read")]
    )
    def test_a_state_elsewhere_is_known_by_the_labs_files(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, facts: str, has: str
    ) -> None:
        monkeypatch.setenv("PULUMI_BACKEND_URL", "s3://bucket")
        chapters.check_is_next("toy", "machines", tmp_path)
        (tmp_path / "toy").mkdir()
        (tmp_path / "toy" / "lab.json").write_text(facts)
        with pytest.raises(UserError, match=has):
            chapters.check_is_next("toy", "machines", tmp_path)

    def test_the_program_asks_when_it_reads_its_configuration(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv(chapters.VARIABLE, "etcd")
        lab = replace(parse("toy", LABS["dev"]), until="etcd")
        stated(tmp_path, "Host", "ControlPlane")
        monkeypatch.setattr(paths, "state", lambda: tmp_path)
        monkeypatch.setattr(config, "parse", lambda *_, **given: lab)
        monkeypatch.setattr(pulumi, "get_stack", lambda: "toy")
        with pytest.raises(UserError, match="'control-plane'"):
            config.load()
