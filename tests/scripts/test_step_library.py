"""The verbs of step.sh, run by a real bash on scratch directories, with a systemctl that only takes notes."""

import base64
import hashlib
import http.server
import io
import os
import shutil
import signal
import socket
import stat
import subprocess
import tarfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from lab.polling import eventually
from toolchain import paths

# What the machines have as one file.
REPLACE, LIBRARY = (paths.checkout() / "components" / name for name in ("replace.sh", "step.sh"))

SYSTEMCTL = """#!/bin/bash
# Knows of a unit whether a file of its name is in $SYSTEMCTL_RUNNING; and, by NAME.load beside that, how it was read.
words=()
for word; do case $word in -*) ;; *) words+=("$word") ;; esac; done
echo "$*" >>"$SYSTEMCTL_LOG"
case ${words[0]} in
  is-active) [ -e "$SYSTEMCTL_RUNNING/${words[1]}" ] ;;
  show)
    for word in "${words[@]:1}"; do
      [[ $word == *.* ]] || continue
      if [ -e "$SYSTEMCTL_RUNNING/$word" ]; then state=active; else state=inactive; fi
      load=$(cat "$SYSTEMCTL_RUNNING/../$word.load" 2>/dev/null || echo loaded no)
      printf 'LoadState=%s\\nNeedDaemonReload=%s\\nFragmentPath=\\nActiveState=%s\\n\\n' $load $state
    done ;;
  reload) [ ! -e "$SYSTEMCTL_RUNNING/../refuses" ] ;;
  restart) for unit in "${words[@]:1}"; do : >"$SYSTEMCTL_RUNNING/$unit"; done ;;
  disable) rm -f "$SYSTEMCTL_RUNNING/${words[1]}" ;;
esac
"""


# Steps own paths below the scratch root as they do on a machine.
SCRATCH = 'UNIT_DIRECTORY=$R/units\nOWN_DATA+=("$R/*") OWN_FILES+=("$R/*")'


class Machine:
    """A scratch root, the state directory of its steps, and a bash that has the library."""

    def __init__(self, directory: Path) -> None:
        self.root = directory / "root"
        self.hardway = directory / "hardway"
        self.units = self.root / "units"
        self.running = directory / "running"
        self.log = directory / "systemctl.log"
        tools = directory / "bin"
        for each in (self.units, self.running, tools):
            each.mkdir(parents=True)
        (tools / "systemctl").write_text(SYSTEMCTL)
        (tools / "systemctl").chmod(0o755)
        self.environment = {
            "PATH": f"{tools}:{os.environ['PATH']}",
            "HARDWAY": str(self.hardway),
            "SYSTEMCTL_LOG": str(self.log),
            "SYSTEMCTL_RUNNING": str(self.running),
            "R": str(self.root),
            "ME": subprocess.run(["id", "-un"], capture_output=True, text=True, check=True).stdout.strip(),
            "LC_ALL": "C",
        }

    def bash(self, script: str, *, stdin: str = "", before: str = "") -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["bash", "-c", f". {REPLACE}\n. {LIBRARY}\n{SCRATCH}\n{before}\n{script}"],
            input=stdin,
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=30,
        )

    def step(self, script: str, *, stdin: str = "", name: str = "unit") -> subprocess.CompletedProcess[str]:
        return self.bash(f"begin {name}\n{script}\nfinish", stdin=stdin)

    def done(self, script: str, *, stdin: str = "", name: str = "unit") -> None:
        result = self.step(script, stdin=stdin, name=name)
        assert result.returncode == 0, result.stderr

    def undo(self, name: str = "unit") -> None:
        result = self.bash(f"undo {name}")
        assert result.returncode == 0, result.stderr

    def restarts(self) -> list[str]:
        """The units that have been restarted since the last question."""
        return [unit for verb, unit in self.orders() if verb == "restart"]

    def orders(self) -> list[tuple[str, str]]:
        """What has been ordered since the last question: restart or reload, and of which unit."""
        lines = [line.split() for line in self.log.read_text().splitlines()] if self.log.exists() else []
        self.log.unlink(missing_ok=True)
        return [
            (verb, word) for verb, *words in lines if verb in ("restart", "reload") for word in words if word[0] != "-"
        ]

    def picture(self) -> dict[str, tuple[int, str, bytes | str]]:
        """All that is below the root: path -> mode, owner, content."""
        seen: dict[str, tuple[int, str, bytes | str]] = {}
        for path in sorted(self.root.rglob("*")):
            status = path.lstat()
            content: bytes | str = b""
            if path.is_symlink():
                content = str(path.readlink())
            elif path.is_file():
                content = path.read_bytes()
            seen[str(path.relative_to(self.root))] = (stat.S_IMODE(status.st_mode), str(status.st_uid), content)
        return seen


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def here(path: str, content: str, mode: str = "0644") -> str:
    return f"file $R/{path} {mode} $ME <<'EOF'\n{content}\nEOF"


def test_a_file_is_written_with_its_mode_and_in_directories_that_were_missing(machine: Machine) -> None:
    machine.done(here("a/b/c.txt", "hello", "0640"))
    path = machine.root / "a/b/c.txt"
    assert path.read_text() == "hello\n"
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


def test_a_second_run_writes_nothing(machine: Machine) -> None:
    script = here("a/b/c.txt", "hello")
    machine.done(script)
    before = (machine.root / "a/b/c.txt").stat()
    machine.done(script)
    after = (machine.root / "a/b/c.txt").stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)


@pytest.mark.parametrize("change", ["content", "mode", "link"])
def test_file_changed_by_hand_is_restored(machine: Machine, change: str) -> None:
    script = here("c.txt", "hello", "0600")
    machine.done(script)
    path = machine.root / "c.txt"
    if change == "content":
        path.write_text("mine")
    elif change == "mode":
        path.chmod(0o666)
    else:
        path.rename(machine.root / "elsewhere")
        path.symlink_to("elsewhere")
    machine.done(script)
    assert path.read_text() == "hello\n"
    assert not path.is_symlink()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
@pytest.mark.parametrize("change", ["mode", "user", "group"])
def test_mode_and_owner_are_restored_in_place(machine: Machine, change: str) -> None:
    """A group that was not compared; a unit's file that systemd took as changed, since it was another file."""
    script = here("c.txt", "hello", "0640")
    machine.done(script)
    path = machine.root / "c.txt"
    before = path.stat()
    if change == "mode":
        path.chmod(0o4666)
    else:
        os.chown(path, 1 if change == "user" else -1, 1 if change == "group" else -1)
    machine.done(script)
    after = path.stat()
    assert (after.st_mode, after.st_uid, after.st_gid) == (before.st_mode, before.st_uid, before.st_gid)
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_an_undo_leaves_nothing_behind_however_often_the_step_ran(machine: Machine) -> None:
    before = machine.picture()
    script = here("a/b/c/d.txt", "x") + "\n" + here("a/e.txt", "y")
    for _ in range(3):
        machine.done(script)
    machine.undo()
    assert machine.picture() == before
    assert not (machine.hardway / "steps" / "unit").exists()


@pytest.mark.parametrize("runs", [1, 2])
def test_undo_restores_replaced_files_byte_for_byte(machine: Machine, runs: int) -> None:
    original = machine.root / "etc" / "daemon.conf"
    original.parent.mkdir()
    original.write_bytes(b"\xff no line feed at the end \x00")
    original.chmod(0o604)
    (machine.root / "link").symlink_to("etc/daemon.conf")
    (machine.root / "dangling").symlink_to("nowhere")
    before = machine.picture()
    script = "\n".join(here(path, f"ours {path}", "0600") for path in ("etc/daemon.conf", "link", "dangling"))
    for _ in range(runs):
        machine.done(script)
    assert original.read_text() == "ours etc/daemon.conf\n"
    machine.undo()
    assert machine.picture() == before


def test_an_undo_of_nothing_is_no_error(machine: Machine) -> None:
    machine.undo("never-ran")
    machine.done(here("a.txt", "x"))
    (machine.root / "a.txt").unlink()
    machine.undo()
    machine.undo()
    assert not (machine.root / "a.txt").exists()


