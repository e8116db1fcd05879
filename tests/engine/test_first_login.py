"""The first login at a machine: a real ssh, and a host that comes late, is another one, or never comes."""

import os
import shutil
import subprocess
import threading
import time
from pathlib import Path

from components.first_login import wait_for_login
from engine.ssh_host import SshHost


class Login:
    """The script of a first login, with an ssh that knows the host's port."""

    def __init__(self, host: SshHost, directory: Path, *, host_key: str | None = None, seconds: int = 20) -> None:
        program = shutil.which("ssh")
        assert program, "no ssh on this machine: apt-get install openssh-client"
        (directory / "bin").mkdir()
        (directory / "bin" / "ssh").write_text(
            f'#!/bin/sh\nexec {program} -p {host.port} -o HostKeyAlias=127.0.0.1 "$@"\n'
        )
        (directory / "bin" / "ssh").chmod(0o755)
        (directory / "tmp").mkdir()
        self.left = directory / "tmp"
        self._key = host.connection["private_key"].strip()
        self._environment = os.environ | {"PATH": f"{directory}/bin:{os.environ['PATH']}", "TMPDIR": str(self.left)}
        key = host_key or " ".join(host.connection["host_key"].split()[:2])
        script = wait_for_login("worker-0", host="127.0.0.1", host_key=key, identity="4711", hint="look there")
        assert "300" in script
        self._script = script.replace("300", str(seconds))

    def run(self) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["/bin/bash", "-c", self._script],
            input=self._key,
            env=self._environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )


def test_it_prints_the_identity_once_the_machine_lets_us_in(tmp_path: Path) -> None:
    host = SshHost()
    login = Login(host, tmp_path)
    results: list[subprocess.CompletedProcess[str]] = []
    waiting = threading.Thread(target=lambda: results.append(login.run()))
    waiting.start()
    time.sleep(1.5)
    assert not results, "nobody listens yet"
    with host:
        waiting.join(30)
    (result,) = results
    assert (result.returncode, result.stdout) == (0, "4711\n"), result.stderr
    assert host.commands == ["true"]
    assert not any(login.left.iterdir()), "the key was left behind"


def test_a_machine_with_another_key_is_never_logged_in_at(tmp_path: Path) -> None:
    with SshHost() as host, SshHost() as other:
        key = " ".join(other.connection["host_key"].split()[:2])
        login = Login(host, tmp_path, host_key=key, seconds=2)
        result = login.run()
        assert result.returncode == 1
        assert "worker-0 (127.0.0.1) does not let us in after 2 s; ssh said last:" in result.stderr
        assert "REMOTE HOST IDENTIFICATION HAS CHANGED" in result.stderr
        assert result.stderr.rstrip().endswith("look there")
        assert host.connections == 0
        assert not any(login.left.iterdir())
        assert "PRIVATE" not in result.stderr


def test_a_machine_that_never_comes_is_given_up_with_what_ssh_said(tmp_path: Path) -> None:
    result = Login(SshHost(), tmp_path, seconds=1).run()
    assert result.returncode == 1
    assert "Connection refused" in result.stderr
