"""`./hardway conformance`: the groups, what is run again, and what is made of the results."""

import json
import re
import signal
import subprocess
from pathlib import Path

import pytest
from small_lab import cluster

from config.versions import pins
from live import conformance, workload_tools
from live.cluster import Cluster, LiveMachine
from live.conformance import images as test_images
from live.conformance import results, suite
from toolchain import conformance as programs
from toolchain import images, paths
from toolchain.errors import ToolchainError
from toolchain.exclusive import held_or_refused
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
    signal.signal(signal.SIGINT, lambda *_: (home / "waits").write_text("ended"))
    (home / "waits").touch()
    signal.pause()
directory = next(a for a in sys.argv if a.startswith("--report-dir=")).partition("=")[2]
cases = ['<testcase name="[ReportAfterSuite] writes this" time="0"></testcase>',
         '<testcase name="[It] [sig-storage] another" time="0"><skipped message="skipped"/></testcase>']
for t in chosen:
    end = ends.get(t, "passed")
    failure = {"fails": '<failure message="expected 1 to equal 2">the whole text</failure>',
               "waits": '<error message="Interrupted by User">the whole text</error>'}.get(end, "")
    err = 'Failed to pull image "example.org/none:1": no route' if end == "fails" else ""
    status = "interrupted" if end == "waits" else end
    if end != "missing":
        cases.append(f'<testcase name="[It] {t}" time="1.5" status="{status}">{failure}'
                     f'<system-err>{err}</system-err></testcase>')
body = "".join(cases)
pathlib.Path(directory, "junit_01.xml").write_text(f"<testsuites><testsuite>{body}</testsuite></testsuites>")
sys.exit(any(ends.get(t) == "fails" for t in chosen))
"""
PRINTS_TWO_TESTS = """#!/usr/bin/env python3
import signal
signal.signal(signal.SIGINT, lambda *_: None)
print(chr(0x2022) + " [1.000 seconds]")
print("[SynchronizedBeforeSuite] PASSED [0.002 seconds]")
print(chr(0x2022) + " [FAILED] [2.000 seconds]")
print("  [FAILED] in [It] - pods.go:1")
print("  [FAILED] [sig-node] Pods [It] should start", flush=True)
signal.pause()
"""
E2E_TEST = """#!/bin/sh
case "$1" in
    --list-conformance-tests) cat "${0%/*}/list" ;;
    --list-images) cat "${0%/*}/images" ;;
esac
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
        self.images()
        self.events = ""
        self.ssh: list[str] = []
        self.ends()
        self.cluster = cluster(directory)
        self.cluster.stack.directory.mkdir(parents=True)
        (self.cluster.stack.directory / "kubeconfig").write_text("server: https://10.0.0.5:6443\n")

    def ends(self, **how: str) -> None:
        """How tests end that do not pass: their first word -> fails, missing, dies."""
        ends = {test: end for test in TESTS for word, end in how.items() if word in test}
        (self.home / "ends").write_text(json.dumps(ends))

    def images(self, *others: str) -> None:
        """The images that the tests list: one that is made, one that must not exist, and these."""
        listed = (pins().images["agnhost"].reference, "invalid.registry.k8s.io/invalid/alpine:3.1", *others)
        (self.home / "images").write_text("".join(f"{image}\n" for image in listed))

    def run(self, *sigs: str, again: bool = False, failed: bool = False) -> list[conformance.GroupResults]:
        return conformance.run(self.cluster, sigs, processes=3, again=again, failed=failed)

    def asked_for(self) -> list[set[str]]:
        """The tests that each call of the runner selects."""
        return [{test for test in TESTS if f"--focus={re.escape(test)}$" in call} for call in self.calls()]

    def calls(self) -> list[list[str]]:
        file = self.home / "calls"
        return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []

    def answer(self, _: Cluster, *arguments: str, **given: object) -> str:
        self.kubectl.append(arguments)
        return self.uid

    def answer_events(self, *_: object, **given: object) -> "subprocess.CompletedProcess[str]":
        return subprocess.CompletedProcess([], 0, self.events, "")

    def answer_ssh(self, machine: LiveMachine, script: str, **given: object) -> "subprocess.CompletedProcess[str]":
        self.ssh.append(f"{machine.name}: {script}")
        return subprocess.CompletedProcess([], 0, "", "")


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lab:
    monkeypatch.setattr(paths, "state", lambda: tmp_path / "state")
    made = Lab(tmp_path)
    monkeypatch.setattr(programs, "ensure", lambda report, version: made.home)
    monkeypatch.setattr(images, "ensure", lambda report, features: None)
    monkeypatch.setattr(workload_tools, "kubectl", made.answer)
    monkeypatch.setattr(Cluster, "kubectl", made.answer_events)
    monkeypatch.setattr(Cluster, "ssh", lambda _, *given, **named: made.answer_ssh(*given, **named))
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
    assert f"failed   {APPS[0]}\n  expected 1 to equal 2\n  could not be pulled: example.org/none:1\n" in said
    assert f"not run  {APPS[1]}\n" in said
    assert "\n3 tests have a result: " in said
    shown = json.loads(conformance.as_json(lab.cluster, found))
    assert (shown["controllers"], shown["workers"]) == (3, 1)
    (apps, *_) = shown["groups"]
    assert (apps["group"], apps["tests"], apps["not_run"]) == ("sig-apps", 2, [APPS[1]])
    assert [(each["name"], each["not_pulled"]) for each in apps["failed"]] == [(APPS[0], ["example.org/none:1"])]


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


