"""The commands that people type: `hardway` and `make`."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from cli import main as commands
from live import answers, cluster, last_questions
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


def test_modules_are_compiled_once_where_the_environment_says_otherwise(tmp_path: Path) -> None:
    """As the environment of many container images does."""
    for package in ("cli", "config", "toolchain"):
        shutil.copytree(MAKEFILE.with_name(package), tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    command = [sys.executable, "-P", str(tmp_path / "cli" / "__main__.py"), "--help"]
    subprocess.run(command, env=os.environ | {"PYTHONDONTWRITEBYTECODE": "1"}, check=True, stdout=subprocess.DEVNULL)
    assert list((tmp_path / "config" / "__pycache__").glob("settings.*.pyc"))


def test_kubectl_gets_every_word_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[tuple[str, tuple[str, ...]]] = []
    monkeypatch.setattr(access, "kubectl", lambda stack, words: called.append((stack.name, words)))
    words = ["-n", "default", "exec", "-s", "a b", "--", "--help", "$HOME", ""]
    commands.main(["-s", "ha", "kubectl", *words])
    commands.main(["kubectl", "--help"])
    assert called == [("ha", tuple(words)), ("dev", ("--help",))]


def test_make_kubectl_gets_its_words_as_a_shell_would_cut_them(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    called: list[tuple[str, list[str]]] = []
    monkeypatch.setattr(access, "kubectl", lambda stack, words: called.append((stack.name, words)))
    commands.main(["-s", "ha", "kubectl-line", "get pods -o jsonpath='{.items[*].metadata.name} x'; ls"])
    assert called == [("ha", ["get", "pods", "-o", "jsonpath={.items[*].metadata.name} x;", "ls"])]
    commands.main(["kubectl-line", "--", "--namespace kube-system get pods"])
    assert called[1:] == [("dev", ["--namespace", "kube-system", "get", "pods"])]
    assert commands.main(["kubectl-line", "get 'pods"]) == 1
    assert capsys.readouterr().err == 'error: ARGS="get \'pods": No closing quotation.\n'


def test_up_writes_the_files_only_if_pulumi_succeeded(
    prepared: Workshop, checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(operations, "up", lambda *_, **__: 7)
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
    monkeypatch.setattr(operations, "up", lambda *_, **__: 0)
    monkeypatch.setattr(operations, "outputs", lambda *_: {"endpoint": "https://10.0.0.1:6443"})
    monkeypatch.setattr(access, "write", lambda *_: None)
    monkeypatch.setattr(cluster, "find", lambda _, **given: None)
    monkeypatch.setattr(answers, "check", lambda *_: None)
    monkeypatch.setattr(last_questions, "table_of_nodes", lambda _: "worker-0  Ready")
    monkeypatch.setattr(access, "show", lambda stack, outputs, table: print(table, outputs["endpoint"], sep="\n"))
    assert commands.main(["up"]) == 0
    *_, table, endpoint, last = capsys.readouterr().out.splitlines()
    assert (table, endpoint) == ("worker-0  Ready", "https://10.0.0.1:6443")
    assert last.startswith("time taken  ")


def test_up_of_a_lab_that_does_not_answer_fails(
    prepared: Workshop, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where nothing has changed, the engine asks no machine."""

    def refuse(*_: object) -> None:
        raise ToolchainError("it does not answer")

    monkeypatch.setattr(operations, "up", lambda *_, **__: 0)
    monkeypatch.setattr(operations, "outputs", lambda *_: {})
    monkeypatch.setattr(access, "write", lambda *_: None)
    monkeypatch.setattr(cluster, "find", lambda _, **given: None)
    monkeypatch.setattr(answers, "check", refuse)
    monkeypatch.setattr(last_questions, "table_of_nodes", lambda _: "")
    assert commands.main(["up"]) == 1
    assert capsys.readouterr().err == "error: it does not answer\n"


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


def test_options_of_plans_and_policies_reach_pulumi(
    prepared: Workshop, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "PulumiPolicy.yaml").touch()
    asked: list[object] = []

    def fails(*_: object, options: object, **__: object) -> int:
        asked.append(options)
        return 7

    monkeypatch.setattr(operations, "up", fails)
    monkeypatch.setattr(operations, "preview", fails)
    monkeypatch.setattr(prepare, "for_preview", lambda *_: prepared)
    assert commands.main(["up", "--plan", f"{tmp_path}/plan", "--policy-pack", str(tmp_path)]) == 7
    assert commands.main(["preview", "--save-plan", f"{tmp_path}/plan"]) == 7
    assert asked == [[f"--policy-pack={tmp_path}", f"--plan={tmp_path}/plan"], [f"--save-plan={tmp_path}/plan"]]
    assert commands.main(["up", "--policy-pack", str(tmp_path.parent)]) == 1