def test_a_directory_that_others_use_stays(machine: Machine) -> None:
    machine.done(here("a/b/ours.txt", "x"))
    (machine.root / "a" / "theirs.txt").write_text("keep")
    machine.undo()
    assert (machine.root / "a" / "theirs.txt").read_text() == "keep"
    assert not (machine.root / "a" / "b").exists()


@pytest.mark.parametrize("order", [["one", "two"], ["two", "one"]])
def test_a_directory_of_two_steps_goes_with_the_last(machine: Machine, order: list[str]) -> None:
    machine.done(here("a/b/1.txt", "1"), name="one")
    machine.done(here("a/b/2.txt", "2"), name="two")
    machine.undo(order[0])
    assert (machine.root / "a/b").exists()
    machine.undo(order[1])
    assert not (machine.root / "a").exists()


@pytest.mark.parametrize("leaves", ["undo", "a later version"])
def test_a_file_and_a_unit_that_move_to_another_step_stay(machine: Machine, leaves: str) -> None:
    """Pulumi makes what is new before it removes what is old."""
    file = machine.root / "etc" / "x.conf"
    file.parent.mkdir()
    file.write_text("the user's own\n")
    both = here("etc/x.conf", "ours") + "\n" + unit("[Service]")
    machine.done(both, name="old")
    machine.done(both, name="new")
    if leaves == "undo":
        machine.undo("old")
    else:
        machine.done("", name="old")
    assert file.read_text() == "ours\n"
    assert [each.name for each in machine.running.iterdir()] == ["a.service"]
    machine.undo("new")
    assert file.read_text() == "the user's own\n"
    assert not list(machine.running.iterdir())


def test_the_last_undo_leaves_no_directory_of_the_library(machine: Machine) -> None:
    for name in ("one", "two"):
        machine.done("", name=name)
    machine.undo("one")
    assert machine.hardway.exists()
    machine.undo("two")
    assert not machine.hardway.exists()


def test_undo_succeeds_if_the_saved_files_are_gone(machine: Machine) -> None:
    theirs = machine.root / "theirs"
    theirs.mkdir()
    (theirs / "a.txt").write_text("theirs")
    machine.done(here("theirs/a.txt", "ours"))
    (theirs / "a.txt").unlink()
    theirs.rmdir()
    machine.undo()
    assert not theirs.exists()


def test_file_that_a_new_version_lacks_is_removed_and_the_replaced_file_restored(machine: Machine) -> None:
    (machine.root / "theirs.txt").write_text("theirs")
    machine.done("\n".join([here("old/a.txt", "1"), here("theirs.txt", "ours"), here("kept.txt", "2")]))
    machine.done(here("kept.txt", "3"))
    assert not (machine.root / "old").exists()
    assert (machine.root / "theirs.txt").read_text() == "theirs"
    assert (machine.root / "kept.txt").read_text() == "3\n"


def test_undo_does_not_restore_files_that_were_removed_meanwhile(machine: Machine) -> None:
    (machine.root / "theirs.txt").write_text("theirs")
    machine.done(here("theirs.txt", "ours"))
    machine.done(here("other.txt", "x"))
    (machine.root / "theirs.txt").unlink()
    machine.done(here("theirs.txt", "ours again"))
    machine.undo()
    assert not (machine.root / "theirs.txt").exists()


def test_data_go_with_the_step_and_not_before(machine: Machine) -> None:
    script = f"data $R/data\nmkdir -p $R/data\n{here('x', 'x')}"
    machine.done(script)
    (machine.root / "data" / "db").write_text("precious")
    machine.done(script)
    assert (machine.root / "data" / "db").read_text() == "precious"
    machine.undo()
    assert not (machine.root / "data").exists()


def test_a_secret_comes_by_standard_input_and_is_written_with_its_mode(machine: Machine) -> None:
    stdin = f"{machine.root}/key {base64.b64encode(b'SECRET').decode()}\n"
    result = machine.step("secret $R/key 0600 $ME", stdin=stdin)
    assert result.returncode == 0, result.stderr
    assert (machine.root / "key").read_bytes() == b"SECRET"
    assert stat.S_IMODE((machine.root / "key").stat().st_mode) == 0o600
    assert "SECRET" not in result.stdout + result.stderr
    assert not [path for path in machine.hardway.rglob("*") if path.is_file() and b"SECRET" in path.read_bytes()]
    machine.undo()
    assert not (machine.root / "key").exists()


def test_a_secret_that_did_not_come_fails_the_step(machine: Machine) -> None:
    result = machine.step("secret $R/key 0600 $ME")
    assert result.returncode != 0
    assert f"no content came for {machine.root}/key" in result.stderr
    assert not (machine.root / "key").exists()


LINES = st.text(st.characters(codec="utf-8", exclude_characters="\r\0"), max_size=60)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=8)
@example(original="no end of line", block="a")
@example(original="# BEGIN hardway\n", block="a\nb")
@given(original=LINES, block=st.text("abc 1.", min_size=1, max_size=30))
def test_a_block_goes_into_a_file_once_and_out_again_byte_for_byte(machine: Machine, original: str, block: str) -> None:
    path = machine.root / "hosts"
    path.write_bytes(original.encode())
    put = f"put_block $R/hosts hardway <<'END-OF-BLOCK'\n{block}\nEND-OF-BLOCK\n"
    assert machine.bash(put).returncode == 0
    once = path.read_bytes()
    assert f"# BEGIN hardway\n{block}\n# END hardway\n".encode() in once
    assert machine.bash(put + put).returncode == 0
    assert path.read_bytes() == once, "a block must not grow"
    assert machine.bash("drop_block $R/hosts hardway\ndrop_block $R/hosts hardway").returncode == 0
    assert path.read_bytes() == original.encode()


def test_a_changed_block_takes_the_place_of_the_old_one(machine: Machine) -> None:
    path = machine.root / "hosts"
    path.write_text("127.0.0.1 localhost\n")
    machine.bash("echo one | put_block $R/hosts hardway")
    machine.bash("echo two | put_block $R/hosts hardway")
    assert path.read_text() == "# BEGIN hardway\ntwo\n# END hardway\n127.0.0.1 localhost\n"


def unit(content: str, *watched: str) -> str:
    return here("units/a.service", content) + f"\nunit a.service {' '.join(watched)}"


def test_a_unit_is_restarted_when_something_of_it_changed_and_only_then(machine: Machine) -> None:
    first = here("conf", "1") + "\n" + unit("[Service]\nExecStart=/bin/true", "$R/conf")
    machine.done(first)
    assert machine.restarts() == ["a.service"]
    machine.done(first)
    assert machine.restarts() == []
    machine.done(first.replace("\n1\n", "\n2\n"))
    assert machine.restarts() == ["a.service"]
    machine.done(first.replace("\n1\n", "\n2\n").replace("/bin/true", "/bin/false"))
    assert machine.restarts() == ["a.service"]
    (machine.running / "a.service").unlink()
    machine.done(first.replace("\n1\n", "\n2\n").replace("/bin/true", "/bin/false"))
    assert machine.restarts() == ["a.service"], "a unit that stopped is started again"


@pytest.mark.parametrize(
    ("load", "read_again"), [("loaded no", False), ("loaded yes", True), ("not-found no", True), ("error no", True)]
)
def test_systemd_reads_again_what_a_timer_starts_before_the_timer_is_restarted(
    machine: Machine, load: str, read_again: bool
) -> None:
    """A service that is started as it was before its file changed; a timer that is refused: its service was missing."""
    (machine.root.parent / "timed.service.load").write_text(load)
    files = here("conf", "1") + "\n" + here("units/timed.service", "[Service]")
    machine.done(files + "\n" + unit("[Timer]", "$R/conf $R/units/timed.service"))
    orders = [line for line in machine.log.read_text().splitlines() if line.startswith(("daemon-reload", "restart"))]
    assert orders == [*(["daemon-reload"] if read_again else []), "restart --no-block a.service"]


