"""Hosts that stop answering while Pulumi works on them."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from config.substrates import SUBSTRATES
from toolchain import frozen, operations, paths, stack, state
from toolchain.errors import ToolchainError
from toolchain.frozen import PrintedSteps, Watcher, greets, steps_under_way
from toolchain.prepare import Workshop

TESTS = Path(__file__).parents[1]
STEPS = {"etcd": "controller-0"}
SERVER = """
import json, sys
from engine.ssh_host import SshHost
with SshHost() as host:
    print(json.dumps(host.connection), flush=True)
    sys.stdin.read()
"""
# A command on another machine that the official plugin waits for without an end.
PROGRAM = """
import pulumi
from pulumi_command import remote
connection = {connection!r}
connection["private_key"] = pulumi.Output.secret(connection["private_key"])
remote.Command(
    "etcd-controller-0",
    connection=connection,
    create="bash -s -- etcd on controller-0",
    stdin={script!r},
    logging="none",
)
"""


@pytest.fixture
def silent() -> Iterator[tuple[str, int]]:
    """A server whose kernel accepts connections, and that says nothing: as one whose processes are stopped."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening.getsockname()[:2]


def pending(type_: str, create: str) -> dict[str, Any]:
    return {"type": "creating", "resource": {"urn": "urn:x", "type": type_, "inputs": {"create": create}}}


def test_the_state_names_the_steps_that_are_under_way() -> None:
    remote = "command:remote:Command"
    latest = {
        "pending_operations": [
            pending(remote, "bash -s -- etcd on controller-0"),
            pending(remote, "sudo -n bash -s -- host on worker-1 # again: unfinished since 2026"),
            pending("command:local:Command", "bash -s -- preflight on this-host"),
            {"type": "creating", "resource": {"urn": "urn:x", "type": remote}},
        ]
    }
    assert steps_under_way(latest) == {"etcd": "controller-0", "host": "worker-1"}
    assert steps_under_way({}) == steps_under_way({"pending_operations": None}) == {}


def test_what_the_cli_prints_names_the_steps_that_are_under_way() -> None:
    """In a run that saves the state once no state has them."""
    steps = PrintedSteps(["worker-1", "worker-10", "controller-0"])
    for line in (
        " +  command:remote:Command host-worker-10 creating (0s) \n",
        " +  command:local:Command machines-worker-1 creating (0s) \n",
        " +  command:remote:Command etcd-controller-0 creating (0s) \n",
        " +  command:remote:Command worker-1-node creating (0s) \n",
        " +  command:remote:Command dns creating (0s) \n",
        " +  command:remote:Command host-worker-10 created (0.47s) \n",
        "@ updating....\n",
    ):
        steps.read(line)
    assert steps.under_way() == {"etcd-controller-0": "controller-0", "worker-1-node": "worker-1", "dns": ""}
    steps.read(' +  command:remote:Command dns creating (12s) error: Process exited with status 1: running "bash"\n')
    assert "dns" in steps.under_way()
    steps.read(" +  command:remote:Command dns **creating failed** error: Process exited with status 1\n")
    assert "dns" not in steps.under_way()


def test_a_step_that_does_not_name_its_machine_may_be_on_any(
    silent: tuple[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(frozen, "_GREETING_SECONDS", 0.01)
    clock = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: clock)
    watcher = Watcher({"controller-0": silent})
    assert watcher.look({"dns": ""}) == ""
    clock += 60
    assert watcher.look({"dns": ""}).startswith("controller-0 (127.0.0.1) does not answer")
    assert Watcher({}).look({"dns": ""}) == ""


def test_only_a_server_that_accepts_and_says_nothing_is_silent(silent: tuple[str, int]) -> None:
    assert not greets(*silent, 0.1)
    with socket.create_server(("127.0.0.1", 0)) as closed:
        host, port = closed.getsockname()[:2]
    assert greets(host, port, 0.1), "a machine that boots refuses connections"


def test_a_silent_host_is_named_after_its_deadline(silent: tuple[str, int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frozen, "_GREETING_SECONDS", 0.01)
    clock = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: clock)
    watcher = Watcher({"controller-0": silent}, timeout_factor=2)
    assert watcher.look(STEPS) == ""
    clock += 119
    assert watcher.look(STEPS) == ""
    # Without work on the host, its silence does not count.
    assert watcher.look({}) == ""
    assert watcher.look(STEPS) == ""
    clock += 120
    assert watcher.look(STEPS) == (
        "controller-0 (127.0.0.1) does not answer: its SSH server accepts connections and has said nothing for 120 s."
    )


def test_a_step_has_a_deadline_also_where_its_host_cannot_be_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: clock)
    watcher = Watcher({})
    assert watcher.look(STEPS) == ""
    clock += 1799
    assert watcher.look(STEPS) == ""
    clock += 1
    assert watcher.look(STEPS) == "controller-0: the step etcd has not ended within 1800 s."
    assert watcher.look({"dns": ""}) == ""
    clock += 1800
    assert watcher.look({"dns": ""}) == "the step dns has not ended within 1800 s."