def test_what_is_wrong_is_said_in_one_message(
    prepared: Workshop, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_: object, **__: object) -> int:
        raise ToolchainError("it is wrong; do this")

    monkeypatch.setattr(operations, "up", refuse)
    assert commands.main(["up"]) == 1
    assert capsys.readouterr().err == "error: it is wrong; do this\n"


def test_an_interrupted_set_up_says_that_it_can_go_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(*_: object, **__: object) -> Workshop:
        raise KeyboardInterrupt

    monkeypatch.setattr(prepare, "everything", interrupt)
    assert commands.main(["setup"]) == 130
    assert "run the same command again to continue" in capsys.readouterr().err


def test_the_stack_may_stand_before_the_command_or_behind_it(monkeypatch: pytest.MonkeyPatch, checkout: Path) -> None:
    asked: list[tuple[str, str, str | None]] = []
    monkeypatch.setattr(access, "ssh", lambda stack, machine, remote: asked.append((stack.name, machine, remote)))
    monkeypatch.setenv("STACK", "dev")
    for words in (["-s", "ha", "ssh", "m"], ["ssh", "--stack", "ha", "m"], ["ssh", "m", "-s", "ha"], ["ssh", "m"]):
        commands.main(words)
    commands.main(["--stack=dev", "ssh", "-s", "ha", "m"])
    assert [name for name, *_ in asked] == ["ha", "ha", "ha", "dev", "ha"]


@pytest.mark.parametrize(
    ("words", "remote"),
    [
        ([], ""),
        (["--"], ""),
        (["--", ""], ""),
        (["--", "systemctl status etcd | head"], "systemctl status etcd | head"),
        (["--", "printf", "%s", "a b", "-s", "--", "$HOME"], "printf %s 'a b' -s -- '$HOME'"),
    ],
)
def test_words_behind_ssh_arrive_as_they_are(monkeypatch: pytest.MonkeyPatch, words: list[str], remote: str) -> None:
    asked: list[tuple[str, str]] = []
    monkeypatch.setattr(access, "ssh", lambda stack, machine, remote: asked.append((machine, remote)))
    commands.main(["ssh", "worker-0", *words])
    assert asked == [("worker-0", remote)]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["upp"], "No such command 'upp'. Did you mean 'up'? See `hardway --help`.\n"),
        (["ssh", "worker-0", "uptime"], "Got unexpected extra argument (uptime)"),
        (["up", "--no-such"], "No such option"),
        (["replace"], "Missing argument 'MACHINE...'"),
        (["bench", "--rounds", "0"], "0 is not in the range x>=1"),
        (["completion", "tcsh"], "'tcsh' is not one of 'bash', 'zsh', 'fish'"),
    ],
)
def test_wrong_usage_is_one_line_and_2(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert commands.main(words) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert said in error
    assert error.count("\n") == 1
    assert "hardway" in error.rpartition("See `")[2]


def test_an_interrupt_while_the_program_loads_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "click.py").write_text("raise KeyboardInterrupt\n")
    done = subprocess.run(
        [sys.executable, "-P", MAKEFILE.parent / "cli" / "__main__.py", "status"],
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "error: interrupted.\n")


def test_an_error_of_the_system_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise FileNotFoundError(2, "No such file or directory", str(tmp_path / "figures"))

    monkeypatch.setattr("benchmarks.compare.main", fail)
    monkeypatch.setattr(prepare, "for_plain_pulumi", lambda *_: Workshop(pulumi=Path(), state=None, environment={}))  # type: ignore[arg-type]
    assert commands.main(["compare"]) == 1
    assert capsys.readouterr().err == f"error: [Errno 2] No such file or directory: '{tmp_path}/figures'\n"


def test_an_unknown_stack_is_named_with_those_that_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    assert commands.main(["status", "-s", "haa"]) == 1
    assert capsys.readouterr().err == "error: There is no Pulumi.haa.yaml. The stack must be one of: dev, ha.\n"


