"""step.sh on hosts that have apt timers, broken sources, proxies and file systems of their own."""

from pathlib import Path

import pytest

from scripts.test_step_library import Machine

LOCKED = "E: Could not get lock /var/lib/apt/lists/lock. It is held by process 4711 (apt.systemd.dai)"
APT = """#!/bin/bash
echo "$*" >>"$R/apt.log"
case " $* " in
  *" update "*)
    if [ -e "$R/broken" ]; then echo "E: The repository 'https://gone.example' has no Release file."; exit 100; fi
    n=$(cat "$R/locked" 2>/dev/null || echo 0)
    if [ "$n" -gt 0 ]; then echo $((n - 1)) >"$R/locked"; echo "%s"; exit 100; fi ;;
  *" install "*) [ ! -e "$R/missing" ] || { echo "E: Unable to locate package x"; exit 100; } ;;
esac
""".replace("%s", LOCKED)


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    made = Machine(tmp_path)
    tool(made, "apt-get", APT)
    tool(made, "dpkg-query", "#!/bin/sh\nexit 1\n")
    tool(made, "dpkg", "#!/bin/sh\n")
    tool(made, "curl", '#!/bin/sh\necho "$1 no_proxy=$no_proxy NO_PROXY=$NO_PROXY"\n')
    return made


def tool(machine: Machine, name: str, text: str) -> None:
    file = machine.root.parent / "bin" / name
    file.write_text(text)
    file.chmod(0o755)


def test_apt_waits_for_the_lock_of_its_lists_and_says_for_whom(machine: Machine) -> None:
    (machine.root / "locked").write_text("2")
    done = machine.step("packages x")
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("apt waits for the lock of its lists, held by process 4711 (apt.systemd.dai)") == 1


def test_a_lock_that_stays_is_an_error_with_its_holder(machine: Machine) -> None:
    (machine.root / "locked").write_text("99")
    done = machine.bash("TIMEOUT_FACTOR=0\nbegin unit\npackages x")
    assert done.returncode == 1
    assert "the lock of apt's lists on" in done.stderr and "is held by process 4711" in done.stderr


def test_a_broken_source_stops_only_what_needs_it(machine: Machine) -> None:
    (machine.root / "broken").touch()
    machine.done("packages x")
    assert " install " in (machine.root / "apt.log").read_text()
    (machine.root / "missing").touch()
    done = machine.step("packages y")
    assert done.returncode == 1
    assert "installing y failed: E: Unable to locate package x" in done.stderr
    assert "apt-get update failed before: E: The repository 'https://gone.example'" in done.stderr


@pytest.mark.parametrize("variable", ["http_proxy", "HTTPS_PROXY", "all_proxy"])
def test_a_proxy_is_for_what_is_outside(machine: Machine, variable: str) -> None:
    machine.environment |= {variable: "http://127.0.0.1:1", "no_proxy": "theirs", "NO_PROXY": "THEIRS"}
    done = machine.bash("curl here; download far")
    assert done.stdout.splitlines() == ["here no_proxy=* NO_PROXY=*", "-fsSL no_proxy=theirs NO_PROXY=THEIRS"]


def test_without_a_proxy_nothing_is_set(machine: Machine) -> None:
    assert machine.bash("curl here; env").stdout.splitlines()[0] == "here no_proxy= NO_PROXY="
    assert "no_proxy" not in machine.bash("env").stdout.lower()


def test_a_directory_with_lost_and_found_is_empty_and_keeps_it(machine: Machine) -> None:
    found = machine.root / "etcd" / "lost+found"
    found.mkdir(parents=True)
    machine.done("data $R/etcd")
    (machine.root / "etcd" / "member").mkdir()
    machine.undo()
    assert [each.name for each in (machine.root / "etcd").iterdir()] == ["lost+found"]
