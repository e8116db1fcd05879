"""Whether a lab answers: with an ssh and a kubectl that answer for the lab."""

import os
from dataclasses import replace
from pathlib import Path

import pytest

from toolchain import answers, paths
from toolchain.errors import ToolchainError
from toolchain.stack import Stack

OUTPUTS = {
    "endpoint": "https://10.0.0.1:6443",
    "machines": [{"name": name} for name in ("controller-0", "worker-0", "worker-1")],
}
SSH = """#!/bin/sh
for machine; do case $machine in *-[0-9]) break ;; esac; done
case " $DEAD " in *" $machine "*) echo "ssh: connect to host $machine port 22: No route to host" >&2; exit 255 ;; esac
case " $HANGS " in *" $machine "*) exec sleep 30 ;; esac
"""
KUBECTL = """#!/bin/sh
echo "$*" >>"$0.log"
tries=$(wc -l <"$0.log")
[ "$tries" -gt "${FAILS:-0}" ] || { echo "The connection to the server was refused" >&2; exit 1; }
echo ok
"""


@pytest.fixture
def stack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Stack:
    monkeypatch.setattr(paths, "checkout", lambda: tmp_path)
    monkeypatch.setattr(answers, "_API_SECONDS", 2)
    monkeypatch.setattr(answers, "_CONNECT_SECONDS", 3)
    found = Stack(
        name="dev",
        project="toy",
        settings_file=tmp_path / "Pulumi.dev.yaml",
        substrate="containers",
        engine="podman",
        kubernetes="1.36.4",
    )
    tools = tmp_path / "bin"
    tools.mkdir()
    found.directory.mkdir(parents=True)
    (found.directory / "kubeconfig").write_text("server: https://10.0.0.1:6443\n")
    for program, text in ((tools / "ssh", SSH), (found.directory / "kubectl", KUBECTL)):
        program.write_text(text)
        program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}:{os.environ['PATH']}")
    return found


def refusal(stack: Stack) -> str:
    with pytest.raises(ToolchainError) as raised:
        answers.check(stack, OUTPUTS)
    assert "\n" not in str(raised.value)
    return str(raised.value)


def test_a_lab_that_answers(stack: Stack) -> None:
    answers.check(stack, OUTPUTS)


def test_an_api_server_that_is_restarting_is_waited_for(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAILS", "2")
    answers.check(stack, OUTPUTS)


def test_machines_that_are_gone_are_named(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEAD", "controller-0 worker-1")
    monkeypatch.setenv("FAILS", "1000")
    said = refusal(stack)
    assert "controller-0 (ssh: connect to host controller-0 port 22: No route to host); worker-1 (ssh" in said
    assert "the API at https://10.0.0.1:6443 (The connection to the server was refused)" in said
    assert '`make replace STACK=dev MACHINE="controller-0 worker-1"`' in said
    assert "worker-0" not in said


def test_a_machine_that_hangs_has_a_deadline(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HANGS", "worker-0")
    assert "worker-0 (no answer within 3 s)" in refusal(stack)


def test_an_api_that_is_gone_is_a_matter_for_status(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAILS", "1000")
    said = refusal(stack)
    assert said.startswith("The lab dev does not answer: the API at https://10.0.0.1:6443 (")
    assert said.endswith("Run `make status STACK=dev`: it says what does not run.")


def test_existing_hosts_are_started_by_their_owner(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEAD", "worker-1")
    said = refusal(replace(stack, substrate="machines"))
    assert said.endswith("Start worker-1, then run `make status STACK=dev`.")
