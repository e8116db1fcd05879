"""The commands that people type: `make` and `python -m toolchain`."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from live import answers, cluster
from toolchain import __main__ as commands
from toolchain import access, operations, paths, prepare
from toolchain.errors import ToolchainError
from toolchain.prepare import Workshop
from toolchain.progress import Report
from toolchain.stack import Stack
from toolchain.state import State

MAKEFILE = Path(__file__).parents[2] / "Makefile"


@pytest.fixture(autouse=True)
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(paths, "checkout", lambda: tmp_path)
    monkeypatch.delenv("STACK", raising=False)
    (tmp_path / "Pulumi.yaml").write_text("name: toy\n")
    for name in ("dev", "ha"):
        (tmp_path / f"Pulumi.{name}.yaml").write_text("config: {}\n")
    return tmp_path


@pytest.fixture
def prepared(monkeypatch: pytest.MonkeyPatch) -> Workshop:
    workshop = Workshop(
        pulumi=Path("/bin/false"),
        state=State(environment={}, directory=None, own_passphrase=False),
        environment={"PATH": "/a dir:/bin", "PULUMI_SKIP_UPDATE_CHECK": "1"},
    )

    def everything(report: Report, stack: Stack, *, retry: bool = False) -> Workshop:
        with report.part("something that takes its time"):
            return workshop

    monkeypatch.setattr(prepare, "everything", everything)
    return workshop


def test_env_prints_exports_on_stdout_and_all_else_on_stderr(
    prepared: Workshop, capsys: pytest.CaptureFixture[str]
) -> None:
    assert commands.main(["env"]) == 0
    said = capsys.readouterr()
    assert said.out == "export PATH='/a dir:/bin'\nexport PULUMI_SKIP_UPDATE_CHECK=1\n"
    assert "something that takes its time" in said.err


def test_kubectl_gets_its_words_as_a_shell_would_cut_them(monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[tuple[str, list[str]]] = []
    monkeypatch.setattr(access, "kubectl", lambda stack, words: called.append((stack.name, words)))
    commands.main(["--stack", "ha", "kubectl", "get pods -o jsonpath='{.items[*].metadata.name} x'; ls"])
    assert called == [("ha", ["get", "pods", "-o", "jsonpath={.items[*].metadata.name} x;", "ls"])]


def test_up_writes_the_files_only_if_pulumi_succeeded(
    prepared: Workshop, checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(operations, "up", lambda *_: 7)
    assert commands.main(["up"]) == 7
    assert not (checkout / ".state" / "dev").exists()


def test_up_refuses_a_downgrade_before_set_up(
    checkout: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Set-up takes minutes for another version of Kubernetes."""
    monkeypatch.setattr(prepare, "everything", lambda *_: pytest.fail("set-up has begun"))
    monkeypatch.setenv("PULUMI_BACKEND_URL", f"file://{checkout}")
    monkeypatch.delenv("INSIST", raising=False)
    file = checkout / ".pulumi" / "stacks" / "toy" / "dev.json"
    file.parent.mkdir(parents=True)
    guard = {"urn": "urn:pulumi:dev::toy::a::machines-versions", "outputs": {"stdout": "kubernetes=1.99.0"}}
    file.write_text(json.dumps({"checkpoint": {"latest": {"resources": [guard]}}}))
    assert commands.main(["up"]) == 1
    assert "kubernetes 1.99.0 to 1." in capsys.readouterr().err


