"""The scripts that let the lab into an existing host and out again, run by a real bash on scratch directories."""

import os
import signal
import subprocess
from pathlib import Path

import asyncssh
import pytest

from components.substrates.existing import entry, free

STACK, MACHINE = "entry", "node-0"
MARK = f"{STACK} SHA256:{'a' * 43} {MACHINE}"
ANOTHER = f"other SHA256:{'b' * 43} node-7"
CUT_SHORT = MARK[:-1]
DAMAGED = ["", "entry", MARK[:20], CUT_SHORT, f"{MARK}\nmore", "\0" * 60, f"{STACK} {MACHINE}"]
LINE = "ssh-ed25519 AAAA hardway-entry"
THEIRS = "# two keys\nssh-ed25519 AAAB jane@desk\nssh-rsa AAAC jane@home, and no line feed"
# Users that every Debian has; their homes are below the scratch directory.
USER, OTHER = "root", "nobody"
PROGRAMS = {
    "getent": 'user=${2:-root}; echo "$user:x:0:0::$SCRATCH/home/$user:/bin/bash"',
    "visudo": ":",
    "systemctl": ":",
}
DIE = "set -T\nleft={left}\ntrap '((left-- > 0)) || kill -9 $$ $BASHPID' DEBUG\n"
LOOK, ENTER, SETTLE = (entry.LEAVE.with_name(name) for name in ("look.sh", "enter.sh", "settle.sh"))


class Scratch:
    """A host's files below a scratch directory."""

    def __init__(self, directory: Path) -> None:
        self.root = directory
        self.lab, self.sudoers = directory / "hardway", directory / "sudoers.d"
        self.mark = self.lab / "lab"
        for user in (USER, OTHER):
            self.keys(user).parent.mkdir(parents=True)
            self.keys(user).write_text(THEIRS)
        self.sudoers.mkdir()
        (directory / "bin").mkdir()
        for name, text in PROGRAMS.items():
            (directory / "bin" / name).write_text(f"#!/bin/bash\n{text}\n")
            (directory / "bin" / name).chmod(0o755)

    def keys(self, user: str = USER) -> Path:
        return self.root / "home" / user / ".ssh" / "authorized_keys"

    def run(
        self,
        script: Path,
        user: str = USER,
        *,
        mark: str = MARK,
        freed: bool = False,
        kill: int | None = None,
        before: str = ":",
        line: str = LINE,
        former: str = "",
        comment: str = "",
    ) -> subprocess.CompletedProcess[str]:
        text = entry.rendered(
            script, user=user, stack=STACK, mark=mark, line=line, freed=freed, former=former, comment=comment
        )
        text = text.replace("/var/lib/hardway", str(self.lab)).replace("/etc/sudoers.d", str(self.sudoers))
        dies = "" if kill is None else DIE.format(left=kill)
        file = self.root / "script"
        file.write_text(f"{before}\n{dies}{text}")
        return subprocess.run(
            ["unshare", "-m", "bash", str(file)],
            env={"PATH": f"{self.root}/bin:{os.environ['PATH']}", "SCRATCH": str(self.root), "LC_ALL": "C"},
            capture_output=True,
            text=True,
            check=False,
            timeout=30,
        )

    def done(self, script: Path, user: str = USER) -> None:
        result = self.run(script, user)
        assert result.returncode == 0, result.stderr

    def traces(self) -> list[str]:
        """All files but the scratch host's own."""
        return sorted(
            str(path.relative_to(self.root))
            for path in self.root.rglob("*")
            if path.is_file() and path.parent != self.root / "bin" and path.name not in ("script", "authorized_keys")
        )

    def is_as_before(self) -> bool:
        return self.traces() == [] and all(self.keys(user).read_text() == THEIRS for user in (USER, OTHER))


@pytest.fixture
def host(tmp_path: Path) -> Scratch:
    return Scratch(tmp_path)


@pytest.mark.parametrize("user", [USER, OTHER])
def test_a_host_is_entered_and_left_and_is_as_before(host: Scratch, user: str) -> None:
    for _ in range(2):
        host.done(ENTER, user)
        assert host.keys(user).read_text() == f"{LINE}\n{THEIRS}"
        assert host.mark.read_text() == f"{MARK}\n"
    assert (host.sudoers / f"zzz-hardway-{STACK}").exists() == (user != USER)
    host.done(entry.LEAVE, user)
    assert host.is_as_before()