def test_a_client_restarts_with_its_server_where_that_restarts_again_within_three_minutes(machine: Machine) -> None:
    """Its watches would stay behind for up to a minute: each refused request makes it wait longer."""

    def version(number: int) -> str:
        server = here("conf", str(number)) + "\n" + unit("[Service]\nExecStart=/bin/true", "$R/conf")
        client = (
            here("units/b.service", "[Service]\nExecStart=/bin/true") + "\nunit b.service\nfollows b.service a.service"
        )
        return f"{server}\nstart\n{client}"

    machine.done(version(1))
    assert machine.restarts() == ["a.service", "b.service"]
    machine.done(version(2))
    assert machine.restarts() == ["a.service"], "the first restart of a server that ran"
    machine.done(version(3))
    assert machine.restarts() == ["a.service", "b.service"]
    machine.done(version(3))
    assert machine.restarts() == []
    earlier = machine.hardway / "steps/unit/started/a.service.restarted"
    os.utime(earlier, (time.time() - 200,) * 2)
    machine.done(version(4))
    assert machine.restarts() == ["a.service"]


def test_a_unit_that_did_not_serve_is_restarted_when_its_old_files_are_put_back(machine: Machine) -> None:
    """It may run on with the new ones, which no longer stand in any file."""
    first = here("conf", "1") + "\n" + unit("[Service]", "$R/conf") + "\nready a.service 0 'a 1' 'grep -q 1 $R/conf'"
    machine.done(first)
    machine.orders()
    assert "a 1 not seen" in machine.step(first.replace("\n1\n", "\n2\n")).stderr
    assert machine.restarts() == ["a.service"]
    machine.done(first)
    assert machine.restarts() == ["a.service"]
    machine.done(first)
    assert machine.restarts() == []


def test_a_unit_that_did_not_serve_is_reloaded_when_its_old_files_are_put_back(machine: Machine) -> None:
    first = f"{RELOADED}\nready a.service 0 'a 1' 'grep -q 1 $R/reloaded'"
    machine.done(first)
    machine.orders()
    assert "a 1 not seen" in machine.step(reloaded(first, changed="reloaded")).stderr
    assert machine.orders() == [("reload", "a.service")]
    machine.done(first)
    assert machine.orders() == [("reload", "a.service")]
    machine.done(first)
    assert machine.orders() == []


RELOADED = here("started", "1") + "\n" + here("reloaded", "1") + "\n" + unit("[Service]", "$R/started")
RELOADED += "\nreloads a.service $R/reloaded"


def reloaded(script: str = RELOADED, *, changed: str) -> str:
    """The script with other content in a file."""
    assert f"$R/{changed} 0644" in script
    before, _, after = script.partition(f"$R/{changed} 0644")
    return f"{before}$R/{changed} 0644{after.replace(chr(10) + '1' + chr(10), chr(10) + '2' + chr(10), 1)}"


def test_systemctl_leaves_init_scripts_of_packages_alone(machine: Machine) -> None:
    """With `enable` and with `disable`: it would start a Perl program for each, and re-read all units twice."""
    noting = '#!/bin/bash\necho "$1 $2 skip=$SYSTEMCTL_SKIP_SYSV" >>"$SYSTEMCTL_LOG"\n'
    (machine.root.parent / "bin" / "systemctl").write_text(noting + SYSTEMCTL.partition("\n")[2])
    machine.done("unit nginx.service")
    machine.undo()
    noted = [line for line in machine.log.read_text().splitlines() if "skip=" in line]
    assert {"-q enable skip=1", "-q disable skip=1"} <= set(noted)


def test_unit_is_reloaded_if_only_reloadable_files_changed(machine: Machine) -> None:
    machine.done(RELOADED)
    assert machine.orders() == [("restart", "a.service")]
    machine.done(RELOADED)
    assert machine.orders() == []
    machine.done(reloaded(changed="reloaded"))
    assert machine.orders() == [("reload", "a.service")]
    machine.done(reloaded(changed="reloaded"))
    assert machine.orders() == []
    machine.done(reloaded(reloaded(changed="reloaded"), changed="started"))
    assert machine.orders() == [("restart", "a.service")]
    machine.done(RELOADED)
    assert machine.orders() == [("restart", "a.service")], "a restart reads everything: no reload besides"
    machine.done(RELOADED)
    assert machine.orders() == []


def test_a_unit_that_stopped_is_started_and_not_reloaded(machine: Machine) -> None:
    machine.done(RELOADED)
    machine.orders()
    (machine.running / "a.service").unlink()
    machine.done(reloaded(changed="reloaded"))
    assert machine.orders() == [("restart", "a.service")]
    machine.done(reloaded(changed="reloaded"))
    assert machine.orders() == []


def test_a_reload_that_fails_is_reported_and_tried_again(machine: Machine) -> None:
    machine.done(RELOADED)
    machine.orders()
    refuses = machine.running / ".." / "refuses"
    refuses.touch()
    result = machine.step(reloaded(changed="reloaded"))
    assert result.returncode != 0
    assert "a.service on " in result.stderr and "cannot be reloaded" in result.stderr
    refuses.unlink()
    machine.orders()
    machine.done(reloaded(changed="reloaded"))
    assert machine.orders() == [("reload", "a.service")]


@pytest.mark.parametrize("changed", ["started", "reloaded"])
def test_a_unit_is_left_as_it_is_while_its_files_are_not_valid(machine: Machine, changed: str) -> None:
    script = RELOADED + "\nvalid a.service 'grep -q 1 $R/started && grep -q 1 $R/reloaded || { echo line 7; false; }'"
    machine.done(script)
    machine.orders()
    result = machine.step(reloaded(script, changed=changed))
    assert result.returncode != 0
    assert "a.service on " in result.stderr and "its files are not valid: line 7" in result.stderr
    assert machine.orders() == []
    machine.done(script)
    assert machine.orders() == [], "what is there again is what it runs with"


@pytest.mark.parametrize("left", range(40, 300, 13))
def test_a_reload_that_was_killed_is_made_by_the_next_run(machine: Machine, left: int) -> None:
    machine.done(RELOADED)
    machine.orders()
    changed = reloaded(changed="reloaded")
    killed = machine.bash(f"begin unit\n{changed}\nfinish", before=DIE.replace("{left}", str(left)))
    assert killed.returncode in (-signal.SIGKILL, 0)
    machine.done(changed)
    assert set(machine.orders()) == {("reload", "a.service")}
    machine.done(changed)
    assert machine.orders() == []


def test_unit_with_a_replaced_program_is_restarted(machine: Machine) -> None:
    script = "ln -sfn $R/{version} $R/program\n" + unit(f"[Service]\nExecStart={machine.root}/program --flag")
    machine.done(script.replace("{version}", "v1"))
    machine.restarts()
    machine.done(script.replace("{version}", "v2"))
    assert machine.restarts() == ["a.service"]


def two_stages(content: str = "[Service]") -> str:
    """A step that leaves the first start of its units; they serve once a file is there."""
    check = "[ -e $R/serves ]"
    return "\n".join(
        [
            "leave_first_start",
            here("units/a.service", content),
            here("units/b.service", "[Service]"),
            "unit a.service",
            f"ready a.service 0 'a file' '{check}'",
            "start",
            "unit b.service",
            f"ready b.service 0 'a file' '{check}'",
            "start",
        ]
    )


def test_the_run_after_one_that_was_killed_at_the_first_start_waits(machine: Machine) -> None:
    assert machine.bash(f"begin unit\n{two_stages()}\nfinish").returncode == 0
    assert machine.restarts() == ["a.service"]
    (machine.root / "serves").touch()
    assert machine.bash(f"begin unit\n{two_stages()}\nfinish\nsucceeded").returncode == 0
    assert machine.restarts() == ["a.service", "b.service"]
    assert not (machine.hardway / "steps/unit/left").exists()


def left_start(machine: Machine) -> subprocess.CompletedProcess[str]:
    return machine.bash("begin serving\nfinish\nstart_left unit")


