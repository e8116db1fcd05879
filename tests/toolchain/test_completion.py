"""`hardway completion`: what a shell completes with the script that it prints."""

import subprocess
import sys
from pathlib import Path

import pytest
from click.shell_completion import ShellComplete

from cli import development
from cli import main as commands
from toolchain import paths

CHECKOUT = Path(__file__).parents[2]
COMPLETE = """source <(hardway completion bash)
complete -p hardway >/dev/null || exit 1
COMP_WORDS=("$@") COMP_CWORD=$(($# - 1))
_hardway_completion hardway
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A PATH with `hardway`, which is run by the interpreter of the tests."""
    program = tmp_path_factory.mktemp("programs") / "hardway"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -P {CHECKOUT}/cli/__main__.py "$@"\n')
    program.chmod(0o755)
    return f"{program.parent}:/usr/bin:/bin"


def completed(path: str, *words: str) -> list[str]:
    """What bash offers for the last of these words."""
    done = subprocess.run(
        ["bash", "-c", COMPLETE, "bash", *words],
        env={"PATH": path, "HOME": "/nonexistent"},
        cwd="/",
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.split()


def test_bash_completes_commands_options_stacks_and_machines(path: str) -> None:
    assert completed(path, "hardway", "re") == ["repair", "replace", "restore", "rewind"]
    assert "kubectl-line" not in completed(path, "hardway", "kube")
    assert "--json" in completed(path, "hardway", "status", "--")
    assert {"dev", "droplets"} <= set(completed(path, "hardway", "status", "-s", "d"))
    assert completed(path, "hardway", "-s", "ha", "ssh", "controller-") == [f"controller-{n}" for n in range(3)]
    assert completed(path, "hardway", "replace", "-s", "ha", "controller-0", "controller-2") == ["controller-2"]
    assert completed(path, "hardway", "repair", "-s", "ha", "controller-0", "worker-2") == ["worker-2"]
    assert completed(path, "hardway", "logs", "worker-0", "kubel") == ["kubelet"]
    assert completed(path, "hardway", "ssh", "-s", "no-such-stack", "") == []


def test_machines_of_a_lab_that_is_up_are_those_that_it_has(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from cli import stacks

    monkeypatch.setattr(paths, "state", lambda: tmp_path)
    (tmp_path / "ha").mkdir()
    (tmp_path / "ha" / "lab.json").write_text('{"machines": [{"name": "controller-7"}]}')
    assert stacks.machine_names("ha") == ["controller-7"]
    (tmp_path / "ha" / "lab.json").write_text("")
    assert "controller-2" in stacks.machine_names("ha")


def test_kubectl_completes_its_own_words(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """With the lab's kubeconfig; where the lab is not up there is nothing to offer."""
    monkeypatch.setattr(paths, "checkout", lambda: tmp_path)
    (tmp_path / "Pulumi.yaml").write_text("name: toy\n")
    (tmp_path / "Pulumi.dev.yaml").write_text("config: {}\n")
    complete = ShellComplete(commands.group, {}, "hardway", "_HARDWAY_COMPLETE").get_completions
    assert complete(["kubectl", "get"], "no") == complete(["-s", "absent", "kubectl"], "") == []
    lab = tmp_path / ".state" / "dev"
    lab.mkdir(parents=True)
    (lab / "kubeconfig").touch()
    (lab / "kubectl").write_text('#!/bin/sh\nprintf "%s\\tdescribed\\n" "$@"; echo :4\n')
    (lab / "kubectl").chmod(0o755)
    for last in ("no", "--na"):
        offered = complete(["kubectl", "-s", "x", "get", "--", "-h"], last)
        words = ["__complete", "--kubeconfig", str(lab / "kubeconfig"), "-s", "x", "get", "--", "-h", last]
        assert [(item.value, item.help) for item in offered] == [(word, "described") for word in words]


@pytest.mark.parametrize(
    ("shell", "registers"),
    [
        ("bash", "complete -o nosort -F _hardway_completion hardway"),
        ("zsh", "compdef _hardway_completion hardway"),
        ("fish", 'complete --no-files --command hardway --arguments "(_hardway_completion)"'),
    ],
)
def test_each_shell_gets_a_script_that_registers_the_command(
    shell: str, registers: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert commands.main(["completion", shell]) == 0
    script = capsys.readouterr().out
    assert registers in script
    assert f"_HARDWAY_COMPLETE={shell}_complete" in script
    if shell == "bash":
        subprocess.run(["bash", "-n"], input=script, text=True, check=True)


def test_the_labs_of_the_benchmark_are_those_that_there_are() -> None:
    from benchmarks.labs import LABS

    assert list(development.LABS) == list(LABS)
