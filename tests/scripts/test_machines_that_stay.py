"""The verbs of step.sh that give a machine back what it had, run by a real bash with tools that only take notes."""

from pathlib import Path

import pytest

from scripts.test_step_library import Machine

TOOLS = {
    # Knows the packages in $R/installed; `curl` brings `libcurl4`, and upgrades what is there already.
    "dpkg-query": """
status=0
for name in "${@:4}"; do
  if grep -qx "$name" "$R/installed"; then echo "$name install ok installed "; else status=1; fi
done
exit $status""",
    "apt-get": r"""
echo "apt-get $*" >>"$R/log"
words=(); for word; do case $word in -*|APT::*|DPkg::*) ;; *) words+=("$word") ;; esac; done
case "$*" in
  *"purge -s"*) for word in "${words[@]:1}"; do echo "Purg $word [1]"; done
    grep -qx users-own "$R/installed" && case " ${words[*]} " in *" libcurl4 "*) echo "Remv users-own [1]" ;; esac ;;
  *"install -s"*) printf 'Inst libc6 [2.35] (2.36 Debian)\nInst libcurl4 (7 Debian)\nInst curl (7 Debian)\n' ;;
  *purge*) for word in "${words[@]:1}"; do sed -i "/^$word$/d" "$R/installed"; done ;;
  *install*) printf 'libcurl4\ncurl\n' >>"$R/installed"; [ ! -e "$R/killed" ] || exit 1 ;;
esac
exit 0""",
    # Never removes what others need.
    "dpkg": 'shift; for word; do [ $word = libcurl4 ] || sed -i "/^$word$/d" "$R/installed"; done',
    "hostname": 'cat "$R/name"',
    "hostnamectl": 'echo "$2" >"$R/name"',
    "modprobe": 'echo "modprobe $*" >>"$R/log"',
    "swapoff": 'echo "swapoff $*" >>"$R/log"',
}


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    made = Machine(tmp_path)
    for name, text in TOOLS.items():
        tool = tmp_path / "bin" / name
        tool.write_text(f"#!/bin/bash\n{text}\n")
        tool.chmod(0o755)
    (made.root / "installed").write_text("libc6\n")
    (made.root / "name").write_text("old\n")
    return made


def installed(machine: Machine) -> list[str]:
    return sorted((machine.root / "installed").read_text().split())


def log(machine: Machine) -> str:
    file = machine.root / "log"
    return file.read_text() if file.exists() else ""


@pytest.mark.parametrize("runs", [1, 2])
def test_packages_go_with_what_they_brought_and_nothing_else_goes(machine: Machine, runs: int) -> None:
    for _ in range(runs):
        machine.done("packages libc6 curl")
    assert installed(machine) == ["curl", "libc6", "libcurl4"]
    machine.undo()
    assert installed(machine) == ["libc6"]


def test_packages_of_a_run_that_failed_are_known_to_the_next(machine: Machine) -> None:
    (machine.root / "killed").touch()
    assert machine.step("packages curl").returncode != 0
    assert "libcurl4" in installed(machine)
    (machine.root / "killed").unlink()
    machine.done("packages curl")
    machine.undo()
    assert installed(machine) == ["libc6"]


def test_a_package_that_the_users_own_needs_stays(machine: Machine) -> None:
    machine.done("packages curl")
    with (machine.root / "installed").open("a") as file:
        file.write("users-own\n")
    machine.undo()
    assert installed(machine) == ["libc6", "libcurl4", "users-own"]


@pytest.mark.parametrize("runs", [1, 2])
def test_the_old_name_comes_back(machine: Machine, runs: int) -> None:
    for _ in range(runs):
        machine.done("host_name new")
    assert (machine.root / "name").read_text() == "new\n"
    machine.undo()
    assert (machine.root / "name").read_text() == "old\n"


def test_a_name_that_was_right_is_left_alone(machine: Machine) -> None:
    machine.done("host_name old")
    (machine.root / "name").write_text("the user's next\n")
    machine.undo()
    assert (machine.root / "name").read_text() == "the user's next\n"


def test_only_modules_that_were_not_there_are_unloaded(machine: Machine) -> None:
    loaded = machine.root / "loaded"
    loaded.write_text("overlay 180224 0 - Live 0x0\n")
    machine.done("MODULES=$R/loaded\nmodules overlay br_netfilter")
    machine.undo()
    assert log(machine).splitlines() == ["modprobe overlay", "modprobe br_netfilter", "modprobe -q -r br_netfilter"]


def test_swap_goes_off(machine: Machine) -> None:
    machine.done("no_swap")
    assert log(machine) == "swapoff -a\n"


@pytest.mark.parametrize("runs", [1, 2])
def test_a_directory_that_was_there_and_empty_is_emptied_again(machine: Machine, runs: int) -> None:
    directory = machine.root / "data"
    directory.mkdir(mode=0o750)
    for _ in range(runs):
        machine.done("data $R/data")
        (directory / "db").write_text("the lab's")
        directory.chmod(0o700)
    machine.undo()
    assert list(directory.iterdir()) == []
    assert directory.stat().st_mode & 0o777 == 0o750


def test_a_directory_that_was_not_empty_is_never_the_labs(machine: Machine) -> None:
    directory = machine.root / "data"
    directory.mkdir()
    (directory / "theirs").write_text("precious")
    machine.done("data $R/data")
    machine.undo()
    assert (directory / "theirs").read_text() == "precious"