def test_the_addresses_are_those_of_the_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def addresses(lab: str) -> dict[str, tuple[str, int]]:
        (tmp_path / "Pulumi.own.yaml").write_text(f"config:\n  toy:lab: {lab}\n")
        return dict(stack.read("own").addresses)

    monkeypatch.setattr(paths, "checkout", lambda: tmp_path)
    (tmp_path / "Pulumi.yaml").write_text("name: toy\n")
    assert addresses("{}")["controller-0"] == ("10.240.0.10", 22)
    assert addresses("{substrate: gcp}") == addresses("{workers: many}") == {}
    host = "{name: controller-0, fqdn: a.example, address: 192.0.2.7, port: 2222}"
    behind = "{name: worker-0, fqdn: b.example, address: 192.0.2.8, jumpbox: 192.0.2.1}"
    own = addresses(f"{{substrate: machines, machines: {{database: [{host}, {behind}]}}}}")
    assert own == {"controller-0": ("192.0.2.7", 2222)}


@pytest.mark.parametrize("saves_once", [False, True])
def test_a_run_on_a_frozen_host_ends_by_its_deadline_and_the_next_finishes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, saves_once: bool
) -> None:
    monkeypatch.setitem(SUBSTRATES, "gcp", replace(SUBSTRATES["gcp"], removes_unsaved=saves_once))
    for name in ("PULUMI_BACKEND_URL", "PULUMI_ACCESS_TOKEN", "PULUMI_CONFIG_PASSPHRASE_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(paths, "checkout", lambda: tmp_path)
    monkeypatch.setattr(frozen, "_LOOK_SECONDS", 0.2)
    monkeypatch.setattr(frozen, "_GREETING_SECONDS", 0.5)
    monkeypatch.setattr(frozen, "SILENT_SECONDS", 2.0)
    (tmp_path / "Pulumi.yaml").write_text("name: toy\nruntime: python\n")
    (tmp_path / "Pulumi.dev.yaml").write_text("config:\n  toy:lab: {substrate: gcp}\n")
    found, pulumi = state.ensure(), shutil.which("pulumi")
    assert pulumi, "no pulumi on PATH: `make test` puts it there"
    workshop = Workshop(
        pulumi=Path(pulumi),
        state=found,
        environment={**found.environment, "PULUMI_SKIP_UPDATE_CHECK": "1"},
    )
    begun, log = tmp_path / "begun", tmp_path / "log"
    with subprocess.Popen(
        [sys.executable, "-c", SERVER], cwd=TESTS, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as server:
        try:
            assert server.stdout is not None
            connection = json.loads(server.stdout.readline())
            script = f"touch {begun}; while [ ! -e {log} ]; do sleep 0.2; done"
            (tmp_path / "__main__.py").write_text(PROGRAM.format(connection=connection, script=script))
            lab = replace(stack.read("dev"), addresses={"controller-0": ("127.0.0.1", connection["port"])})
            freezer = subprocess.Popen(
                ["bash", "-c", f"until [ -e {begun} ]; do sleep 0.1; done; kill -STOP {server.pid}"]
            )
            with pytest.raises(ToolchainError, match=r"controller-0 \(127\.0\.0\.1\) does not answer.*interrupted"):
                operations.up(workshop, lab)
            assert freezer.wait() == 0
            os.kill(server.pid, signal.SIGCONT)
            log.write_text("")
            assert operations.up(workshop, lab) == 0
            latest = json.loads((tmp_path / ".state/.pulumi/stacks/toy/dev.json").read_text())["checkpoint"]["latest"]
            assert any(each["urn"].endswith("::etcd-controller-0") for each in latest["resources"])
            assert not latest.get("pending_operations")
        finally:
            os.kill(server.pid, signal.SIGKILL)


def test_a_run_that_ignores_the_first_interrupt_gets_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    """As the CLI, which by the first waits for what the official command plugin does not cancel."""
    monkeypatch.setattr(operations, "_INTERRUPT_SECONDS", 0.3)
    ignores = "n=0; trap 'n=$((n+1)); [ $n -lt 2 ] || exit 7' INT; echo ready; while :; do sleep 0.05; done"
    for script, status in ((ignores, 7), ("trap '' INT; echo ready; while :; do sleep 0.05; done", -signal.SIGKILL)):
        # Tests may be started in the background, where SIGINT is ignored: bash could not trap it.
        command = ["env", "--default-signal=INT", "bash", "-c", script]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None and process.stdout.readline() == "ready\n"
            operations._interrupt(process)
            assert process.returncode == status