def test_files_are_those_of_the_users_directory(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, checkout: Path
) -> None:
    """The commands themselves run in the checkout."""
    seen: list[tuple[Path, Path]] = []
    monkeypatch.setattr("live.cluster.find", lambda _: None)
    monkeypatch.setattr("live.restore.restore", lambda _, file: seen.append((file, Path.cwd())))
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    assert commands.main(["restore", "a.db"]) == 0
    assert seen == [(here / "a.db", checkout)]
    assert Path.cwd() == here


def test_env_as_json(prepared: Workshop, capsys: pytest.CaptureFixture[str]) -> None:
    assert commands.main(["env", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == prepared.environment


@pytest.mark.parametrize(
    ("words", "before", "said"), [(["--insist"], None, "yes"), ([], "yes", "yes"), ([], None, None)]
)
def test_who_insists_says_so_to_pulumi(
    prepared: Workshop, monkeypatch: pytest.MonkeyPatch, words: list[str], before: str | None, said: str | None
) -> None:
    # Set in any case: pytest then knows what to restore, and the command sets it.
    monkeypatch.setenv("INSIST", before or "")
    if not before:
        del os.environ["INSIST"]
    found: list[str | None] = []

    def fails(*_: object, **__: object) -> int:
        found.append(os.environ.get("INSIST"))
        return 7

    monkeypatch.setattr(operations, "up", fails)
    assert commands.main(["up", *words]) == 7
    assert found == [said]


def test_help_has_every_command_and_the_exit_codes(capsys: pytest.CaptureFixture[str]) -> None:
    assert commands.main([]) == commands.main(["--help"]) == 0
    said = capsys.readouterr().out
    for name, command in commands.group.commands.items():
        assert command.hidden != (f"\n  {name} " in said), name
    assert "Exit codes:" in said
    for name in commands.group.commands:
        assert commands.main([name, "--help"]) == 0 if name != "kubectl" else True


class TestMake:
    @pytest.fixture
    def make(self, tmp_path: Path) -> Path:
        directory = tmp_path / "make"
        directory.mkdir()
        shutil.copy(MAKEFILE, directory / "Makefile")
        (directory / "hardway").write_text('#!/bin/sh\nprintf "STACK=$STACK"; printf \'<%s>\' "$@"\n')
        (directory / "hardway").chmod(0o755)
        return directory

    def said(self, make: Path, *arguments: str) -> str:
        return subprocess.run(
            ["make", "--silent", *arguments], cwd=make, capture_output=True, text=True, check=True
        ).stdout

    def test_the_stack_is_dev_unless_another_is_named(self, make: Path) -> None:
        assert self.said(make, "up") == "STACK=dev<up>"
        assert self.said(make, "destroy", "STACK=ha") == "STACK=ha<destroy>"

    def test_arguments_arrive_as_they_were_typed(self, make: Path) -> None:
        typed = "get pods -o jsonpath='{$.items}' \"a b\"; echo $(id) $HOME `id` $$"
        assert self.said(make, "kubectl", f"ARGS={typed}") == f"STACK=dev<kubectl-line><--><{typed}>"
        ssh = self.said(make, "ssh", "MACHINE=worker-1", f"ARGS={typed}")
        assert ssh == f"STACK=dev<ssh><worker-1><--><{typed}>"

    @pytest.mark.parametrize(
        ("typed", "called"),
        [
            (["drill"], "<drill>"),
            (["drill", "DRILL=a,b", "ARGS=--json x"], "<drill><a,b><--json><x>"),
            (["drill", "SEED=7", "ARGS=--only 2"], "<search><--seed><7><--only><2>"),
            (["restore", "SNAPSHOT=a b"], "<restore><a b>"),
            (["restore"], "<restore>"),
            (["replace", "MACHINE=a b"], "<replace><a><b>"),
            (["status", "ARGS=--json"], "<status><--json>"),
        ],
    )
    def test_variables_of_make_become_words(self, make: Path, typed: list[str], called: str) -> None:
        assert self.said(make, *typed) == f"STACK=dev{called}"

    def test_help_is_the_default_and_lists_every_target(self, make: Path) -> None:
        targets = {line.split(":")[0] for line in MAKEFILE.read_text().splitlines() if "  ## " in line}
        listed = {line.split()[1] for line in self.said(make).splitlines() if line.startswith("  make ")}
        assert listed == targets >= {"setup", "up", "preview", "destroy", "kubectl", "ssh", "env", "test", "lint"}
