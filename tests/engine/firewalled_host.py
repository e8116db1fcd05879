"""A host with a bridge, two machines on it and an outside, in network namespaces: its firewall is its own."""

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

BRIDGE = "lab0"
NODES, PODS = "10.240.0.0/24", "10.200.0.0/16"
_PORT = 7
_SET = ("set ours {", "type ipv4_addr", "flags interval", f"elements = {{ {NODES}, {PODS} }}", "}")
_NSENTER = shutil.which("nsenter") or "nsenter"
_OUTSIDE = "10.199.0.2"


class FirewalledHost:
    """Machine 1 and 2 have an address in the nodes' range and one in the pods' range each."""

    def __init__(self, directory: Path) -> None:
        self._tools = directory / "bin"
        self._tools.mkdir()
        podman = self._tools / "podman"
        described = f'[{{"network_interface": "{BRIDGE}"}}]'
        podman.write_text(f"#!/bin/sh\ncase $3 in -f) echo {BRIDGE} ;; *) echo '{described}' ;; esac\n")
        podman.chmod(0o755)
        self._namespaces = [self._hold() for _ in range(4)]
        self.run("sysctl", "-q", "-w", "net.ipv4.ip_forward=1", "net.bridge.bridge-nf-call-iptables=1")
        self.run("ip", "link", "add", BRIDGE, "type", "bridge")
        self.run("ip", "address", "add", "10.240.0.1/24", "dev", BRIDGE)
        for number in (1, 2):
            self._connect(number, f"m{number}")
            self.run("ip", "link", "set", f"m{number}", "master", BRIDGE)
            for address in (f"10.240.0.{number + 1}/24", f"10.200.{number}.1/32"):
                self._at(number, "ip", "address", "add", address, "dev", "eth0")
            self._at(number, "ip", "route", "add", f"10.200.{3 - number}.0/24", "via", f"10.240.0.{4 - number}")
            self._at(number, "ip", "route", "add", "default", "via", "10.240.0.1")
        self._connect(3, "out0")
        self.run("ip", "address", "add", "10.199.0.1/24", "dev", "out0")
        self._at(3, "ip", "address", "add", f"{_OUTSIDE}/24", "dev", "eth0")
        self._at(3, "ip", "route", "add", "default", "via", "10.199.0.1")
        self.run("ip", "link", "set", BRIDGE, "up")

    def stop(self) -> None:
        """End it."""
        for namespace in self._namespaces:
            namespace.kill()
            namespace.wait(timeout=30)

    def run(self, *command: str, stdin: str | None = None) -> str:
        """What a command prints that runs on the host.

        Raises:
            CalledProcessError: it failed.
        """
        done = self.try_run(*command, stdin=stdin)
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done.stdout

    def try_run(
        self, *command: str, stdin: str | None = None, path: Path | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run a command on the host, however it ends; `path` has the only programs it finds."""
        return subprocess.run(
            self._entered(0, *command),
            env=os.environ | {"PATH": str(path) if path else f"{self._tools}:{os.environ['PATH']}:/usr/sbin:/sbin"},
            input=stdin or "",
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )

    def nft(self, *commands: str) -> None:
        """Run commands of nftables."""
        for command in commands:
            self.run("nft", "-f", "-", stdin=f"{command}\n")

    def chain(self, rules: str, *, family: str = "inet", priority: int = 5) -> None:
        """Have a chain `f` of a table `mine` that sees what is forwarded.

        Beside it are a chain `g` that drops, a chain `h` that returns, and a set `ours` of the lab's addresses.
        """
        hook = f"type filter hook forward priority {priority};"
        lines = [
            f"table {family} mine {{",
            *_SET,
            "chain g {",
            "drop",
            "}",
            "chain h {",
            "return",
            "}",
            "chain f {",
            hook,
            *rules.split("; "),
            "}",
            "}",
        ]
        self.nft("\n".join(lines))

    def passes(self) -> dict[str, bool]:
        """Which connections come about: between machines, between pods, and from a machine to the outside."""
        ways = {
            "machines": self._connecting("10.240.0.2", "10.240.0.3"),
            "pods": self._connecting("10.200.1.1", "10.200.2.1"),
            "outside": self._connecting("10.240.0.2", _OUTSIDE),
        }
        return {way: _connected(process) for way, process in ways.items()}

    def _connecting(self, source: str, target: str) -> subprocess.Popen[str]:
        program = f"import socket; socket.create_connection(({target!r}, {_PORT}), 2, ({source!r}, 0))"
        return subprocess.Popen(self._entered(1, sys.executable, "-c", program), stderr=subprocess.PIPE, text=True)

    def _connect(self, number: int, name: str) -> None:
        pid = str(self._namespaces[number].pid)
        self.run("ip", "link", "add", name, "type", "veth", "peer", "name", "eth0", "netns", pid)
        self.run("ip", "link", "set", name, "up")
        self._at(number, "ip", "link", "set", "eth0", "up")

    def _at(self, number: int, *command: str) -> None:
        subprocess.run(self._entered(number, *command), check=True, capture_output=True)

    def _entered(self, number: int, *command: str) -> Sequence[str]:
        return [_NSENTER, f"--target={self._namespaces[number].pid}", "--net", *command]

    def _hold(self) -> subprocess.Popen[bytes]:
        # The kernel answers for a program that listens.
        program = f"import socket, signal; s = socket.create_server(('', {_PORT})); print(flush=True); signal.pause()"
        process = subprocess.Popen(["unshare", "--net", sys.executable, "-c", program], stdout=subprocess.PIPE)
        assert process.stdout is not None
        process.stdout.readline()
        return process


def _connected(process: subprocess.Popen[str]) -> bool:
    _, said = process.communicate(timeout=60)
    expected = ("TimeoutError", "timed out", "No route to host", "Connection refused", "PermissionError")
    assert process.returncode == 0 or any(word in said for word in expected), said
    return process.returncode == 0
