"""`./hardway conformance`: the groups, what is run again, and what is made of the results."""

import json
import signal
import subprocess
from pathlib import Path

import pytest
from small_lab import cluster

from config.versions import pins
from live import conformance, workload_tools
from live.cluster import Cluster
from live.conformance import results, suite
from toolchain import conformance as programs
from toolchain import images, paths
from toolchain.errors import ToolchainError
from toolchain.from_source.image_recipes import RECIPES
from toolchain.progress import Part

APPS = ["[sig-apps] Job should run [Conformance]", "[sig-apps] Deployment should roll [Conformance]"]
SERIAL = "[sig-apps] DaemonSet should be alone [Serial] [Conformance]"
NODE = "[sig-node] Pods should start [NodeConformance] [Conformance]"
TESTS = [NODE, *APPS, SERIAL]

# What the runner does: a file for each group says how its tests end. It writes down how it was called.
GINKGO = """#!/usr/bin/env python3
import json, os, pathlib, re, signal, sys
home = pathlib.Path(__file__).parent
with (home / "calls").open("a") as calls:
    calls.write(json.dumps(sys.argv[1:]) + chr(10))
print('Starting e2e run "11111111-2222-3333-4444-555555555555" on Ginkgo node 1', flush=True)
focus = [a.partition("=")[2] for a in sys.argv if a.startswith("--focus=")]
skip = [a.partition("=")[2] for a in sys.argv if a.startswith("--skip=")]
chosen = [t for t in json.loads((home / "tests").read_text())
          if any(re.search(f, t) for f in focus) and not any(re.search(s, t) for s in skip)]
ends = json.loads((home / "ends").read_text())
if any(ends.get(t) == "dies" for t in chosen):
    os.kill(os.getpid(), signal.SIGKILL)
if any(ends.get(t) == "waits" for t in chosen):
    def end(*_):
        (home / "waits").write_text("ended")
        sys.exit(130)
    signal.signal(signal.SIGINT, end)
    (home / "waits").touch()
    while True:
        signal.pause()
directory = next(a for a in sys.argv if a.startswith("--report-dir=")).partition("=")[2]
cases = ['<testcase name="[ReportAfterSuite] writes this" time="0"></testcase>',
         '<testcase name="[It] [sig-storage] another" time="0"><skipped message="skipped"/></testcase>']
for t in chosen:
    if ends.get(t) != "missing":
        failure = '<failure message="expected 1 to equal 2">the whole text</failure>' if ends.get(t) == "fails" else ""
        cases.append(f'<testcase name="[It] {t}" time="1.5">{failure}</testcase>')
body = "".join(cases)
pathlib.Path(directory, "junit_01.xml").write_text(f"<testsuites><testsuite>{body}</testsuite></testsuites>")
sys.exit(any(ends.get(t) == "fails" for t in chosen))
"""
E2E_TEST = """#!/bin/sh
[ "$1" = --list-conformance-tests ] && cat "${0%/*}/list"
"""


class Lab:
    """A lab on paper with programs that answer as the test says."""

    def __init__(self, directory: Path) -> None:
        self.home = directory / "programs"
        self.home.mkdir()
        self.uid = "uid-1"
        self.kubectl: list[tuple[str, ...]] = []
        for name, text in (("ginkgo", GINKGO), ("e2e.test", E2E_TEST)):
            (self.home / name).write_text(text)
            (self.home / name).chmod(0o755)
        (self.home / "tests").write_text(json.dumps(TESTS))
        (self.home / "list").write_text("".join(f"- testname: x\n  codename: '{test}'\n" for test in TESTS))
        self.ends()
        self.cluster = cluster(directory)
        self.cluster.stack.directory.mkdir(parents=True)
        (self.cluster.stack.directory / "kubeconfig").write_text("server: https://10.0.0.5:6443\n")

    def ends(self, **how: str) -> None:
        """How tests end that do not pass: their first word -> fails, missing, dies."""
        ends = {test: end for test in TESTS for word, end in how.items() if word in test}
        (self.home / "ends").write_text(json.dumps(ends))

    def run(self, *sigs: str, again: bool = False) -> list[conformance.GroupResults]:
        return conformance.run(self.cluster, sigs, processes=3, again=again)

    def calls(self) -> list[list[str]]:
        file = self.home / "calls"
        return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []

    def answer(self, _: Cluster, *arguments: str, **given: object) -> str:
        self.kubectl.append(arguments)
        return self.uid


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lab:
    monkeypatch.setattr(paths, "state", lambda: tmp_path / "state")
    made = Lab(tmp_path)
    monkeypatch.setattr(programs, "ensure", lambda report, version: made.home)
    monkeypatch.setattr(images, "ensure", lambda report, features: None)
    monkeypatch.setattr(workload_tools, "kubectl", made.answer)
    monkeypatch.setattr(Cluster, "ssh", lambda *_, **given: subprocess.CompletedProcess([], 0, "", ""))
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    return made


