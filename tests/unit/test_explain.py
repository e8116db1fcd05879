"""`hardway explain`: the component and the line of the source that make a file or set a flag."""

import json
import re
from contextlib import suppress
from pathlib import Path

import pytest

from cli import main as commands
from cli import recorded_program, source_lines
from cli.recorded_program import record
from cli.source_lines import line, setting
from toolchain import paths, stack
from toolchain.errors import ToolchainError
from unit.conftest import program, recorded

STACKS = ("dev", "ha", "kubeadm", "libvirt", "gcp")
"""Every substrate that makes its machines, and both ways to make a cluster."""


@pytest.fixture
def once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The program of a stack is run once for all tests."""
    monkeypatch.setattr(recorded_program, "record", lambda chosen: recorded(chosen.name))


def text_at(where: object) -> str:
    """The line of `file:number`."""
    file, _, number = str(where).rpartition(":")
    return (paths.checkout() / file).read_text().splitlines()[int(number) - 1]


@pytest.mark.parametrize("name", STACKS)
def test_every_file_that_a_step_writes_is_known(name: str, no_output_in_a_string: None) -> None:
    """Beside the scripts that the engine would get."""
    run = program(name)
    written = {
        (step.name, path): mode
        for step in run.of_type("command:remote:Command")
        for path, mode in run.files(step.name).items()
    }
    known = {
        (each.step, each.path): each.mode
        for each in recorded(name)
        # The unit of a package has no file of the step's.
        if each.kind == "file" or (each.kind == "unit" and each.content is not None)
    }
    assert known == written


@pytest.mark.parametrize("name", STACKS)
def test_every_place_is_what_it_says(name: str) -> None:
    calls = {"file": "File(", "unit": "Unit(", "artifact": "Fetch("}
    for each in recorded(name):
        assert calls[each.kind] in text_at(each.places[0]), each
        assert text_at(each.component_place).startswith(f"class {each.component}("), each
        assert "Step(" in text_at(each.step_place), each


@pytest.mark.parametrize("name", ["dev", "libvirt"])
def test_every_flag_of_every_unit_has_its_line(name: str) -> None:
    seen = 0
    units = {(each.path, each.places): each for each in recorded(name) if each.kind == "unit"}
    for each in units.values():
        for flag in re.findall(r"^  --([\w-]+)=", each.content or "", re.M):
            found = setting(flag, each)
            assert found is not None, (each.path, flag)
            assert f'"{flag}"' in found.text == text_at(found).strip(), (each.path, flag)
            seen += 1
    assert seen > 80


def test_a_flag_of_two_programs_has_a_line_for_each() -> None:
    units = {Path(each.path).stem: each for each in recorded("dev") if each.kind == "unit"}
    found = [setting("service-cluster-ip-range", units[name]) for name in ("kube-apiserver", "kube-controller-manager")]
    assert len(set(map(str, found))) == 2


@pytest.mark.usefixtures("once")
def test_a_key_of_a_file_and_of_a_template(capsys: pytest.CaptureFixture[str]) -> None:
    assert commands.main(["explain", "maxPods"]) == 0
    said = capsys.readouterr().out
    assert re.search(r'^  set in +components/\w+\.py:\d+ +"maxPods": network\.max_pods,$', said, re.M)
    assert "/etc/kubernetes/config/kubelet.yaml (0600, root) on worker-0, worker-1\n" in said
    assert commands.main(["explain", "maxconn"]) == 0
    assert re.search(r"^  set in +config/templates/haproxy\.cfg:\d+ +maxconn", capsys.readouterr().out, re.M)
    # What a provider tells is in the file: its content is known only at `up`.
    assert commands.main(["explain", "-s", "kubeadm", "--profiling"]) == 0
    said = capsys.readouterr().out
    assert re.search(r'^  set in +components/\w+\.py:\d+ .*"profiling"', said, re.M)
    assert "secret" not in said


@pytest.mark.usefixtures("once")
def test_a_file_of_one_machine(capsys: pytest.CaptureFixture[str]) -> None:
    path = "/usr/local/lib/hardway/nodes.sh"
    assert commands.main(["explain", f"controller-0:{path}"]) == 0
    said = capsys.readouterr().out
    assert said.startswith(f"{path} (0644, root) on controller-0\n  content ")
    assert re.search(r"^  content +components/nodes\.sh$", said, re.M)
    assert commands.main(["explain", "--json", "worker-1:/usr/local/bin/kubelet"]) == 0
    document = json.loads(capsys.readouterr().out)
    (found,) = document["found"]
    assert (found["kind"], found["machines"], found["secret"]) == ("artifact", ["worker-1"], False)
    assert "Fetch(" in text_at(found["source"][0])


@pytest.mark.usefixtures("once")
def test_the_same_file_of_several_machines_is_shown_once(capsys: pytest.CaptureFixture[str]) -> None:
    assert commands.main(["explain", "-s", "ha", "kubelet.kubeconfig"]) == 0
    assert "kubelet.kubeconfig (0600, root, secret) on worker-0, worker-1, worker-2\n" in capsys.readouterr().out


@pytest.mark.usefixtures("once")
@pytest.mark.parametrize(
    ("what", "code", "said"),
    [
        ("worker-9:/etc/hosts", 1, "error: There is no machine 'worker-9': it must be one of controller-0, "),
        ("no-such-thing-anywhere", 1, "error: Nothing in the stack dev and in the source is or has 'no-such-thing-any"),
        (
            "worker-0:/etc/hosts",
            0,
            "No step of the stack dev writes worker-0:/etc/hosts by itself. Lines that name /",
        ),
        ("/etc/cni/net.d/other", 0, "writes /etc/cni/net.d/other by itself. Lines that name /etc/cni/net.d:\n"),
    ],
)
def test_what_no_step_writes(what: str, code: int, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert commands.main(["explain", what]) == code
    printed = capsys.readouterr()
    assert said in printed.out + printed.err


def test_wrong_settings_are_reported(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The report of the program, and no traceback."""
    wrong = tmp_path / "Pulumi.dev.yaml"
    wrong.write_text("config: {hardway:lab: {controllers: 0, wokers: 2}}\n")
    monkeypatch.setattr(stack, "read", lambda _: stack_of(wrong))
    assert commands.main(["explain", "maxPods"]) == 1
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert "lab.wokers" in said
    assert "lab.controllers" in said


def stack_of(file: Path) -> stack.Stack:
    return stack.Stack(
        name="dev", project="hardway", settings_file=file, substrate="containers", engine="podman", kubernetes="1.36.4"
    )


def test_a_reason_is_the_comment_beside_a_line_or_above_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text(
        '{\n    # Not this.\n\n    # One,\n    # two.\n    "a": 1,\n    "b": 2,  # Three.\n}\n'
    )
    monkeypatch.setattr(paths, "checkout", lambda: tmp_path)
    source_lines._lines.cache_clear()
    assert [line(Path("a.py"), number).reason for number in (6, 7, 8)] == ["One, two.", "Three.", ""]


def test_nothing_is_left_of_the_recording(tmp_path: Path) -> None:
    """Steps and files are made as ever afterwards, also where the program fails."""
    from components import step

    kinds = (step.File, step.Unit, step.Fetch, step.Step)
    before = [kind.__init__ for kind in kinds]
    (tmp_path / "Pulumi.dev.yaml").write_text("config: {hardway:lab: {controllers: 0}}\n")
    for wrong in (paths.checkout(), tmp_path):
        with suppress(ToolchainError):
            record(stack_of(wrong / "Pulumi.dev.yaml"))
        assert [kind.__init__ for kind in kinds] == before
