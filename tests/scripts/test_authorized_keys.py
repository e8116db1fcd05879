"""Which SSH keys open a machine after a stage of a rotation: the script with an ssh that looks at the file of keys."""

import os
import subprocess
from pathlib import Path

import pytest

from components.authorized_keys import script_of

COMMENT = "hardway-dev:SHA256:first"
THEIRS = "# mine\nssh-ed25519 AAAB jane@desk"
# -i KEY, the host, the command: as sshd does it, by what the file has at that moment.
SSH = """\
#!/bin/bash
while [ $# -gt 2 ]; do [ "$1" != -i ] || key=$2; shift; done
[ "$1" = root@10.0.0.9 ] || exit 99
public=$(ssh-keygen -yf "$key" | cut -d ' ' -f 1,2)
echo "$public" >>{directory}/tried
if grep -qsF "$public" {directory}/refused || ! grep -qF "$public" {directory}/keys/authorized; then
  echo "Permission denied (publickey)." >&2
  exit 255
fi
exec bash -c "$2"
"""


class Machine:
    """A machine whose file of keys is in a scratch directory, and the lab's keys."""

    def __init__(self, directory: Path) -> None:
        self.directory, self.file = directory, directory / "keys" / "authorized"
        (directory / "bin").mkdir()
        (directory / "bin" / "ssh").write_text(SSH.format(directory=directory))
        (directory / "bin" / "ssh").chmod(0o755)
        (directory / "tmp").mkdir()
        self.file.parent.mkdir()
        for name in ("first", "second", "third"):
            command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", str(directory / name)]
            subprocess.run(command, check=True)

    def public(self, name: str) -> str:
        return " ".join((self.directory / f"{name}.pub").read_text().split()[:2])

    def line(self, name: str) -> str:
        return f"{self.public(name)} {COMMENT}"

    def run(self, *accepted: str, seconds: int = 5) -> subprocess.CompletedProcess[str]:
        """Have the machine accept these keys."""
        script = script_of(
            "worker-0",
            host="10.0.0.9",
            host_key="ssh-ed25519 AAAC",
            identity="4711",
            lines="\n".join(map(self.line, accepted)),
            comment=COMMENT,
            first=self.public("first"),
            files=[str(self.directory / "none" / "keys"), str(self.file)],
            seconds=seconds,
        )
        done = subprocess.run(
            ["/bin/bash", "-c", script],
            input="\n".join((self.directory / name).read_text() for name in (*accepted, "first")),
            env={
                "PATH": f"{self.directory}/bin:{os.environ['PATH']}",
                "TMPDIR": str(self.directory / "tmp"),
                "LC_ALL": "C",
            },
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert not any((self.directory / "tmp").iterdir()), "keys were left behind"
        assert "PRIVATE" not in script + done.stdout + done.stderr
        return done

    def accepts(self, *keys: str) -> bool:
        text = "".join(f"{self.line(key)}\n" for key in keys)
        return [path.name for path in self.file.parent.iterdir()] == ["authorized"] and (
            self.file.read_text() == f"{text}{THEIRS}\n"
        )


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    found = Machine(tmp_path)
    found.file.write_text(f"{found.public('first')}\n{THEIRS}\n")
    found.file.chmod(0o644)
    return found


def test_each_stage_leaves_the_keys_that_it_names(machine: Machine) -> None:
    for accepted in (["first", "second"], ["second", "first"], ["second"], ["second", "third"], ["third"]):
        for _ in range(2):
            done = machine.run(*accepted)
            assert done.returncode == 0, done.stderr
            assert machine.accepts(*accepted), machine.file.read_text()
    assert machine.file.stat().st_mode & 0o777 == 0o644, "the mode stays"


def test_a_machine_that_was_made_with_the_first_key_gets_the_later_one(machine: Machine) -> None:
    """An instance or a virtual machine that was recreated after a rotation."""
    assert machine.run("third").returncode == 0
    assert machine.accepts("third")


def test_a_new_key_that_does_not_open_the_machine_removes_nothing(machine: Machine) -> None:
    (machine.directory / "refused").write_text(machine.public("second"))
    done = machine.run("second")
    assert done.returncode == 1
    assert "does not accept an SSH key that is in" in done.stderr and "Permission denied" in done.stderr
    assert machine.public("first") in machine.file.read_text()


def test_a_machine_that_accepts_no_key_is_given_up_with_what_ssh_said(machine: Machine) -> None:
    machine.file.write_text(f"{THEIRS}\n")
    done = machine.run("second", seconds=1)
    assert done.returncode == 1
    assert (
        "worker-0 (10.0.0.9) accepts no SSH key of the lab after 1 s; ssh said last: Permission denied" in done.stderr
    )
    assert machine.file.read_text() == f"{THEIRS}\n"