def test_groups_are_by_sig_and_those_that_run_alone_come_last() -> None:
    found = suite.grouped(TESTS)
    assert [(each.name, each.tests) for each in found] == [
        ("sig-apps", APPS),
        ("sig-node", [NODE]),
        ("sig-apps-serial", [SERIAL]),
    ]
    assert [each.name for each in suite.grouped(TESTS, ["sig-node"])] == ["sig-node"]


def test_an_unknown_sig_is_reported_with_those_that_there_are() -> None:
    with pytest.raises(ToolchainError, match=r"is of sig-none\. There are: sig-apps, sig-node\."):
        suite.grouped(TESTS, ["sig-none"])


def test_all_groups_run_and_their_results_stand_in_one_file(lab: Lab) -> None:
    found = lab.run()
    assert conformance.passes(found)
    assert [next(word for word in call if word.startswith("--procs")) for call in lab.calls()] == [
        "--procs=3",
        "--procs=3",
        "--procs=1",
    ]
    directory = conformance.directory_of(lab.cluster)
    assert sorted(each.name for each in results.read(directory / "junit_01.xml")) == sorted(TESTS)
    assert (directory / "e2e.log").read_text().count("Starting e2e run") == 3


def test_a_test_that_fails_or_has_no_result_is_named(lab: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    lab.ends(Job="fails", Deployment="missing")
    found = lab.run()
    assert not conformance.passes(found)
    conformance.show(found, conformance.directory_of(lab.cluster))
    said = capsys.readouterr().out
    assert f"failed   {APPS[0]}\n  expected 1 to equal 2\n" in said
    assert f"not run  {APPS[1]}\n" in said
    assert "\n3 tests have a result: " in said
    shown = json.loads(conformance.as_json(found))
    assert shown[0]["not_run"] == [APPS[1]] and shown[0]["failed"][0]["name"] == APPS[0]


def test_the_next_run_continues_where_a_killed_one_ended(lab: Lab) -> None:
    lab.ends(Pods="dies")
    with pytest.raises(ToolchainError, match="The tests of sig-node did not run:\n  Starting e2e run"):
        lab.run()
    lab.ends()
    lab.kubectl.clear()
    assert conformance.passes(lab.run())
    assert len(lab.calls()) == 4, "the group with results runs once, the killed one twice"
    assert any("--selector=e2e-run in (11111111-2222-3333-4444-555555555555)" in call for call in lab.kubectl)
    lab.kubectl.clear()
    assert conformance.passes(lab.run())
    assert len(lab.calls()) == 4
    assert not any("delete" in call for call in lab.kubectl)


def test_an_interrupted_run_ends_the_tests(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    lab.ends(Pods="waits")

    def interrupted(_: Part, doing: str) -> None:
        if (lab.home / "waits").exists():
            raise KeyboardInterrupt

    monkeypatch.setattr(Part, "say", interrupted)
    with pytest.raises(KeyboardInterrupt):
        lab.run("sig-node")
    assert (lab.home / "waits").read_text() == "ended"
    assert not conformance.directory_of(lab.cluster).joinpath("groups", "sig-node").exists()


def test_results_of_another_cluster_are_not_mixed_with_those_of_this_one(lab: Lab) -> None:
    lab.run()
    lab.uid = "uid-2"
    with pytest.raises(ToolchainError, match="are of another cluster"):
        lab.run()
    assert len(lab.calls()) == 3
    lab.run(again=True)
    assert len(lab.calls()) == 6


def test_only_the_chosen_sig_runs(lab: Lab) -> None:
    found = lab.run("sig-node")
    assert [each.group.name for each in found] == ["sig-node"]
    assert len(lab.calls()) == 1


def test_the_images_of_the_tests_have_recipes_and_archives_of_their_own() -> None:
    wanted = pins().images_for(["conformance"])
    assert set(wanted) <= set(RECIPES)
    archives = [pins().images[name].archive_path("amd64") for name in wanted]
    assert len(set(archives)) == len(archives)


def test_a_binary_that_lists_no_tests_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "e2e.test").write_text("#!/bin/sh\necho no such flag >&2\nexit 2\n")
    (tmp_path / "e2e.test").chmod(0o755)
    with pytest.raises(ToolchainError, match="does not list its tests: no such flag"):
        suite.groups(tmp_path)
