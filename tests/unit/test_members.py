"""etcd's members are asked over SSH: the text, run by a real sh, with an ssh and a sudo of the test's own."""

import os
import subprocess
from pathlib import Path

import pytest

from components.members import asked_by_ssh
from unit.conftest import program

# The words after the machine's name are one command for its login shell. A machine is a directory: its user is not root
# where it says so, and `health` is what its member says.
SSH = r"""#!/bin/bash
echo "$*" >>"$LAB/asked"
machine=$LAB/${@: -2:1}
[ -d "$machine" ] || { echo "no route to host" >&2; exit 255; }
cd "$machine" && exec env MACHINE="$machine" bash -c "${@: -1}"
"""
SUDO = r"""#!/bin/bash
touch "$MACHINE/became-root"
shift
exec "$@"
"""
ID = r"""#!/bin/bash
[ ! -e "$MACHINE/plain-user" ] || [ -e "$MACHINE/became-root" ] || { echo 1000; exit; }
echo 0
"""
CURL = r"""#!/bin/bash
cat "$MACHINE/health"
"""
HEALTHY = '{"health":"true","reason":""}'


@pytest.fixture
def lab(tmp_path: Path) -> Path:
    (tmp_path / ".state" / "dev").mkdir(parents=True)
    for name in ("ssh_config", "ssh_key"):
        (tmp_path / ".state" / "dev" / name).touch()
    (tmp_path / "bin").mkdir()
    for name, text in (("ssh", SSH), ("sudo", SUDO), ("id", ID), ("curl", CURL)):
        (tmp_path / "bin" / name).write_text(text)
        (tmp_path / "bin" / name).chmod(0o755)
    return tmp_path


def machine(lab: Path, name: str, health: str) -> Path:
    (lab / name).mkdir()
    (lab / name / "health").write_text(health)
    (lab / name / "data").mkdir()
    return lab / name


def ask(lab: Path, line: str) -> subprocess.CompletedProcess[str]:
    """A line after the functions; the machine's data and etcdctl's file are below its own directory."""
    text = asked_by_ssh("dev", 1).replace("/var/lib/etcd/member", "data").replace("/etc/etcd/etcdctl.env", "/dev/null")
    return subprocess.run(
        ["sh", "-euc", f"{text}\n{line}"],
        cwd=lab,
        env={"PATH": f"{lab / 'bin'}:{os.environ['PATH']}", "LAB": str(lab)},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


@pytest.mark.parametrize("user", ["root", "plain-user"])
@pytest.mark.parametrize(("health", "state"), [(HEALTHY, "healthy"), ('{"health":"false"}', ""), ("", "")])
def test_a_member_tells_its_state(lab: Path, user: str, health: str, state: str) -> None:
    (machine(lab, "controller-0", health) / user).touch()
    done = ask(lab, "state_of controller-0")
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, state, "")
    assert (lab / "controller-0" / "became-root").exists() == (user == "plain-user")
    words = (lab / "asked").read_text()
    assert words.startswith("-F .state/dev/ssh_config -i .state/dev/ssh_key -o BatchMode=yes")


def test_a_machine_without_data_is_no_member(lab: Path) -> None:
    (machine(lab, "controller-0", HEALTHY) / "data").rmdir()
    assert ask(lab, "state_of controller-0").stdout.strip() == "none"


def test_a_machine_that_does_not_answer_tells_nothing(lab: Path) -> None:
    done = ask(lab, "state_of controller-9")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize("missing", ["ssh_config", "ssh_key"])
def test_without_the_files_of_the_lab_nobody_can_be_asked(lab: Path, missing: str) -> None:
    assert ask(lab, "can_ask && echo yes").stdout.strip() == "yes"
    (lab / ".state" / "dev" / missing).unlink()
    assert ask(lab, "can_ask || echo no").stdout.strip() == "no"


@pytest.mark.parametrize("stack", ["machines", "libvirt", "gcp"])
def test_existing_hosts_virtual_machines_and_instances_are_asked_over_ssh(
    stack: str, no_output_in_a_string: None
) -> None:
    run = program(stack)
    (guard,) = (each for each in run.of_type("command:local:Command") if each.name == "machines-quorum")
    assert f"ssh -F .state/{stack}/ssh_config" in guard.inputs["stdin"]
