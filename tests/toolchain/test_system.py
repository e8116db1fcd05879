import io
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from toolchain import system
from toolchain.errors import ToolchainError
from toolchain.progress import Report
from toolchain.system import Package

LIBRARY = Package(name="libfrob", why="frobs")
PROGRAM = Package(name="frob-tools", command="frob-from-anywhere", why="frobs by hand")


@pytest.fixture
def apt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator["Apt"]:
    programs = tmp_path / "bin"
    programs.mkdir()
    monkeypatch.setenv("PATH", f"{programs}:/usr/bin:/bin")
    monkeypatch.setattr(system, "_LOOK_EVERY", 0.01)
    yield Apt(tmp_path)


class Apt:
    """A dpkg-query that knows the packages in a file, and an apt-get that adds to them what it has in its lists."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.installed = directory / "installed"
        self.installed.touch()
        self.calls = directory / "calls"
        self.calls.touch()
        self.program(
            "dpkg-query",
            f"shift 2; for p; do grep -qx $p {self.installed} && echo $p installed || status=1; done; exit $status",
        )
        self.program(
            "apt-get",
            f"""while [ "$1" = -q ] || [ "$1" = -o ]; do [ "$1" = -o ] && shift; shift; done
echo "apt-get $*" >> {self.calls}
[ "$LC_ALL" = C ] || exit 9
if [ -s {directory}/locked ]; then
  sed -i 1d {directory}/locked
  echo "E: Could not get lock /var/lib/dpkg/lock-frontend. It is held by process 77 (apt)" >&2
  exit 100
fi
if [ "$1" = update ]; then touch {directory}/lists; exit; fi
[ -e {directory}/lists ] || {{ echo 'E: Unable to locate package' >&2; exit 100; }}
shift; for p; do case $p in -*) ;; *) echo $p >> {self.installed} ;; esac; done""",
        )

    def program(self, name: str, script: str) -> None:
        path = self.directory / "bin" / name
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)

    def have_lists(self) -> None:
        (self.directory / "lists").touch()

    def be_locked(self, times: int) -> None:
        (self.directory / "locked").write_text("x\n" * times)

    def was_asked(self) -> list[str]:
        return self.calls.read_text().splitlines()


def ensure(*packages: Package) -> str:
    stream = io.StringIO()
    with Report(stream) as report:
        system.ensure(report, packages)
    return stream.getvalue()


def test_nothing_is_done_and_said_where_all_is_there(apt: Apt) -> None:
    apt.installed.write_text("libfrob\n")
    apt.program("frob-from-anywhere", "exit 0")
    assert ensure(LIBRARY, PROGRAM) == ""
    assert apt.was_asked() == []


def test_only_what_is_missing_is_installed_without_an_update(apt: Apt) -> None:
    apt.have_lists()
    apt.installed.write_text("libfrob\n")
    ensure(LIBRARY, PROGRAM)
    assert apt.was_asked() == ["apt-get install --yes --no-install-recommends frob-tools"]
    assert system.missing([LIBRARY]) == []


def test_package_lists_are_fetched_once_where_they_are_too_old(apt: Apt) -> None:
    ensure(LIBRARY)
    assert [call.split()[1] for call in apt.was_asked()] == ["install", "update", "install"]


def test_another_apt_is_waited_for(apt: Apt) -> None:
    apt.have_lists()
    apt.be_locked(times=3)
    ensure(LIBRARY)
    assert [call.split()[1] for call in apt.was_asked()] == ["install"] * 4


def test_waiting_for_another_apt_ends(apt: Apt, monkeypatch: pytest.MonkeyPatch) -> None:
    apt.be_locked(times=100_000)
    monkeypatch.setattr(system, "_LOCK_DEADLINE", 0.05)
    with pytest.raises(ToolchainError, match=r"It is held by process 77"):
        ensure(LIBRARY)


@pytest.mark.parametrize(
    ("release", "asked"),
    [
        ('ID=debian\nVERSION_ID="12"\n', []),
        ('ID=debian\nVERSION_ID="13"\n', ["apt-get install --yes --no-install-recommends docker-cli"]),
        ("ID=debian\nVERSION_CODENAME=forky\n", ["apt-get install --yes --no-install-recommends docker-cli"]),
        ('ID=ubuntu\nVERSION_ID="24.04"\n', []),
    ],
)
def test_a_package_that_only_later_debians_have(
    apt: Apt, release: str, asked: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "os-release").write_text(release)
    monkeypatch.setattr(system, "_OS_RELEASE", tmp_path / "os-release")
    monkeypatch.setattr(system, "_SYSTEM_PATH", "")
    apt.have_lists()
    ensure(Package(name="docker-cli", command="docker-of-no-host", why="its command", since_debian=13))
    assert apt.was_asked() == asked


def test_a_failing_apt_is_quoted(apt: Apt) -> None:
    apt.program("apt-get", "echo 'E: no space left'; exit 100")
    with pytest.raises(ToolchainError, match="no space left"):
        ensure(LIBRARY)


@pytest.fixture
def as_user(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    return lambda: monkeypatch.setattr(os, "geteuid", lambda: 1000)


def test_a_user_installs_with_sudo(apt: Apt, as_user: Callable[[], None]) -> None:
    as_user()
    apt.have_lists()
    apt.program("sudo", f'echo sudo >> {apt.calls}; exec /usr/bin/env -i PATH="$PATH" "$@"')
    ensure(LIBRARY)
    assert apt.was_asked() == ["sudo", "apt-get install --yes --no-install-recommends libfrob"]


def test_a_user_without_sudo_is_told_whom_to_ask_for_what(
    apt: Apt, as_user: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    as_user()
    monkeypatch.setenv("PATH", str(apt.directory / "bin"))
    with pytest.raises(ToolchainError, match=r"(?s)libfrob +frobs.*apt-get install libfrob") as error:
        monkeypatch.setattr(system, "_SYSTEM_PATH", "")
        apt.program("dpkg-query", "exit 1")
        ensure(LIBRARY)
    assert "neither root nor has sudo" in str(error.value)


def test_a_system_without_apt_is_told_what_to_install(apt: Apt, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(ToolchainError, match=r"(?s)no apt-get is here.*libfrob +frobs"):
        ensure(LIBRARY)
