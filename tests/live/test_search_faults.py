"""The shell lines of faults that can be run here, with false programs where the machine's own would be asked."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import small_lab

from lab.polling import eventually
from live.cluster import Cluster
from live.drills.faults import TABLE
from live.search.faults import Freeze, KilledUp, Packets, kill_etcd, loss, one_way
from toolchain import paths
from toolchain.errors import ToolchainError


class Machine:
    """What scripts on a machine find: false programs, which note how they were called."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.noted = directory / "noted"
        self.noted.touch()
        for name in ("systemd-run", "nft", "systemctl"):
            self.program(name, "")

    def program(self, name: str, lines: str) -> None:
        """A false program, which also does these lines."""
        file = self._directory / name
        file.write_text(f'#!/bin/bash\necho "{name} $*" >>{self.noted}\n{lines}\n')
        file.chmod(0o755)

    def ssh(self, *words: object, **_: object) -> subprocess.CompletedProcess[str]:
        """Runs a script here."""
        environment = os.environ | {
            "PATH": f"{self._directory}:{os.environ['PATH']}",
            "SSH_CONNECTION": "192.0.2.1 1234 192.0.2.10 22",
        }
        return subprocess.run(
            ["bash", "-c", str(words[-1])], env=environment, capture_output=True, text=True, check=False
        )


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    made = Machine(tmp_path)
    # Without the machine's lock, which has its own tests (test_machine_lock.py) and a fixed path.
    for way in ("ssh", "change"):
        monkeypatch.setattr(Cluster, way, made.ssh)
    return made


@pytest.fixture
def lab(tmp_path: Path) -> Cluster:
    return small_lab.cluster(tmp_path)


@pytest.fixture
def processes() -> Iterator[list[int]]:
    """A process and its child, as HAProxy has them."""
    with subprocess.Popen(["sh", "-c", "sleep 300 & echo $!; wait"], stdout=subprocess.PIPE, text=True) as main:
        assert main.stdout is not None
        child = int(main.stdout.readline())
        try:
            yield [main.pid, child]
        finally:
            for pid in (child, main.pid):
                os.kill(pid, signal.SIGKILL)


def states(processes: list[int]) -> list[str]:
    return [Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] for pid in processes]


def test_all_processes_of_a_program_are_frozen_and_go_on(lab: Cluster, machine: Machine, processes: list[int]) -> None:
    machine.program("systemctl", f"[ $1 != show ] || echo {processes[0]}")
    fault = Freeze(lab, lab.machine("load-balancer-0"), "haproxy")
    assert fault.inject() > 0
    # A signal takes effect when its process is next run.
    eventually("frozen", lambda: states(processes) == ["T", "T"], seconds=60)
    # Should the host be lost, the machine repairs it.
    assert f"--on-active=120 kill -CONT {processes[0]} {processes[1]}" in machine.noted.read_text()
    fault.recover()
    eventually("none of them frozen", lambda: "T" not in states(processes), seconds=60)
    assert "systemctl stop hardway-drill-repair.timer" in machine.noted.read_text().splitlines()[-1]


def test_a_program_that_does_not_run_cannot_be_frozen(lab: Cluster, machine: Machine) -> None:
    machine.program("systemctl", "[ $1 != -q ]")
    fault = Freeze(lab, lab.machine("controller-0"), "etcd")
    with pytest.raises(ToolchainError, match="controller-0: etcd does not run"):
        fault.inject()
    fault.recover()


def test_a_learner_that_is_only_starting_is_killed(machine: Machine) -> None:
    """Its unit is of the type notify, and not active before it has told systemd."""
    with subprocess.Popen(["sleep", "300"]) as etcd:
        machine.program("systemctl", f"[ $1 = show ] && echo {etcd.pid}")
        done = machine.ssh(kill_etcd(0.01))
        assert (done.returncode, etcd.wait(timeout=20)) == (0, -signal.SIGKILL), done.stderr
    machine.program("systemctl", "echo 0")
    assert machine.ssh(kill_etcd(0)).stderr == "etcd does not run\n"


@pytest.mark.parametrize("chains", [loss(35), one_way("in"), one_way("out")], ids=["loss", "in", "out"])
def test_rules_accept_packets_of_the_pulumi_host_and_are_removed(
    lab: Cluster, machine: Machine, chains: str, tmp_path: Path
) -> None:
    rules = tmp_path / "rules"
    machine.program("nft", f'[ "$1" != -f ] || cat >{rules}')
    fault = Packets(lab, lab.machine("controller-1"), chains)
    assert fault.inject() > 0
    said = rules.read_text()
    assert said.startswith(f"table inet {TABLE} {{")
    assert "addr 192.0.2.1 accept" in said
    assert f"--on-active=120 nft delete table inet {TABLE}" in machine.noted.read_text()
    fault.recover()
    assert f"nft delete table inet {TABLE}" in machine.noted.read_text().splitlines()
    machine.program("nft", "exit 1")
    fault.recover()