def test_what_the_first_run_has_left_is_started_in_its_order_and_waited_for(machine: Machine) -> None:
    assert machine.bash(f"begin unit\n{two_stages()}\nfinish\nsucceeded").returncode == 0
    assert machine.restarts() == ["a.service"], "the units of the second stage wait for those of the first"
    result = left_start(machine)
    assert result.returncode != 0 and "a.service on " in result.stderr and "a file not seen within 0 s" in result.stderr
    assert machine.restarts() == []
    (machine.root / "serves").touch()
    assert left_start(machine).returncode == 0
    assert machine.restarts() == ["b.service"]
    for _ in range(2):
        assert left_start(machine).returncode == 0
        machine.done(two_stages())
    assert machine.restarts() == [], "nothing is left, and all runs what is on disk"
    machine.undo()
    machine.undo("serving")
    assert not machine.hardway.exists()


def test_a_unit_that_has_ended_since_its_first_start_is_started_again(machine: Machine) -> None:
    assert machine.bash(f"begin unit\n{two_stages()}\nfinish\nsucceeded").returncode == 0
    machine.restarts()
    (machine.root / "serves").touch()
    (machine.running / "a.service").unlink()
    assert left_start(machine).returncode == 0
    assert machine.restarts() == ["a.service", "b.service"]


def test_a_step_that_is_updated_before_the_other_step_starts_everything_itself(machine: Machine) -> None:
    assert machine.bash(f"begin unit\n{two_stages()}\nfinish\nsucceeded").returncode == 0
    machine.restarts()
    (machine.root / "serves").touch()
    assert machine.bash(f"begin unit\n{two_stages('[Service]# changed')}\nfinish\nsucceeded updated").returncode == 0
    assert machine.restarts() == ["a.service", "b.service"]
    assert left_start(machine).returncode == 0
    assert machine.restarts() == []


def test_a_unit_that_does_not_serve_is_reported_and_tried_again(machine: Machine) -> None:
    broken = unit("[Service]") + "\nready a.service 0 'answering on port 1' 'echo refused; false'"
    result = machine.step(broken)
    assert result.returncode != 0
    assert "a.service on " in result.stderr
    assert "answering on port 1 not seen within 0 s" in result.stderr
    assert "refused" in result.stderr
    machine.restarts()
    machine.done(unit("[Service]") + "\nready a.service 5 'answering' 'true'")
    assert machine.restarts() == ["a.service"], "what never served has not been started from what is there now"


def versioned(machine: Machine, version: int, *, check: str = "v1", succeeds: bool = True) -> str:
    """A step whose unit's program is a link to one of two files, and serves only in the version of the check."""
    for each in (1, 2):
        (machine.root / f"v{each}").write_text("")
    (machine.root / "bin").mkdir(exist_ok=True)
    program = machine.root / "bin" / "program"
    return "\n".join(
        [
            "begin unit",
            f"own file {program}",
            f"link $R/v{version} {program}",
            unit(f"[Service]\nExecStart={program} --version={version}"),
            f"ready a.service 0 'version {check}' 'readlink {program} | grep -q {check}'",
            "finish",
            *(["succeeded updated"] if succeeds else []),
        ]
    )


def test_a_program_of_another_version_that_does_not_serve_is_rolled_back(machine: Machine) -> None:
    assert machine.bash(versioned(machine, 1)).returncode == 0
    machine.orders()
    for _ in range(2):
        result = machine.bash(versioned(machine, 2))
        assert result.returncode == 1
        assert "version v1 not seen" in result.stderr
        assert "The version before was put back on " in result.stderr and "a.service serves again" in result.stderr
        assert machine.restarts() == ["a.service", "a.service"]
        assert (machine.root / "bin" / "program").readlink() == machine.root / "v1"
        assert "--version=1" in (machine.units / "a.service").read_text()
        assert not (machine.hardway / "steps/unit/earlier").exists()
    # The version before is wanted again: it runs already.
    assert machine.bash(versioned(machine, 1)).returncode == 0
    assert machine.restarts() == []
    machine.undo()
    assert not (machine.hardway / "steps").exists()


def test_a_program_of_another_version_that_serves_stays(machine: Machine) -> None:
    assert machine.bash(versioned(machine, 1)).returncode == 0
    result = machine.bash(versioned(machine, 2, check="v2"))
    assert result.returncode == 0, result.stderr
    assert (machine.root / "bin" / "program").readlink() == machine.root / "v2"
    assert not (machine.hardway / "steps/unit/earlier").exists()


def test_a_run_that_was_killed_before_the_restart_is_rolled_back_by_the_next(machine: Machine) -> None:
    assert machine.bash(versioned(machine, 1)).returncode == 0
    killed = versioned(machine, 2).replace("finish\n", "kill -KILL $$\n")
    assert machine.bash(killed).returncode == -signal.SIGKILL
    assert (machine.root / "bin" / "program").readlink() == machine.root / "v2"
    assert machine.bash(versioned(machine, 2)).returncode == 1
    assert (machine.root / "bin" / "program").readlink() == machine.root / "v1"


def test_neither_version_that_serves_is_said(machine: Machine) -> None:
    assert machine.bash(versioned(machine, 1)).returncode == 0
    result = machine.bash(versioned(machine, 2, check="v3"))
    assert result.returncode == 1
    assert "but a.service does not serve with it either" in result.stderr


def test_a_step_that_never_succeeded_has_no_version_before(machine: Machine) -> None:
    assert machine.bash(versioned(machine, 1, succeeds=False)).returncode == 0
    result = machine.bash(versioned(machine, 2, succeeds=False))
    assert result.returncode == 1
    assert "version before" not in result.stderr


def test_a_unit_that_a_later_version_lacks_is_stopped_and_its_file_goes(machine: Machine) -> None:
    machine.done(unit("[Service]"))
    machine.done(here("other", "x"))
    assert not (machine.running / "a.service").exists()
    assert not (machine.units / "a.service").exists()


def test_wait_for_names_the_missing_condition(machine: Machine) -> None:
    result = machine.bash("wait_for 0 'nodes Ready' 'echo 1 of 2; false'")
    assert result.returncode == 1
    assert "nodes Ready: not within 0 s" in result.stderr
    assert "the last try said: 1 of 2" in result.stderr


def test_deadlines_are_multiplied_by_the_timeout_factor(machine: Machine) -> None:
    result = machine.bash(
        "TIMEOUT_FACTOR=3\nwait_for 1 'the third second' '[ $SECONDS -ge 2 ]'; wait_for 0 'nodes Ready' false"
    )
    assert result.returncode == 1
    assert "the third second" not in result.stderr and "nodes Ready: not within 0 s" in result.stderr


@pytest.mark.parametrize(("clock", "status"), [("2020-01-01T00:00:00Z", 0), ("2999-01-01T00:00:00Z", 1)])
def test_clock_behind_the_cas_is_reported(machine: Machine, clock: str, status: int) -> None:
    result = machine.bash(f"clock_after {clock}")
    assert result.returncode == status
    assert ("set the clock" in result.stderr) == bool(status)


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@pytest.fixture
def archive() -> bytes:
    """A tar.gz with bin/tool and bin/other."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name in ("bin/tool", "bin/other"):
            member = tarfile.TarInfo(name)
            member.size, member.mode = 4, 0o755
            tar.addfile(member, io.BytesIO(b"run\n"))
    return buffer.getvalue()


@pytest.fixture
def upstream(tmp_path: Path, archive: bytes) -> Iterator[str]:
    """An HTTP server with a program, its published checksum, a wrong one, and an archive."""
    files = tmp_path / "upstream"
    files.mkdir()
    (files / "program").write_bytes(b"program")
    (files / "program.sha256").write_text(sha256(b"program"))
    (files / "forged").write_bytes(b"forged")
    (files / "forged.sha256").write_text(sha256(b"genuine") + "\n")
    (files / "tool.tar.gz").write_bytes(archive)

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args: object) -> None:
            super().__init__(*args, directory=str(files))  # type: ignore[arg-type]

        def log_message(self, format: str, *args: object) -> None:
            """Quiet."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize("where", ["http", "file"])
@pytest.mark.parametrize("checksum", [sha256(b"program"), "published"])
def test_an_artifact_with_the_right_checksum_is_put_in_its_place(
    machine: Machine, upstream: str, tmp_path: Path, where: str, checksum: str
) -> None:
    (tmp_path / "upstream" / "program").chmod(0o755)
    url = f"{upstream}/program" if where == "http" else f"file://{tmp_path}/upstream/program"
    script = f"fetch {url} {checksum} $R/bin/program"
    machine.done(script)
    machine.done(script)
    program = machine.root / "bin" / "program"
    assert program.read_bytes() == b"program"
    assert os.access(program, os.X_OK)
    machine.undo()
    assert not (machine.root / "bin").exists()