def test_a_rotated_key_replaces_the_one_before_and_goes_with_the_lab(host: Scratch) -> None:
    """A stage that leaves a key there, that removes the user's, or keys that stay when the lab is gone."""
    comment = f"hardway-{STACK}:{MARK.split()[1]}"
    old, new = (f"ssh-ed25519 {key} {comment}" for key in ("AAAA", "BBBB"))
    host.done(ENTER)
    for lines in (f"{old}\n{new}", f"{new}\n{old}", new):
        for _ in range(2):
            result = host.run(ENTER, line=lines, former=LINE, comment=comment)
            assert result.returncode == 0, result.stderr
            assert host.keys().read_text() == f"{lines}\n{THEIRS}"
            assert host.mark.read_text() == f"{MARK}\n"
    # What a state from before the last stage has.
    assert host.run(entry.LEAVE, line=f"{new}\n{old}", former=LINE, comment=comment).returncode == 0
    assert host.is_as_before()


@pytest.mark.parametrize("start", [0, 9])
def test_a_kill_at_any_command_empties_no_file_of_the_user(host: Scratch, start: int) -> None:
    for script, undo in ((ENTER, None), (entry.LEAVE, ENTER)):
        for left in range(start, 400, 18):
            if undo is not None:
                host.done(undo, OTHER)
            killed = host.run(script, OTHER, kill=left)
            assert killed.returncode in (0, -signal.SIGKILL), killed.stderr
            assert host.keys(OTHER).read_text() in (THEIRS, f"{LINE}\n{THEIRS}")
            for file in (host.mark, host.sudoers / f"zzz-hardway-{STACK}"):
                assert not file.exists() or file.read_text().endswith("\n"), "half a file"
            if script == ENTER:
                host.done(ENTER, OTHER)
                assert host.keys(OTHER).read_text() == f"{LINE}\n{THEIRS}"
            host.done(entry.LEAVE, OTHER)
            assert host.is_as_before()
            if killed.returncode == 0:
                break
        else:
            pytest.fail("no run ended by itself")


@pytest.mark.parametrize("full", ["home", "hardway", "sudoers.d"])
@pytest.mark.parametrize("script", [ENTER, entry.LEAVE])
def test_a_full_disk_empties_no_file_of_the_user(host: Scratch, full: str, script: Path) -> None:
    user = OTHER
    host.lab.mkdir()
    if script == entry.LEAVE:
        host.done(ENTER, user)
    there = host.keys(user).read_text()
    disk = host.root / full
    before = "\n".join(
        [
            f"cp -a {disk} {disk}.copy && mount -t tmpfs -o size=64k none {disk} && cp -a {disk}.copy/. {disk}",
            f"dd if=/dev/zero of={disk}/.full bs=4k status=none 2>/dev/null || true",
            f"trap 'cat {host.keys(user)}; cat {host.mark} 2>/dev/null | sed \"s/^/mark /\"' EXIT",
        ]
    )
    result = host.run(script, user, before=before)
    # The mark, too, is there as a whole or not at all.
    keys, _, mark = result.stdout.partition("mark ")
    assert mark in ("", f"{MARK}\n")
    if (script, full) in ((ENTER, "home"), (ENTER, "hardway"), (ENTER, "sudoers.d"), (entry.LEAVE, "home")):
        assert result.returncode != 0 and "No space left on device" in result.stderr
    if full == "home" or (script, full) == (ENTER, "hardway"):
        assert keys == there
    else:
        assert keys in (THEIRS, f"{LINE}\n{THEIRS}")


@pytest.mark.parametrize("damaged", [*DAMAGED, None])
def test_a_damaged_mark_is_an_error_and_the_key_and_the_sudo_rule_go(host: Scratch, damaged: str | None) -> None:
    host.done(ENTER, OTHER)
    if damaged is None:
        host.mark.unlink()
    else:
        host.mark.write_text(damaged)
    left = host.run(entry.LEAVE, OTHER)
    assert left.returncode == 1
    assert f"the mark {host.mark}, which names the lab of the host, is damaged" in left.stderr
    assert f"The key and the sudo rule of the lab {STACK} were removed" in left.stderr
    assert host.is_as_before()
    host.done(entry.LEAVE, OTHER)