def test_rules_that_stay_are_an_error(lab: Cluster, machine: Machine) -> None:
    machine.program("nft", "[ $1 = list ]")
    with pytest.raises(ToolchainError, match="controller-1"):
        Packets(lab, lab.machine("controller-1"), loss(35)).recover()


@pytest.mark.parametrize(
    ("chains", "lines"),
    [
        (loss(35), ["hook input", "policy accept", "numgen random mod 100 < 35 drop"]),
        (one_way("in"), ["hook input", "policy drop", "ip saddr $host"]),
        (one_way("out"), ["hook output", "policy drop", "ip daddr $host"]),
    ],
    ids=["loss", "in", "out"],
)
def test_rules_concern_one_way(chains: str, lines: list[str]) -> None:
    assert all(line in chains for line in lines)
    assert chains.count("hook") == 1


REPLACE = """
import os, subprocess, sys, time
# Named as the CLI is; its plugin is a child of it, and both have a process group of their own.
pulumi = subprocess.Popen(["bash", "-c", "exec -a pulumi {python} up"], process_group=0)
status = pulumi.wait()
open("replace.ended", "w").write(str(status))
time.sleep({afterwards})
sys.exit(1 if status else 0)
"""
UP = """
import subprocess, time
plugin = subprocess.Popen(["sleep", "600"])
open("plugin", "w").write(str(plugin.pid))
time.sleep({seconds})
plugin.kill()
plugin.wait()
"""


class Replaced(KilledUp):
    """Runs what a test has written, instead of `./hardway replace` and `./hardway up`."""

    def __init__(self, lab: Cluster, directory: Path, victim: str, after: float) -> None:
        super().__init__(lab, lab.machine("controller-0"), victim, after)
        self._directory = directory

    def _command(self, *words: str) -> list[str]:
        return [sys.executable, str(self._directory / f"hardway-{words[0]}"), *words]

    def _let_it_work(self, replacing: subprocess.Popen[bytes]) -> None:
        super()._let_it_work(replacing)
        # On a busy host Python may take longer to start than the time to the kill.
        plugin = self._directory / "plugin"
        eventually("the plugin", lambda: replacing.poll() is not None or plugin.read_text(), seconds=60)


@pytest.fixture
def written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    monkeypatch.setattr(paths, "checkout", lambda: tmp_path)

    def write(*, seconds: float, afterwards: float = 0, make_up: str = "") -> None:
        (tmp_path / "hardway-replace").write_text(REPLACE.format(python=sys.executable, afterwards=afterwards))
        (tmp_path / "up").write_text(UP.format(seconds=seconds))
        (tmp_path / "hardway-up").write_text(f"open('made-up', 'a').write('x')\n{make_up}")

    return write


def plugin_runs(directory: Path) -> bool:
    try:
        stat = Path(f"/proc/{(directory / 'plugin').read_text()}/stat").read_text()
    except FileNotFoundError:
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


def test_a_kill_of_pulumi_up_with_all_its_processes(lab: Cluster, tmp_path: Path, written: Callable[..., None]) -> None:
    written(seconds=600)
    fault = Replaced(lab, tmp_path, "all", 0.3)
    fault.inject()
    assert (tmp_path / "plugin").exists()
    assert not plugin_runs(tmp_path)
    assert not (tmp_path / "replace.ended").exists()
    fault.recover()
    fault.recover()
    assert (tmp_path / "made-up").read_text() == "x"


def test_a_kill_of_pulumi_up_alone_leaves_its_plugins(
    lab: Cluster, tmp_path: Path, written: Callable[..., None]
) -> None:
    written(seconds=600)
    fault = Replaced(lab, tmp_path, "pulumi", 0.3)
    fault.inject()
    try:
        assert plugin_runs(tmp_path)
        assert (tmp_path / "replace.ended").read_text() == "-9"
    finally:
        os.kill(int((tmp_path / "plugin").read_text()), signal.SIGKILL)
    fault.recover()
    assert (tmp_path / "made-up").read_text() == "x"


def test_a_replace_that_ends_before_its_kill_needs_no_repair(
    lab: Cluster, tmp_path: Path, written: Callable[..., None]
) -> None:
    written(seconds=0)
    fault = Replaced(lab, tmp_path, "all", 60)
    fault.inject()
    fault.recover()
    assert not (tmp_path / "made-up").exists()


def test_a_killed_drill_is_repaired_by_make_up(lab: Cluster, tmp_path: Path, written: Callable[..., None]) -> None:
    """The next run makes the fault from its mark: what the killed run knew is gone."""
    written(seconds=0)
    Replaced(lab, tmp_path, "all", 60).recover()
    assert (tmp_path / "made-up").exists()


def test_a_make_up_that_fails_is_an_error(lab: Cluster, tmp_path: Path, written: Callable[..., None]) -> None:
    written(seconds=600, make_up="print('etcd has no quorum'); raise SystemExit(1)")
    fault = Replaced(lab, tmp_path, "all", 0)
    fault.inject()
    with pytest.raises(ToolchainError, match=r"`./hardway up` after a kill of `pulumi up` failed:\netcd has no quorum"):
        fault.recover()