def test_up_ends_with_how_to_reach_the_lab_and_the_time_taken(
    prepared: Workshop, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(operations, "up", lambda *_: 0)
    monkeypatch.setattr(operations, "outputs", lambda *_: {"endpoint": "https://10.0.0.1:6443"})
    monkeypatch.setattr(access, "write", lambda *_: None)
    monkeypatch.setattr(cluster, "find", lambda _: None)
    monkeypatch.setattr(answers, "check", lambda *_: None)
    monkeypatch.setattr(access, "show", lambda stack, outputs: print(outputs["endpoint"]))
    assert commands.main(["up"]) == 0
    *_, endpoint, last = capsys.readouterr().out.splitlines()
    assert endpoint == "https://10.0.0.1:6443"
    assert last.startswith("time taken  ")


def test_up_of_a_lab_that_does_not_answer_fails(
    prepared: Workshop, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where nothing has changed, the engine asks no machine."""

    def refuse(*_: object) -> None:
        raise ToolchainError("it does not answer")

    monkeypatch.setattr(operations, "up", lambda *_: 0)
    monkeypatch.setattr(operations, "outputs", lambda *_: {})
    monkeypatch.setattr(access, "write", lambda *_: None)
    monkeypatch.setattr(cluster, "find", lambda _: None)
    monkeypatch.setattr(answers, "check", refuse)
    assert commands.main(["up"]) == 1
    assert capsys.readouterr().err == "\nerror: it does not answer\n"


@pytest.mark.parametrize(("status", "remains"), [(0, False), (1, True)])
def test_destroy_removes_the_files_of_a_lab_that_is_gone(
    prepared: Workshop, checkout: Path, monkeypatch: pytest.MonkeyPatch, status: int, remains: bool
) -> None:
    kubeconfig = checkout / ".state" / "dev" / "kubeconfig"
    kubeconfig.parent.mkdir(parents=True)
    kubeconfig.touch()
    monkeypatch.setattr(operations, "destroy", lambda *_: status)
    assert commands.main(["destroy"]) == status
    assert kubeconfig.exists() is remains


def test_what_is_wrong_is_said_in_one_message(
    prepared: Workshop, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_: object) -> int:
        raise ToolchainError("it is wrong; do this")

    monkeypatch.setattr(operations, "up", refuse)
    assert commands.main(["up"]) == 1
    assert capsys.readouterr().err == "\nerror: it is wrong; do this\n"


def test_an_interrupted_set_up_says_that_it_can_go_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(*_: object, **__: object) -> Workshop:
        raise KeyboardInterrupt

    monkeypatch.setattr(prepare, "everything", interrupt)
    assert commands.main(["setup"]) == 130
    assert "goes on from here" in capsys.readouterr().err


class TestMake:
    @pytest.fixture
    def make(self, tmp_path: Path) -> Path:
        directory = tmp_path / "make"
        (directory / ".venv" / "bin").mkdir(parents=True)
        (directory / "toolchain").mkdir()
        shutil.copy(MAKEFILE, directory / "Makefile")
        for name, script in (
            ("toolchain/bootstrap.sh", ""),
            (".venv/bin/python", 'printf "STACK=$STACK"; printf "<%s>" "$@"'),
        ):
            (directory / name).write_text(f"#!/bin/sh\n{script}\n")
            (directory / name).chmod(0o755)
        return directory

    def said(self, make: Path, *arguments: str) -> str:
        return subprocess.run(
            ["make", "--silent", *arguments], cwd=make, capture_output=True, text=True, check=True
        ).stdout

    def test_the_stack_is_dev_unless_another_is_named(self, make: Path) -> None:
        assert self.said(make, "up") == "STACK=dev<-m><toolchain><up>"
        assert self.said(make, "destroy", "STACK=ha") == "STACK=ha<-m><toolchain><destroy>"

    def test_arguments_arrive_as_they_were_typed(self, make: Path) -> None:
        typed = "get pods -o jsonpath='{$.items}' \"a b\"; echo $(id) $HOME `id` $$"
        assert self.said(make, "kubectl", f"ARGS={typed}") == f"STACK=dev<-m><toolchain><kubectl><{typed}>"
        assert (
            self.said(make, "ssh", "MACHINE=worker-1", f"ARGS={typed}")
            == f"STACK=dev<-m><toolchain><ssh><worker-1><{typed}>"
        )

    def test_help_is_the_default_and_lists_every_target(self, make: Path) -> None:
        targets = {line.split(":")[0] for line in MAKEFILE.read_text().splitlines() if "  ## " in line}
        listed = {line.split()[1] for line in self.said(make).splitlines() if line.startswith("  make ")}
        assert listed == targets >= {"setup", "up", "preview", "destroy", "kubectl", "ssh", "env", "test", "lint"}