def test_a_link_that_is_held_stays_as_it_is_and_is_the_steps(machine: Machine, tmp_path: Path) -> None:
    files = [tmp_path / "old" / "program", tmp_path / "new" / "program"]
    for file in files:
        file.parent.mkdir()
        file.write_text(file.parent.name)
    fetch = [f"fetch file://{file} {sha256(file.read_bytes())} $R/bin/program" for file in files]
    machine.done(f"hold $R/bin/program\n{fetch[0]}")
    assert (machine.root / "bin/program").readlink() == files[0]
    machine.done(f"hold $R/bin/program\n{fetch[1]}")
    assert (machine.root / "bin/program").readlink() == files[0]
    machine.done(fetch[1])
    assert (machine.root / "bin/program").readlink() == files[1]


@pytest.mark.parametrize("change", ["ln -sfn /bin/false", "cp --remove-destination /bin/false", "rm -f"])
def test_what_is_no_version_of_a_held_program_is_replaced(machine: Machine, tmp_path: Path, change: str) -> None:
    """`./hardway repair` runs the step again: it would hold what somebody put there."""
    file = tmp_path / "v1" / "program"
    file.parent.mkdir()
    file.write_text("v1")
    fetch = f"fetch file://{file} {sha256(file.read_bytes())} $R/bin/program"
    machine.done(fetch)
    machine.done(f"{change} $R/bin/program; hold $R/bin/program\n{fetch}")
    assert (machine.root / "bin" / "program").readlink() == file


@pytest.mark.parametrize("where", ["http", "file"])
@pytest.mark.parametrize("checksum", [sha256(b"genuine"), "published"])
def test_an_artifact_with_a_wrong_checksum_is_never_put_in_its_place(
    machine: Machine, upstream: str, tmp_path: Path, where: str, checksum: str
) -> None:
    url = f"{upstream}/forged" if where == "http" else f"file://{tmp_path}/upstream/forged"
    result = machine.step(f"fetch {url} {checksum} $R/bin/program")
    assert result.returncode != 0
    assert f"{url} has the sha256 {sha256(b'forged')}, expected {sha256(b'genuine')}" in result.stderr
    assert not (machine.root / "bin" / "program").exists()
    assert not list(machine.hardway.rglob("forged")), "a forged file must not be taken for the cached one next time"
    if where == "file":
        assert (tmp_path / "upstream" / "forged").exists(), "the mirror is not ours to clean"


def test_missing_artifact_is_reported_with_its_url(machine: Machine, upstream: str) -> None:
    result = machine.step(f"fetch {upstream}/gone {sha256(b'')} $R/bin/program")
    assert result.returncode != 0
    assert f"cannot get {upstream}/gone" in result.stderr
    result = machine.step(f"fetch {upstream}/gone published $R/bin/program")
    assert f"no checksum at {upstream}/gone.sha256" in result.stderr
    result = machine.step(f"fetch file:///nowhere/gone {sha256(b'')} $R/bin/program")
    assert "/nowhere/gone is not there: fill the mirror with './hardway setup'" in result.stderr


def test_members_of_an_archive_appear_by_their_names(machine: Machine, upstream: str, archive: bytes) -> None:
    machine.done(f"fetch {upstream}/tool.tar.gz {sha256(archive)} $R/bin bin/tool bin/other")
    for name in ("tool", "other"):
        assert (machine.root / "bin" / name).read_text() == "run\n"
        assert os.access(machine.root / "bin" / name, os.X_OK)
    machine.done(f"fetch {upstream}/tool.tar.gz {sha256(archive)} $R/bin bin/tool")
    assert not (machine.root / "bin" / "other").exists()


def test_an_archive_without_the_member_is_reported(machine: Machine, upstream: str, archive: bytes) -> None:
    result = machine.step(f"fetch {upstream}/tool.tar.gz {sha256(archive)} $R/bin bin/absent")
    assert result.returncode != 0
    assert "bin/absent is not in its archive" in result.stderr


def test_an_archive_whose_unpacking_was_killed_is_unpacked_again(
    machine: Machine, upstream: str, archive: bytes
) -> None:
    unpacked = machine.hardway / "artifacts" / sha256(archive) / "unpacked" / "bin"
    unpacked.mkdir(parents=True)
    (unpacked / "tool").write_text("half")
    machine.done(f"fetch {upstream}/tool.tar.gz {sha256(archive)} $R/bin bin/tool")
    assert (machine.root / "bin" / "tool").read_text() == "run\n"


def test_members_that_the_mirror_has_unpacked_are_copied_and_checked(
    machine: Machine, tmp_path: Path, archive: bytes
) -> None:
    mirror = tmp_path / "mirror"
    unpacked = mirror / "unpacked" / "tool.tar.gz" / "bin"
    unpacked.mkdir(parents=True)
    (mirror / "tool.tar.gz").write_bytes(archive)
    (unpacked / "tool").write_text("as it was unpacked\n")
    (unpacked / "tool").chmod(0o755)
    wanted = sha256(b"as it was unpacked\n")
    fetch = f"fetch file://{mirror}/tool.tar.gz {sha256(archive)} $R/bin bin/tool"
    script = f"MIRROR={mirror}\nhas_member {sha256(archive)} bin/tool {wanted}\n{fetch}"
    # What a killed unpacking has left.
    copy = machine.hardway / "artifacts" / sha256(archive) / "unpacked" / "bin" / "tool"
    copy.parent.mkdir(parents=True)
    copy.write_text("half")
    for _ in range(2):
        machine.done(script)
        assert (machine.root / "bin" / "tool").read_text() == "as it was unpacked\n"
        assert os.access(machine.root / "bin" / "tool", os.X_OK)
    assert not copy.is_symlink()
    # Nothing of the archive is used: it is not read.
    (mirror / "tool.tar.gz").write_text("damaged")
    machine.done(script)
    result = machine.step(f"{script} bin/other")
    assert f"tool.tar.gz has the sha256 {sha256(b'damaged')}, expected {sha256(archive)}" in result.stderr
    (mirror / "tool.tar.gz").write_bytes(archive)
    # Another one that the program does not know comes from the archive, and so does this one where it is not there.
    machine.done(f"{script} bin/other")
    assert (machine.root / "bin" / "other").read_text() == "run\n"

    shutil.rmtree(machine.hardway / "artifacts")
    (unpacked / "tool").write_text("forged\n")
    result = machine.step(script)
    assert result.returncode != 0
    assert f"{unpacked}/tool has the sha256 {sha256(b'forged' + bytes([10]))}, expected {wanted}" in result.stderr
    assert not copy.exists()
    (unpacked / "tool").unlink()
    machine.done(script)
    assert (machine.root / "bin" / "tool").read_text() == "run\n"


# Dies like a machine that lost its power, at the given number of commands after the step began.
DIE = "set -T\nleft={left}\ntrap '((left-- > 0)) || kill -9 $$ $BASHPID' DEBUG\n"


@pytest.mark.parametrize("left", range(3, 440, 19))
def test_a_step_that_was_killed_anywhere_is_finished_by_the_next_and_undone_to_the_last_byte(
    machine: Machine, left: int
) -> None:
    theirs = machine.root / "theirs.conf"
    theirs.write_bytes(b"theirs, no line feed")
    theirs.chmod(0o640)
    (machine.root / "stays").mkdir()
    before = machine.picture()
    first = "\n".join([here("old/a.txt", "1"), here("theirs.conf", "v1"), here("stays/k", "2"), unit("[Service]\n#1")])
    second = "\n".join(
        [here("new/deep/b.txt", "1"), here("theirs.conf", "v2"), unit("[Service]\n#2", "$R/theirs.conf")]
    )
    machine.done(first)
    machine.restarts()
    killed = machine.bash(f"begin unit\n{second}\nfinish", before=DIE.replace("{left}", str(left)))
    assert killed.returncode in (-signal.SIGKILL, 0)
    machine.done(second)
    assert theirs.read_text() == "v2\n"
    assert (machine.root / "new/deep/b.txt").read_text() == "1\n"
    assert not (machine.root / "old").exists()
    assert "a.service" in machine.restarts(), "what was written by the killed run is started from by the next"
    machine.undo()
    assert machine.picture() == before