@pytest.mark.parametrize("damaged", [*DAMAGED, None])
def test_steps_below_a_damaged_mark_stay_until_it_is_written_again(host: Scratch, damaged: str | None) -> None:
    host.done(ENTER, OTHER)
    step = host.lab / "steps" / "etcd"
    step.mkdir(parents=True)
    (step / "manifest").write_text("")
    if damaged is None:
        host.mark.unlink()
    else:
        host.mark.write_text(damaged)
    for _ in range(2):
        left = host.run(entry.LEAVE, OTHER)
        assert left.returncode == 1
        assert "These steps were not undone: etcd." in left.stderr
        assert f"echo '{MARK}' >{host.mark}" in left.stderr
        assert host.keys(OTHER).read_text() == THEIRS
        assert step.exists() and not list(host.sudoers.iterdir())
    host.mark.write_text(f"{MARK}\n")
    host.done(entry.LEAVE, OTHER)
    assert host.is_as_before() and not host.lab.exists()


@pytest.mark.parametrize("mark", [*DAMAGED, ANOTHER])
@pytest.mark.parametrize("script", [LOOK, ENTER])
def test_a_host_with_a_damaged_or_another_mark_is_not_entered(host: Scratch, mark: str, script: Path) -> None:
    host.lab.mkdir()
    host.mark.write_text(mark)
    refused = host.run(script)
    assert refused.returncode == 1
    assert ("part of the lab other already" if mark == ANOTHER else "is damaged") in refused.stderr
    assert host.mark.read_text() == mark
    assert host.traces() == ["hardway/lab"] and host.keys().read_text() == THEIRS


def test_another_labs_host_is_not_left(host: Scratch) -> None:
    host.lab.mkdir()
    host.mark.write_text(f"{ANOTHER}\n")
    (host.lab / "entered").mkdir()
    (host.lab / "entered" / USER).write_text("noted\n")
    host.done(entry.LEAVE)
    assert host.traces() == ["hardway/entered/root", "hardway/lab"]


def test_a_host_whose_mark_the_user_has_confirmed_is_freed(host: Scratch) -> None:
    """`./hardway free` with the fingerprint of the lab's key."""
    host.done(ENTER, OTHER)
    step = host.lab / "steps" / "etcd"
    step.mkdir(parents=True)
    host.mark.write_text("")
    freed = host.run(entry.LEAVE, OTHER, freed=True)
    assert freed.returncode == 0, freed.stderr
    assert host.is_as_before() and not host.lab.exists()


def test_the_user_of_before_is_let_out_with_the_rest_byte_for_byte(host: Scratch) -> None:
    host.done(ENTER, OTHER)
    host.done(ENTER, USER)
    host.done(SETTLE, USER)
    assert host.keys(OTHER).read_text() == THEIRS
    assert host.keys(USER).read_text() == f"{LINE}\n{THEIRS}"


def test_a_key_file_that_cannot_be_read_is_an_error_and_no_answer(host: Scratch) -> None:
    keys = host.keys()
    keys.unlink()
    keys.mkdir()
    result = host.run(ENTER)
    assert result.returncode not in (0, 1), result.stderr
    assert list(keys.parent.iterdir()) == [keys]


def test_the_mark_that_a_lab_writes_is_one() -> None:
    assert entry.is_mark(MARK) and entry.is_mark(ANOTHER)
    # It could be another machine's; see MARK beside it.
    assert not any(map(entry.is_mark, set(DAMAGED) - {CUT_SHORT}))


def test_a_host_that_is_freed_shows_the_lab_behind_a_rotated_key(host: Scratch) -> None:
    """A lab whose state is lost after a rotation: its keys would stay, or another lab's go."""
    key = asyncssh.generate_private_key("ssh-ed25519").export_public_key().decode().strip()
    ours, others = f"{key} hardway-{STACK}:SHA256:{'a' * 43}", f"{key} hardway-{STACK}-two:SHA256:{'b' * 43}"
    lines = [ours, f"restrict,port-forwarding {ours}", others, f"{key} hardway-{STACK}"]
    host.keys().write_text("\n".join([*lines, ""]))
    done = subprocess.run(
        ["bash", "-c", f"stack={STACK}\n{free._LOOK}"],
        env={"PATH": f"{host.root}/bin:{os.environ['PATH']}", "SCRATCH": str(host.root)},
        capture_output=True,
        text=True,
        check=True,
    )
    shown = [line.removeprefix("line ") for line in done.stdout.splitlines() if line.startswith("line ")]
    assert shown == [ours, lines[1], lines[3]]
    found = free.Traces(mark="", lines=tuple(shown), files=()).fingerprints
    assert found[f"SHA256:{'a' * 43}"] == f"{ours}\n{lines[1]}"
    assert len(found) == 2 and lines[3] in found.values()