def interrupt_when(monkeypatch: pytest.MonkeyPatch, file: Path) -> None:
    """Interrupt a run as Ctrl-C does, where it says how far it is."""

    def interrupted(_: Part, doing: str) -> None:
        if file.exists():
            raise KeyboardInterrupt

    monkeypatch.setattr(Part, "say", interrupted)


def test_an_interrupted_run_ends_the_tests(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    lab.ends(Pods="waits")
    interrupt_when(monkeypatch, lab.home / "waits")
    with pytest.raises(KeyboardInterrupt):
        lab.run("sig-node")
    assert (lab.home / "waits").read_text() == "ended"
    assert not conformance.directory_of(lab.cluster).joinpath("groups", "sig-node").exists()


def test_an_interrupted_group_continues_with_the_tests_that_have_no_result(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab.ends(Job="waits")
    with monkeypatch.context() as patch:
        interrupt_when(patch, lab.home / "waits")
        with pytest.raises(KeyboardInterrupt):
            lab.run("sig-apps")
    lab.ends()
    lab.kubectl.clear()
    found = lab.run("sig-apps")
    assert conformance.passes(found)
    assert lab.asked_for() == [set(APPS), {APPS[0]}, {SERIAL}]
    assert any("--selector=e2e-run in (11111111-2222-3333-4444-555555555555)" in call for call in lab.kubectl)
    directory = conformance.directory_of(lab.cluster)
    assert sorted(each.name for each in results.read(directory / "junit_01.xml")) == sorted([*APPS, SERIAL])
    assert (directory / "e2e.log").read_text().count("Starting e2e run") == 3


def test_failed_tests_run_again_only_where_that_is_asked_for(lab: Lab) -> None:
    lab.ends(Job="fails")
    assert not conformance.passes(lab.run("sig-apps"))
    lab.ends()
    assert not conformance.passes(lab.run("sig-apps"))
    assert conformance.passes(lab.run("sig-apps", failed=True))
    assert lab.asked_for() == [set(APPS), {SERIAL}, {APPS[0]}]


def test_a_second_run_is_refused_while_one_is_at_work(lab: Lab) -> None:
    """It would take the namespaces of the first one's tests for those of a killed run, and remove them."""
    lock = lab.cluster.stack.directory / "conformance.lock"
    with held_or_refused(lock, what="./hardway conformance, process 1"):
        with pytest.raises(ToolchainError, match=r"tests run on paper already \(\./hardway conformance, process 1\)"):
            lab.run()
        with pytest.raises(ToolchainError, match="tests run on paper already"):
            lab.run(again=True)
    assert (lab.calls(), lab.kubectl) == ([], [])
    lab.run()
    assert len(lab.calls()) == 3


def test_results_of_another_cluster_are_not_mixed_with_those_of_this_one(lab: Lab) -> None:
    lab.run()
    lab.uid = "uid-2"
    with pytest.raises(ToolchainError, match="are of another cluster"):
        lab.run()
    assert len(lab.calls()) == 3
    lab.run(again=True)
    assert len(lab.calls()) == 6


def test_tests_that_are_over_are_counted_once_however_they_end(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    (lab.home / "ginkgo").write_text(PRINTS_TWO_TESTS)

    def said(_: Part, doing: str) -> None:
        seen.append(doing)
        if "2 of 1 are over" in doing:
            raise KeyboardInterrupt

    seen: list[str] = []
    monkeypatch.setattr(Part, "say", said)
    monkeypatch.setattr(results, "read", lambda file: [])
    with pytest.raises(KeyboardInterrupt):
        lab.run("sig-node")
    assert not any("3 of 1" in each for each in seen)


def test_images_that_cannot_be_pulled_are_shown_while_the_tests_wait_for_them(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab.ends(Pods="waits")
    lab.events = (
        'pods-1 Failed to pull image "example.org/none:1": no route\npods-1 Error: ErrImagePull\n'
        'runtime-2 Failed to pull image "invalid.registry.k8s.io/invalid/alpine:3.1": no such host\n'
        'deployment-3 Failed to pull image "gcr.io/google_samples/gb-redisslave:nonexistent": no such host\n'
        'deployment-4 Failed to pull image "webserver:404": no such host\n'
    )
    seen: list[str] = []

    def said(_: Part, doing: str) -> None:
        seen.append(doing)
        if (lab.home / "waits").exists():
            raise KeyboardInterrupt

    monkeypatch.setattr(Part, "say", said)
    with pytest.raises(KeyboardInterrupt):
        lab.run("sig-node")
    wanted = "example.org/none:1 cannot be pulled, which a test in the namespace pods-1 needs"
    assert seen[-1] == f"0 of 1 are over; {wanted}"


def test_an_image_that_is_neither_made_nor_needless_is_named_before_the_tests(
    lab: Lab, capsys: pytest.CaptureFixture[str]
) -> None:
    lab.run("sig-node")
    assert "which is not made here" not in capsys.readouterr().out
    lab.images("example.org/new:2", "registry.k8s.io/sig-storage/csi-resizer:v2.1.0")
    lab.run("sig-node", again=True)
    said = capsys.readouterr().out
    assert said.count("which is not made here") == 1
    assert said.index("The tests list the image example.org/new:2, which is not made here.") < said.index("sig-node:")


def test_the_images_of_a_node_are_imported_by_one_connection(lab: Lab) -> None:
    lab.run("sig-node")
    assert len(lab.ssh) == len(lab.cluster.nodes)
    assert all(image.reference in lab.ssh[0] for image in (pins().images["nautilus"], pins().images["e2e-etcd"]))


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
    with pytest.raises(ToolchainError, match="does not list its images: no such flag"):
        test_images.unknown(tmp_path)