@pytest.mark.parametrize("left", range(2, 60, 6))
def test_an_undo_that_was_killed_anywhere_is_finished_by_the_next(machine: Machine, left: int) -> None:
    theirs = machine.root / "theirs.conf"
    theirs.write_text("theirs")
    before = machine.picture()
    machine.done("\n".join([here("a/b.txt", "1"), here("theirs.conf", "ours"), unit("[Service]")]))
    machine.bash("undo unit", before=DIE.replace("{left}", str(left)))
    machine.undo()
    assert machine.picture() == before


WRONG = [
    "data /",
    "data /var/lib",
    "data /var/lib/kube",
    "data /home/jane",
    "data /var/lib/etcd/../../../home/jane",
    "data relative",
    "emptied:755:0:0 /var",
    "file /etc/passwd",
    "file /etc/kubernetes/../passwd",
    "file /root/.ssh/authorized_keys",
    "directory /home/jane",
]


@pytest.mark.parametrize("line", WRONG)
@pytest.mark.parametrize("verb", ["undo unit", "begin unit\nfinish"])
def test_a_path_that_no_step_owns_is_refused_before_anything_is_removed(machine: Machine, line: str, verb: str) -> None:
    """A manifest that was damaged: `rm -rf` of what stands in it."""
    machine.done(here("a.txt", "ours"))
    manifest = machine.hardway / "steps" / "unit" / "manifest"
    before = manifest.read_text()
    manifest.write_text(f"{line}\n{before}")
    # Whatever is removed is only noted.
    noted = f'rm() {{ echo "$@" >>{machine.log}; }}\nrmdir() {{ rm "$@"; }}'
    refused = machine.bash(verb, before=noted)
    assert refused.returncode == 1
    assert f"has paths that no step of a lab owns, and nothing was changed: {line}" in refused.stderr
    assert (machine.root / "a.txt").exists() and not machine.log.exists()
    manifest.write_text(before)
    machine.undo()


@pytest.mark.parametrize("kept", [0, 1, len("data /va"), len("data /var/lib"), len("data /var/lib/etcd")])
def test_incomplete_manifest_line_is_ignored(machine: Machine, kept: int) -> None:
    """The disk was full, or a kill came, while the line was noted: nothing was done for it yet."""
    machine.done(here("a.txt", "ours"))
    manifest = machine.hardway / "steps" / "unit" / "manifest"
    before = manifest.read_text()
    manifest.write_text(before + "data /var/lib/etcd"[:kept])
    noted = f'rm() {{ case $* in *var*) echo "$@" >>{machine.log} ;; *) command rm "$@" ;; esac; }}'
    again = machine.bash(f"begin unit\n{here('a.txt', 'ours')}\n{here('b.txt', 'ours')}\nfinish", before=noted)
    assert again.returncode == 0, again.stderr
    assert manifest.read_text() == f"{before}file {machine.root}/b.txt\n"
    manifest.write_text(before + "data /var/lib/etcd"[:kept])
    assert machine.bash("undo unit", before=noted).returncode == 0
    assert not machine.log.exists() or "var" not in machine.log.read_text()


def test_a_step_cannot_own_what_it_could_not_remove(machine: Machine) -> None:
    for verb in ("file /home/jane/x 0644 root </dev/null", "data /home/jane"):
        refused = machine.step(verb)
        assert refused.returncode == 1 and "a step may not own /home/jane" in refused.stderr


