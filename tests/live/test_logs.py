"""`hardway logs`: what is run on the machine, by programs that stand in for its own."""

import os
import subprocess
from pathlib import Path

import pytest
import small_lab

from cli import main as commands
from live import cluster as live_cluster
from live import logs
from toolchain import access, stack


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    """A machine's programs: systemd with kubelet alone, and a journal that prints how it is asked."""
    for name, script in (
        ("systemctl", '[ "$*" = "cat -- kubelet" ]'),
        ("journalctl", 'echo "journalctl $*"'),
        ("ls", 'case "$*" in *pods*) printf "%s\\n" /log/1.log /log/0.log ;; esac'),
        ("find", "echo kubelet.service; echo etcd.service"),
        ("tail", 'echo "tail $*"'),
    ):
        (tmp_path / name).write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / name).chmod(0o755)
    return tmp_path


def run(machine: Path, script: str) -> tuple[int, str]:
    done = subprocess.run(
        ["bash", "-c", script],
        env=os.environ | {"PATH": f"{machine}:{os.environ['PATH']}"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout


@pytest.mark.parametrize(
    ("name", "follow", "features", "said"),
    [
        ("kubelet", False, (), (0, "journalctl --quiet --no-pager --lines=7 --unit=kubelet\n")),
        ("kubelet", True, ("kubeadm",), (0, "journalctl --quiet --no-pager --lines=7 --follow --unit=kubelet\n")),
        (None, False, (), (0, "journalctl --quiet --no-pager --lines=7\n")),
        (
            "no; such",
            False,
            (),
            (1, "error: worker-0 has no unit no; such. Its unit files: etcd.service kubelet.service\n"),
        ),
        ("etcd", True, ("kubeadm",), (0, "tail -n 7 -F /log/1.log\n")),
    ],
)
def test_the_log_of_a_unit_or_of_a_pod(
    machine: Path, tmp_path: Path, name: str | None, follow: bool, features: tuple[str, ...], said: tuple[int, str]
) -> None:
    lab = small_lab.cluster(tmp_path, features=features)
    script = logs.script(lab, lab.machine("worker-0"), name, follow=follow, lines=7)
    assert run(machine, script) == said


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    lab = small_lab.cluster(tmp_path)
    monkeypatch.setattr(live_cluster, "find", lambda _, **given: lab)
    monkeypatch.setattr(stack, "read", lambda name: lab.stack)
    asked: list[tuple[str, str, bool]] = []
    monkeypatch.setattr(
        access, "ssh", lambda _, machine, remote, *, terminal: asked.append((machine, remote, terminal))
    )
    assert commands.main(["logs", "worker-0", "kubelet", "-f", "-n", "3"]) == 0
    where = lab.machine("worker-0")
    assert asked == [
        ("worker-0", where.as_root(logs.script(lab, where, "kubelet", follow=True, lines=3)), False),
    ]
    assert commands.main(["logs", "worker-9"]) == 1
    assert capsys.readouterr().err.startswith("error: There is no machine 'worker-9': it must be one of ")
