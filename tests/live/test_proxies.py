"""What `status` and its like ask of a lab goes to the lab directly, whatever proxy the user or a machine has."""

import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from config.machines import Role
from live.cluster import Cluster, LiveMachine
from live.status.endpoint import ask_endpoint
from toolchain import access, paths
from toolchain.stack import Stack

# Nothing listens there: what goes through the proxy fails.
PROXY = "http://127.0.0.1:1"


class _Answers(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"ok")

    def log_message(self, *_: object) -> None:
        """Nothing."""


@pytest.fixture
def server() -> Iterator[str]:
    """The URL of something that a lab would have."""
    made = HTTPServer(("127.0.0.1", 0), _Answers)
    thread = threading.Thread(target=made.serve_forever)
    thread.start()
    yield f"127.0.0.1:{made.server_port}"
    made.shutdown()
    thread.join()
    made.server_close()


@pytest.fixture(autouse=True)
def _proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, PROXY)
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize("user", ["root", "operator"])
def test_questions_on_a_machine_go_past_its_proxy(
    server: str, user: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # sudo has variables of its own, from /etc/environment again.
    sudo = tmp_path / "sudo"
    sudo.write_text(f'#!/bin/sh\nshift; exec env -u no_proxy -u NO_PROXY http_proxy={PROXY} "$@"\n')
    sudo.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    machine = LiveMachine(name="node", roles=frozenset({Role.WORKER}), address="10.0.0.1", user=user)
    for shell in ("sh", "bash"):
        command = machine.as_root(f"curl -sS --max-time 5 http://{server}/healthz")
        done = subprocess.run([shell, "-c", command], capture_output=True, text=True, check=False, timeout=30)
        assert (done.returncode, done.stdout) == (0, "ok"), done.stderr


@pytest.mark.parametrize("user", ["root", "operator"])
def test_scripts_know_where_their_connection_comes_from(
    user: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Drills spare the packets of the host: sudo removes the variable that names it."""
    sudo = tmp_path / "sudo"
    sudo.write_text('#!/bin/sh\nshift; exec env -u SSH_CONNECTION "$@"\n')
    sudo.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.setenv("SSH_CONNECTION", "192.0.2.1 1234 192.0.2.10 22")
    machine = LiveMachine(name="node", roles=frozenset({Role.WORKER}), address="192.0.2.10", user=user)
    command = machine.as_root('echo "${SSH_CONNECTION%% *}"')
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=False, timeout=30)
    assert done.stdout == "192.0.2.1\n", done.stderr


@pytest.mark.parametrize("substrate", ["containers", "machines"])
def test_the_endpoint_is_asked_past_the_users_proxy(
    server: str, substrate: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(paths, "state", lambda: tmp_path)
    stack = Stack(
        name="dev",
        project="toy",
        settings_file=tmp_path / "Pulumi.dev.yaml",
        substrate=substrate,
        engine="podman",
        kubernetes="1.36.4",
    )
    stack.directory.mkdir()
    (stack.directory / "kubeconfig").write_text(f"clusters:\n- cluster:\n    server: https://{server}\n")
    kubectl = stack.directory / "kubectl"
    kubectl.write_text(f"#!/bin/sh\nexec curl -sS --max-time 5 http://{server}/readyz\n")
    kubectl.chmod(0o755)
    assert access.kubectl_command(stack)[0] == str(kubectl)
    cluster = Cluster(stack=stack, endpoint=f"https://{server}", machines=[])
    assert ask_endpoint(cluster) == "ok"
