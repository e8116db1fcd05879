"""A machine to try steps on: one bare container of the node image, reached by its own sshd with a pinned key."""

import os
import shutil
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

import asyncssh

from components.substrates.containers.substrate import _PODMAN_FLAGS, _RUN_FLAGS
from engine.listing import listing
from lab.polling import eventually
from toolchain import node_image

GATEWAY = "10.248.0.1"
"""The address of the host that the machine reaches."""

_NAME = "hw-engine-steps"
_SUBNET, _ADDRESS = "10.248.0.0/24", "10.248.0.2"
_BOOT_SECONDS = 120.0


@dataclass(frozen=True, kw_only=True)
class Connection:
    """How to reach a machine as root.

    Args:
        host: its address.
        private_key: what opens it, as OpenSSH writes keys.
        host_key: the public key whose private one it must have.
    """

    host: str
    private_key: str = field(repr=False)
    host_key: str


class ContainerHost:
    """A machine with systemd and sshd; recreated, and gone with all it holds in the end.

    Attributes:
        name: its host name.
        connection: how steps reach it.
    """

    name = "bare-0"

    def __init__(self) -> None:
        self._host_key = asyncssh.generate_private_key("ssh-ed25519")
        self._user_key = asyncssh.generate_private_key("ssh-ed25519")
        self.connection = Connection(
            host=_ADDRESS,
            private_key=self._user_key.export_private_key().decode(),
            host_key=self._host_key.export_public_key().decode().strip(),
        )

    def __enter__(self) -> "ContainerHost":
        assert os.geteuid() == 0, "these tests make a privileged container: run them as root"
        assert shutil.which("podman"), "these tests need podman: run `./hardway setup`"
        image = node_image.reference()
        found = subprocess.run(["podman", "image", "exists", image], check=False)
        assert found.returncode == 0, f"the node image {image} is not there: run `./hardway setup`"
        self._remove()
        _podman("network", "create", "--disable-dns", "--subnet", _SUBNET, "--gateway", GATEWAY, _NAME)
        at = [f"--name={_NAME}", f"--hostname={self.name}", f"--network={_NAME}", f"--ip={_ADDRESS}"]
        _podman("run", "-d", *_RUN_FLAGS, *_PODMAN_FLAGS, *at, image)
        self._process = int(_podman("inspect", "-f", "{{.State.Pid}}", _NAME))
        self.bash(
            "umask 077; cd /etc/ssh\n"
            f"cat >/root/.ssh/authorized_keys <<<'{self._user_key.export_public_key().decode().strip()}'\n"
            f"cat >new <<'KEY'\n{self._host_key.export_private_key().decode()}KEY\n"
            "mv new ssh_host_ed25519_key\n"
        )
        # The kernel gives an address its route only when it knows that nobody else has that address.
        settled = '[ -z "$(ip -6 address show tentative)" ]'
        booted = f"systemctl is-system-running && (exec 3<>/dev/tcp/127.0.0.1/22) && {settled}"
        eventually("the machine boots", lambda: self.succeeds(booted), seconds=_BOOT_SECONDS)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._remove()

    def bash(self, script: str) -> str:
        """What a script prints; it must succeed. It does not come over SSH."""
        return _podman("exec", "-i", _NAME, "bash", "-eu", stdin=script)

    def succeeds(self, script: str) -> bool:
        """Whether a script does."""
        done = subprocess.run(["podman", "exec", _NAME, "bash", "-euc", script], capture_output=True, check=False)
        return done.returncode == 0

    def path(self, path: str) -> Path:
        """A path of the machine, as the host sees it."""
        return Path(f"/proc/{self._process}/root{path}")

    def file(self, path: str) -> tuple[str, str, str]:
        """Mode, owner and content of a file."""
        mode, owner = self.bash(f"stat -c '%a %U:%G' {path}").split()
        return mode, owner, self.path(path).read_text()

    def invocation(self, unit: str) -> str:
        """Which start of a unit it is that runs; nothing where it does not run."""
        found = dict(line.split("=", 1) for line in self.bash(f"systemctl show {unit}").splitlines() if "=" in line)
        return found["InvocationID"] if found["ActiveState"] == "active" else ""

    def command_lines(self) -> set[str]:
        """The command lines of all its processes."""
        found = set()
        for process in self.path("/proc").glob("[0-9]*"):
            try:
                found.add((process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace"))
            except OSError:
                continue
        return found

    def listing(self) -> set[str]:
        """Everything that a step could change, a line for each thing: files, and what the kernel and systemd hold."""
        return listing(self.path("/"), self.bash)

    def _remove(self) -> None:
        for what in (["rm", "-f", "-t", "0", "-v", _NAME], ["network", "rm", "-f", _NAME]):
            subprocess.run(["podman", *what], capture_output=True, check=False)


def _podman(*arguments: str, stdin: str | None = None) -> str:
    done = subprocess.run(["podman", *arguments], input=stdin, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, f"podman {arguments[0]}: {done.stderr}{done.stdout}"
    return done.stdout
