"""A host of its own for Docker: its own network, with a daemon and a firewall that no other lab of the host sees.

It has Docker's FORWARD policy DROP. Beside it is an outside world, one name server that knows one name.
"""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from lab.commands import CHECKOUT
from lab.polling import eventually
from labs.docker.docker_packages import programs

OUTSIDE = "outside.hardway-test"
OUTSIDE_ADDRESS = "192.0.2.77"
_NAME_SERVER = "10.199.0.53"
_SECONDS = 400
# Also where the tests are killed.
_ENDS_WITH_US = ("setpriv", "--pdeathsig", "TERM")


class DockerHost:
    """The namespaces, the daemon and the name server; all end with it."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._children: list[subprocess.Popen[bytes]] = []
        self._daemon: subprocess.Popen[bytes] | None = None
        self._host = self._hold("unshare", "--mount", "--net", "--propagation", "private")
        self._outside = self._hold("unshare", "--net")

    def start(self) -> None:
        """Have the network, the name server and the daemon."""
        outside = self._outside.pid
        self.run("ip", "link", "set", "lo", "up")
        # As at boot, when dockerd starts: it is dockerd that switches forwarding on, and then sets the policy to DROP.
        self.run("sysctl", "-q", "-w", "net.ipv4.ip_forward=0")
        self.run("ip", "link", "add", "outside", "type", "veth", "peer", "name", "inside", "netns", str(outside))
        self.run("ip", "address", "add", "10.199.0.1/24", "dev", "outside")
        self.run("ip", "link", "set", "outside", "up")
        enter = ["nsenter", f"--target={outside}", "--net"]
        for words in (f"address add {_NAME_SERVER}/24 dev inside", "link set inside up"):
            subprocess.run([*enter, "ip", *words.split()], check=True)
        server = Path(__file__).with_name("name_server.py")
        self._children.append(
            subprocess.Popen([*enter, sys.executable, server, _NAME_SERVER, OUTSIDE, OUTSIDE_ADDRESS])
        )
        # What a user with a local resolver has: the one line that pods cannot use, and one that they can.
        resolvers = self._directory / "resolv.conf"
        resolvers.write_text(f"nameserver 127.0.0.53\nnameserver {_NAME_SERVER}\n")
        self.run("mount", "--bind", str(resolvers), "/etc/resolv.conf")
        self.start_daemon()

    def start_daemon(self) -> None:
        """Have the daemon, and wait until it answers."""
        # A directory of its own in front: docker's runc is looked for by its name.
        front = self._directory / "front"
        front.mkdir(exist_ok=True)
        wrapper = front / "runc"
        wrapper.unlink(missing_ok=True)
        wrapper.symlink_to(Path(__file__).with_name("runc_within_bounds.py"))
        log = (self._directory / "dockerd.log").open("ab")
        self._daemon = subprocess.Popen(
            self._entered(
                *_ENDS_WITH_US,
                "dockerd",
                f"--data-root={self._directory / 'data'}",
                f"--exec-root={self._directory / 'exec'}",
                f"--pidfile={self._directory / 'docker.pid'}",
                f"--host=unix://{self._socket}",
                # How long it waits for its containers when it ends.
                "--shutdown-timeout=3",
            ),
            env=self._environment() | {"PATH": f"{front}:{self._environment()['PATH']}"},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
        eventually(
            "the answer of dockerd",
            lambda: self.try_run("docker", "version").returncode == 0,
            seconds=60,
            report=lambda: (self._directory / "dockerd.log").read_text()[-3000:],
        )

    def stop_daemon(self) -> None:
        """What an upgrade of the package does first: end the daemon, and with it its containers."""
        if self._daemon:
            self._daemon.terminate()
            self._daemon.wait(timeout=120)
            self._daemon = None

    def stop(self) -> None:
        """End all of it."""
        self.stop_daemon()
        for child in (*self._children, self._outside, self._host):
            child.terminate()
            child.wait(timeout=30)

    def run(self, *command: str) -> str:
        """What a command prints that runs on the host.

        Raises:
            AssertionError: it failed.
        """
        done = self.try_run(*command)
        assert done.returncode == 0, f"{command}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def try_run(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a command on the host, however it ends."""
        return subprocess.run(
            self._entered(*command),
            env=self._environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=_SECONDS,
        )

    def python(self, *arguments: str) -> str:
        """What a program of the project prints, both streams."""
        done = self.try_run(sys.executable, "-m", *arguments)
        assert done.returncode == 0, f"{arguments}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout + done.stderr

    def shell(self, script: str) -> str:
        """What a script prints."""
        return self.run("bash", "-c", script)

    @property
    def _socket(self) -> Path:
        return self._directory / "docker.sock"

    def _environment(self) -> dict[str, str]:
        docker = programs()
        return {
            **os.environ,
            "PATH": f"{docker}:{os.environ['PATH']}",
            "DOCKER_HOST": f"unix://{self._socket}",
            "HARDWAY_RUNC": str(docker / "runc"),
        }

    def _entered(self, *command: str) -> Sequence[str]:
        return ["nsenter", f"--target={self._host.pid}", "--mount", "--net", f"--wd={CHECKOUT}", *command]

    def _hold(self, *unshare: str) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            [*_ENDS_WITH_US, *unshare, "sh", "-c", "echo here; exec sleep infinity"], stdout=subprocess.PIPE
        )
        assert process.stdout is not None
        assert process.stdout.readline() == b"here\n"
        return process