def on_a_full_disk(machine: Machine, script: str, *, room: str) -> subprocess.CompletedProcess[str]:
    """Run a script while the state directory or the root, as `room` says, is on a file system without room."""
    at = machine.hardway if room == "hardway" else machine.root
    file = machine.root.with_name("script")
    file.write_text(f". {REPLACE}\n. {LIBRARY}\n{SCRATCH}\n{script}\n")
    disk = [
        f"cp -a {at} {at}.copy && mount -t tmpfs -o size=128k none {at} && cp -a {at}.copy/. {at}",
        f"dd if=/dev/zero of={at}/.full bs=4k status=none 2>/dev/null || true",
        f"bash {file} && echo done",
        f"rm {at}/.full; rm -rf {at}.copy; cp -a {at} {at}.copy",
    ]
    result = subprocess.run(
        ["unshare", "-m", "bash", "-c", "\n".join(disk)],
        env=machine.environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    shutil.rmtree(at)
    at.with_name(f"{at.name}.copy").rename(at)
    return result


@pytest.mark.parametrize("room", ["root", "hardway"])
def test_full_disk_loses_no_existing_file(machine: Machine, room: str) -> None:
    theirs = machine.root / "theirs.conf"
    theirs.write_text("theirs\n" * 3000)
    (machine.root / "other.conf").write_text("theirs, too")
    before = machine.picture()
    machine.done(here("theirs.conf", "v1"))
    step = f"begin unit\n{here('theirs.conf', 'v2')}\n{here('other.conf', 'ours')}\nfinish"
    full = on_a_full_disk(machine, step, room=room)
    assert "No space left on device" in full.stderr and "done" not in full.stdout
    assert theirs.read_text() in ("v1\n", "v2\n")
    assert (machine.root / "other.conf").read_text() == "theirs, too"
    machine.done("\n".join([here("theirs.conf", "v2"), here("other.conf", "ours")]))
    full = on_a_full_disk(machine, "undo unit", room=room)
    assert theirs.exists() and (machine.root / "other.conf").exists()
    machine.undo()
    assert machine.picture() == before


def test_a_symbolic_link_to_data_is_not_followed(machine: Machine) -> None:
    """The user has moved the directory to another disk."""
    (machine.root / "disk").mkdir(mode=0o711)
    (machine.root / "data").symlink_to("disk")
    machine.done("data $R/data")
    (machine.root / "disk" / "db").write_text("precious")
    (machine.root / "disk").chmod(0o700)
    undone = machine.bash("undo unit")
    assert undone.returncode == 0 and "is a symbolic link" in undone.stderr
    assert (machine.root / "disk" / "db").read_text() == "precious"
    assert stat.S_IMODE((machine.root / "disk").stat().st_mode) == 0o700


def test_two_runs_of_a_step_do_not_run_at_the_same_time(machine: Machine) -> None:
    script = "begin unit\n[ ! -e $R/busy ] || echo together >>$R/clash\ntouch $R/busy; sleep 0.3; rm $R/busy\nfinish"
    runs = [threading.Thread(target=machine.bash, args=(script,)) for _ in range(3)]
    for run in runs:
        run.start()
    for run in runs:
        run.join()
    assert not (machine.root / "clash").exists()


def test_a_unit_that_no_step_started_can_be_waited_for(machine: Machine) -> None:
    """`./hardway restore` starts units by itself, and waits for them with the library."""
    done = machine.bash(
        "declare -gA ready_check=() ready_seconds=() ready_what=()\n"
        "ready etcd.service 1 'a healthy member' false\nserving etcd.service"
    )
    assert done.returncode == 1
    assert "a healthy member not seen within 1 s" in done.stderr, done.stderr
    assert "syntax error" not in done.stderr


def test_a_query_is_answered_once_it_succeeds_and_what_failed_tries_printed_is_no_part_of_it(machine: Machine) -> None:
    (machine.root / "tries").write_text("")
    query = 'query() { echo x >>"$R/tries"; echo half; [ "$(wc -l <"$R/tries")" -ge 3 ] && echo all; }'
    done = machine.bash(f"{query}\nsaid=$(answer_of 30 'the list' query) || exit 1\necho \"<$said>\"")
    assert (done.returncode, done.stdout) == (0, "<half\nall>\n"), done.stderr


def test_a_query_that_never_succeeds_ends_the_script(machine: Machine) -> None:
    """A list that could not be had was read as an empty one."""
    done = machine.bash(
        "query() { echo 'connection refused' >&2; return 1; }\n"
        "said=$(answer_of 0 'the list of Nodes' query) || exit 1\necho went on"
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert "the list of Nodes cannot be had" in done.stderr
    assert "connection refused" in done.stderr


def program(machine: Machine, name: str, text: str) -> None:
    """A program that a script finds before that of the host."""
    file = machine.root.parent / "bin" / name
    file.write_text(f"#!/bin/bash\n{text}\n")
    file.chmod(0o755)


@pytest.mark.parametrize(
    ("says", "status", "answer"),
    [
        ("curl install ok installed ", 0, "yes"),
        ("curl deinstall ok config-files ", 0, "no"),
        ("libcurl install ok installed ", 1, "no"),
        ("", 1, "no"),
        ("", 2, ""),
    ],
)
def test_a_package_is_missing_only_where_dpkg_says_so(machine: Machine, says: str, status: int, answer: str) -> None:
    """A package of the host's that was noted as the lab's, since dpkg could not be asked: an undo removed it."""
    program(machine, "dpkg-query", f"echo '{says}'; exit {status}")
    done = machine.bash("if installed curl; then echo yes; else echo no; fi")
    assert done.stdout.strip() == answer
    assert (done.returncode == 0) == bool(answer)
    assert answer or "does not tell whether curl is installed" in done.stderr


@pytest.mark.parametrize(
    ("group", "owner", "options"),
    [(2, 0, ""), (0, 0, "--gid etcd "), (0, 998, "--gid etcd --uid 998 ")],
    ids=["new", "its group is left", "its group and its data are left"],
)
def test_a_user_that_was_removed_gets_its_files_again(machine: Machine, group: int, owner: int, options: str) -> None:
    """useradd failed since the group was there, or chose another number than the data's owner has."""
    program(machine, "id", "exit 1")
    program(machine, "stat", f"echo {owner}")
    program(machine, "getent", f"[ $1 = group ] && exit {group}; exit 2")
    program(machine, "useradd", 'echo "useradd $*"')
    said = machine.step('user etcd "$R"')
    assert said.stdout.strip() == (
        f"useradd --system {options}--home-dir {machine.root} --no-create-home --shell /usr/sbin/nologin etcd"
    )


def test_a_package_that_was_only_not_configured_needs_no_source(machine: Machine) -> None:
    """A machine without a package source, on which dpkg was killed."""
    program(
        machine,
        "dpkg-query",
        """if [ -e "$R/done" ]; then echo 'curl install ok installed '; else echo 'curl install ok unpacked '; fi""",
    )
    program(machine, "dpkg", ': >"$R/done"')
    program(machine, "apt-get", 'echo "$*" >>"$R/apt"; exit 1')
    machine.done("packages curl")
    assert not (machine.root / "apt").exists()


@pytest.mark.parametrize(
    ("simulated", "status", "removed_by"),
    [("Purg socat [1]", 0, "apt-get"), ("Purg socat [1]\nRemv theirs [2]", 0, "dpkg"), ("", 100, "dpkg")],
    ids=["ours alone", "somebody else's needs it", "cannot be simulated"],
)
def test_apt_removes_packages_only_where_it_has_said_which(
    machine: Machine, simulated: str, status: int, removed_by: str
) -> None:
    """Where the simulation failed, apt removed whatever needs the package."""
    program(machine, "dpkg-query", "echo 'socat install ok installed '")
    program(machine, "dpkg", 'echo "dpkg $*" >>"$R/removed"')
    program(
        machine,
        "apt-get",
        f'case "$*" in *" -s "*) echo "{simulated}"; exit {status} ;; esac\necho "apt-get $*" >>"$R/removed"',
    )
    done = machine.bash("step=$R\npurge socat")
    assert done.returncode == 0, done.stderr
    (line,) = (machine.root / "removed").read_text().splitlines()
    assert line.split()[0] == removed_by


def test_an_undo_removes_the_mask_of_a_restore_that_did_not_finish(machine: Machine) -> None:
    """A mask that stays on an existing host would keep the next lab's etcd from starting."""
    machine.done(unit("[Service]"))
    mask = machine.root / "units.control" / "a.service"
    mask.parent.mkdir()
    mask.symlink_to("/dev/null")
    machine.undo()
    assert not mask.parent.exists()


NFT_TABLE = "table ip filter {\n  chain INPUT {\n    type filter hook input priority 0; policy accept;\n  }\n}"


@pytest.mark.parametrize(
    ("listed", "status", "deleted"),
    [(NFT_TABLE, 0, True), (NFT_TABLE.replace("  }\n}", "    drop\n  }\n}"), 0, False), ("", 1, False)],
    ids=["empty", "with a rule", "cannot be listed"],
)
def test_a_table_that_cannot_be_listed_is_not_empty(machine: Machine, listed: str, status: int, deleted: bool) -> None:
    """The host's own rules were deleted with a table whose list had failed."""
    # More than a pipe holds after it: a reader that ends at its first match made the list fail.
    (machine.root / "listed").write_text(listed + "\n" + "  chain filler {\n  }\n" * 3000)
    program(
        machine,
        "nft",
        f"""case "$1 $2" in
  "list tables") echo 'table ip filter' ;;
  "list table") cat "$R/listed"; exit {status} ;;
  *) echo "$*" >>"$R/deleted" ;;
esac""",
    )
    verbs = LIBRARY.with_name("worker.sh")
    done = machine.bash(f". {verbs}\ndrop_empty_tables")
    assert done.returncode == 0, done.stderr
    assert (machine.root / "deleted").exists() == deleted


@pytest.mark.parametrize("fails", [1, 10**6], ids=["once", "for ever"])
def test_nodes_that_cannot_be_listed_are_no_empty_list(machine: Machine, fails: int) -> None:
    """A worker that left the lab was not drained: the machine went under its pods."""
    program(
        machine,
        "kubectl",
        'echo "$*" >>"$R/asked"\n'
        'case "$*" in *" get nodes "*) ;; *) exit 0 ;; esac\n'
        f'[ "$(grep -c " get nodes " "$R/asked")" -gt {fails} ] || {{ echo "connection refused" >&2; exit 1; }}\n'
        'echo "worker-0 True"; echo "worker-1 True"',
    )
    verbs = LIBRARY.with_name("nodes.sh")
    done = machine.bash(f"sleep() {{ SECONDS=$((SECONDS + 10)); }}\n. {verbs}\nonly_nodes worker-0")
    asked = (machine.root / "asked").read_text()
    assert (done.returncode == 0) == (fails == 1)
    assert (" drain worker-1 " in asked) == (fails == 1)
    assert (" delete node worker-1" in asked) == (fails == 1)
    assert fails == 1 or "the list of the lab's Nodes cannot be had" in done.stderr


@pytest.mark.parametrize(
    ("active", "answer", "stopped"),
    [(True, "404", True), (True, "200", False), (True, "000", False), (False, "404", False)],
    ids=["no Node", "a Node", "no answer", "not running"],
)
def test_a_kubelet_without_a_node_is_started_again(machine: Machine, active: bool, answer: str, stopped: bool) -> None:
    """A kubelet registers only when it starts: a restart creates its deleted Node again."""
    program(
        machine,
        "systemctl",
        f"""case "$*" in
  "-q is-active kubelet.service") {"exit 0" if active else "exit 3"} ;;
  "stop kubelet.service") touch "$R/stopped" ;;
esac""",
    )
    # With -f, an answer of 400 or more is a failure.
    program(machine, "curl", f'[ "${{*: -2}}" != "-w %{{http_code}}" ] || printf {answer}; [ {answer} = 200 ]')
    done = machine.bash(f". {LIBRARY.with_name('worker.sh')}\nregister_again curl -sf https://api/node")
    assert done.returncode == 0, done.stderr
    assert (machine.root / "stopped").exists() == stopped


CREATED, UPDATED = "succeeded unit on worker-0", "succeeded unit on worker-0, updated"
LEAVES = "last_owner unit || exit 0\nundo unit"


def run(machine: Machine, end: str) -> None:
    """The step, created or updated by its resource."""
    done = machine.bash(f"begin unit\n{here('conf', '1')}\nfinish\n{end}")
    assert done.returncode == 0, done.stderr


def deleted(machine: Machine, script: str = LEAVES) -> bool:
    """Whether the deletion of a resource has undone the step."""
    done = machine.bash(script)
    assert done.returncode == 0, done.stderr
    gone = not (machine.root / "conf").exists()
    assert gone != ("has another resource in the state: nothing was removed" in done.stdout)
    return gone


def test_a_step_is_undone_with_the_last_of_its_resources(machine: Machine) -> None:
    """`pulumi up --replace`: the new resource is created, and then the old one is deleted."""
    run(machine, CREATED)
    run(machine, UPDATED)
    run(machine, CREATED)
    assert not deleted(machine)
    run(machine, UPDATED)
    assert deleted(machine)
    run(machine, CREATED)
    assert deleted(machine)


def test_failed_creation_is_not_counted(machine: Machine) -> None:
    run(machine, CREATED)
    assert machine.bash(f"begin unit\n{here('conf', '1')}\nfinish\nfalse\n{CREATED}").returncode != 0
    assert deleted(machine)


@pytest.mark.parametrize("by", ["bash", "sudo -n bash"])
def test_unreported_creation_is_not_counted(machine: Machine, by: str) -> None:
    """Pulumi was killed, and its connection was closed, while the script went on."""
    program(machine, "sudo", 'shift; "$@"')
    script, go_on = machine.root / "script", machine.root / "go-on"
    os.mkfifo(go_on)
    waits = "touch $R/begun\nread -r _ <$R/go-on"
    script.write_text(
        f". {LIBRARY}\n{SCRATCH}\nbegin unit\n{here('conf', '1')}\nfinish\n{waits}\n{CREATED}\ntouch $R/ended\n"
    )
    parent = subprocess.Popen(
        ["bash", "-c", f"{by} {script} & wait"], env=machine.environment, stdin=subprocess.DEVNULL
    )
    eventually("the step begins", (machine.root / "begun").exists, seconds=60, pause=0.05)
    parent.kill()
    parent.wait()
    go_on.write_text("\n")
    eventually("the step ends", (machine.root / "ended").exists, seconds=60, pause=0.05)
    run(machine, CREATED)
    assert deleted(machine)


@pytest.mark.parametrize("updated", [False, True])
def test_a_step_of_an_earlier_version_has_one_owner(machine: Machine, updated: bool) -> None:
    machine.done(here("conf", "1"))
    (machine.hardway / "steps/unit/owners").unlink()
    if updated:
        run(machine, UPDATED)
    run(machine, CREATED)
    assert not deleted(machine)
    assert deleted(machine)


def test_the_deletion_that_an_earlier_version_has_left_in_the_state_counts_too(machine: Machine) -> None:
    run(machine, CREATED)
    run(machine, CREATED)
    assert not deleted(machine, "undo unit")
    assert deleted(machine, "undo unit")


def test_host_without_the_lab_has_no_files_of_it(machine: Machine) -> None:
    run(machine, CREATED)
    run(machine, CREATED)
    assert deleted(machine, "sole_owner=yes\nundo unit")


class Server(threading.Thread):
    """Accepts connections on a port of its own, and keeps them or, as a balancer without a server, closes them."""

    def __init__(self, *, keeps: bool) -> None:
        super().__init__(daemon=True)
        self._keeps, self._kept = keeps, list[socket.socket]()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]

    def run(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            if self._keeps:
                self._kept.append(connection)
            else:
                connection.close()

    def __enter__(self) -> "Server":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        # Wakes the thread, which waits in accept.
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for connection in self._kept:
            connection.close()


@pytest.mark.parametrize(("keeps", "status"), [(True, 0), (False, 1)])
def test_a_balancer_without_a_server_keeps_no_connection(machine: Machine, keeps: bool, status: int) -> None:
    with Server(keeps=keeps) as server:
        assert machine.bash(f"keeps_connection 127.0.0.1 {server.port}").returncode == status


def test_a_port_where_nothing_listens_keeps_no_connection(machine: Machine) -> None:
    with Server(keeps=True) as server:
        port = server.port
    result = machine.bash(f"keeps_connection 127.0.0.1 {port} || echo none")
    assert (result.returncode, result.stdout, result.stderr) == (0, "none\n", "")


CURL = "curl() { echo asked >&2; [ -e $R/ready ]; }\n"


def test_the_first_run_of_a_step_waits_for_the_api(machine: Machine) -> None:
    (machine.root / "ready").touch()
    with Server(keeps=True) as server:
        result = machine.bash(f"{CURL}begin unit\nawait_api https://127.0.0.1:{server.port} ca\nfinish\nsucceeded")
    assert result.returncode == 0, result.stderr


def test_a_later_run_asks_no_api(machine: Machine) -> None:
    machine.done("")
    assert machine.bash("begin unit\nfinish\nsucceeded").returncode == 0
    result = machine.bash(f"{CURL}begin unit\nawait_api https://127.0.0.1:1 ca\nfinish\nsucceeded updated")
    assert (result.returncode, result.stderr) == (0, "")


@pytest.mark.parametrize("keeps", [True, False])
def test_an_api_that_is_not_ready_in_time_is_reported(machine: Machine, keeps: bool) -> None:
    with Server(keeps=keeps) as server:
        url = f"https://127.0.0.1:{server.port}"
        hours = "nap() { SECONDS=$((SECONDS + 3600)); }\n"
        result = machine.bash(f"{CURL}{hours}begin unit\nawait_api {url} ca")
    assert result.returncode == 1
    assert f"the API at {url} was not ready within 120 s" in result.stderr and "asked" in result.stderr


ANSWERS = 'curl() { printf "%s\\n" "$*" >>$R/asked; }\n'


def test_what_takes_processors_from_a_starting_api_server_waits_until_it_answers(machine: Machine) -> None:
    with socket.create_server(("127.0.0.1", 0)) as found:
        port = found.getsockname()[1]
    notes = "nap() { echo waited >>$R/naps; sleep 0.1; }\n"
    script = f"{ANSWERS}{notes}begin images\nafter_api_server 127.0.0.1:{port}\necho imported\nfinish\nsucceeded"
    with ThreadPoolExecutor(1) as threads:
        run = threads.submit(machine.bash, script)
        eventually("the step waits", (machine.root / "naps").exists, seconds=20)
        assert not (machine.root / "asked").exists() and not run.done()
        with socket.create_server(("127.0.0.1", port)):
            result = run.result(timeout=30)
    assert (result.returncode, result.stdout) == (0, "imported\n"), result.stderr
    asked = (machine.root / "asked").read_text().splitlines()
    assert len(asked) == 1 and asked[0].endswith(f"https://127.0.0.1:{port}/livez")


def test_it_does_not_wait_for_an_api_server_that_never_listens(machine: Machine) -> None:
    half_a_minute = "nap() { echo waited >>$R/naps; SECONDS=$((SECONDS + 31)); }\n"
    result = machine.bash(
        f"{ANSWERS}{half_a_minute}begin images\nafter_api_server 127.0.0.1:1\necho imported\nfinish\nsucceeded"
    )
    assert (result.returncode, result.stdout) == (0, "imported\n"), result.stderr
    assert (machine.root / "naps").read_text() == "waited\n"
    assert not (machine.root / "asked").exists()


def test_an_api_server_that_listens_and_does_not_answer_stops_nothing(machine: Machine) -> None:
    with Server(keeps=True) as server:
        result = machine.bash(
            f"curl() {{ return 28; }}\nbegin images\nafter_api_server 127.0.0.1:{server.port}\necho imported\nfinish"
        )
    assert (result.returncode, result.stdout) == (0, "imported\n"), result.stderr


def test_a_later_run_does_not_wait_for_an_api_server(machine: Machine) -> None:
    assert machine.bash("begin images\nfinish\nsucceeded").returncode == 0
    fails = "nap() { die waited; }\n"
    result = machine.bash(f"{ANSWERS}{fails}begin images\nafter_api_server 127.0.0.1:1\nfinish\nsucceeded updated")
    assert (result.returncode, result.stderr) == (0, "")
