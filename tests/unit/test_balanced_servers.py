"""What HAProxy does with requests while an API server ends or fails: HAProxy itself, in front of servers of the test.

All listen on sockets in a directory that the container with HAProxy sees, too: it has no network.
"""

import http.client
import re
import socket
import socketserver
import ssl
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from lab.certificate_authority import CertificateAuthority
from lab.polling import eventually
from unit.mocked_engine import Run
from unit.node_tools import NodeTools, haproxy_without_machine

# What a kube-apiserver of 1.36 answers for an anonymous client.
ENDS = b"[+]ping ok\n[+]log ok\n[+]etcd ok\n[-]shutdown failed: reason withheld\nreadyz check failed\n"
NO_ETCD = b"[+]ping ok\n[+]log ok\n[-]etcd failed: reason withheld\n[+]shutdown ok\nreadyz check failed\n"
_SECONDS = 30


class Handler(BaseHTTPRequestHandler):
    """/readyz, and any other path: its name, where /slow waits until the test says so."""

    server: "ApiServer"

    def setup(self) -> None:
        self.request = self.server.context.wrap_socket(self.request, server_side=True)
        super().setup()

    def do_GET(self) -> None:
        if self.path == "/readyz":
            self._answer(*((500, self.server.unready) if self.server.unready else (200, b"ok")))
            return
        if self.path == "/slow":
            self.server.asked.set()
            self.server.goes_on.wait(_SECONDS)
        self._answer(200, self.server.name.encode())

    def _answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


class ApiServer(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    """One backend; `unready` is what it answers instead of ok."""

    daemon_threads = True

    def __init__(self, file: Path, context: ssl.SSLContext, goes_on: threading.Event) -> None:
        self.name = file.name
        self.context = context
        self.unready = b""
        self.asked, self.goes_on = threading.Event(), goes_on
        super().__init__(str(file), Handler)

    def handle_error(self, request: object, client_address: object) -> None:
        """A connection that HAProxy cuts is what the test is about."""


class Lab:
    """HAProxy with the configuration of `ha`, and its API servers; `goes_on` lets them answer slow requests."""

    def __init__(self, directory: Path, authority: Path, leaf: Path) -> None:
        self._directory = directory
        self._trusted = ssl.create_default_context(cafile=str(authority))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(leaf)
        self.goes_on = threading.Event()
        self.servers = [ApiServer(directory / f"controller-{each}", context, self.goes_on) for each in range(3)]

    def get(self, path: str) -> str:
        """The answer to a request by a new connection: the name of the server that gave it."""
        with ExitStack() as opened:
            raw = opened.enter_context(socket.socket(socket.AF_UNIX))
            raw.settimeout(_SECONDS)
            raw.connect(str(self._directory / "api"))
            connection = opened.enter_context(closing(http.client.HTTPConnection("kubernetes")))
            connection.sock = opened.enter_context(self._trusted.wrap_socket(raw, server_hostname="kubernetes"))
            connection.request("GET", path)
            return connection.getresponse().read().decode()

    def state_of(self, server: ApiServer) -> str:
        """HAProxy's word for it: UP, NOLB (no new connections), DOWN."""
        with socket.socket(socket.AF_UNIX) as asked:
            asked.settimeout(_SECONDS)
            asked.connect(str(self._directory / "admin"))
            asked.sendall(b"show stat\n")
            rows = asked.makefile().read().splitlines()
        (row,) = (row.split(",") for row in rows if row.startswith(f"api-servers,{server.name},"))
        return row[17]

    def wait_until(self, server: ApiServer, state: str) -> None:
        eventually(f"{server.name} {state}", lambda: self.state_of(server) == state, seconds=_SECONDS)

    @contextmanager
    def one_request_at_each(self) -> Iterator[list[Future[str]]]:
        """Requests that every server has, and that are answered once `goes_on` is set."""
        with ThreadPoolExecutor() as pool:
            sent = [pool.submit(self.get, "/slow") for _ in self.servers]
            for server in self.servers:
                assert server.asked.wait(_SECONDS), f"{server.name} got no request"
            yield sent


@pytest.fixture
def lab(ha: Run, tmp_path: Path, tools: NodeTools) -> Iterator[Lab]:
    made = CertificateAuthority("kubernetes-ca")
    authority, leaf = tmp_path / "ca.crt", tmp_path / "leaf.pem"
    authority.write_text(made.certificate)
    served = made.server("kubernetes")
    leaf.write_text(served.certificate + served.key)
    lab = Lab(tmp_path, authority, leaf)
    file = tmp_path / "haproxy.cfg"
    file.write_text(_here(ha.file("load-balancer-0", "/etc/haproxy/haproxy.cfg"), tmp_path))
    pid = tmp_path / "pid"
    with ExitStack() as ends:
        for server in lab.servers:
            threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
            ends.callback(server.server_close)
            ends.callback(server.shutdown)
        ends.callback(lab.goes_on.set)
        started = tools.run("haproxy", "-D", "-p", str(pid), "-f", str(file))
        assert started.returncode == 0, started.stderr
        ends.callback(tools.run, "kill", pid.read_text().strip())
        for server in lab.servers:
            lab.wait_until(server, "UP")
        yield lab


def _here(text: str, directory: Path) -> str:
    """A load balancer's configuration, with sockets in a directory in place of its network."""
    text = haproxy_without_machine(text)
    text = text.replace("/etc/haproxy/", f"{directory}/").replace("kubernetes-ca.crt", "ca.crt")
    text = text.replace("global\n", f"global\n    stats socket {directory}/admin\n", 1)
    text = re.sub(r"^( +server (\S+)) \S+:6443$", rf"\1 unix@{directory}/\2", text, flags=re.M)
    text = re.sub(r"^( +server (\S+)) \S+:80$", rf"\1 unix@{directory}/health-\2", text, flags=re.M)
    return text.replace("bind :6443", f"bind unix@{directory}/api").replace("bind :80", f"bind unix@{directory}/health")


def test_a_server_that_ends_answers_what_it_has(lab: Lab) -> None:
    """`systemctl restart kube-apiserver` cut the requests that the server was about to answer."""
    ends, *others = lab.servers
    with lab.one_request_at_each() as sent:
        ends.unready = ENDS
        lab.wait_until(ends, "NOLB")
        assert {lab.get("/name") for _ in range(4)} == {each.name for each in others}
        lab.goes_on.set()
        assert {each.result(_SECONDS) for each in sent} == {each.name for each in lab.servers}
    ends.unready = b""
    lab.wait_until(ends, "UP")
    assert {lab.get("/name") for _ in range(3)} == {each.name for each in lab.servers}


def test_a_connection_that_outlives_a_server_that_ends_is_closed(lab: Lab) -> None:
    """A kubelet keeps one for hours: it is to notice at once."""
    ends = lab.servers[0]
    with lab.one_request_at_each() as sent:
        ends.unready = ENDS
        lab.wait_until(ends, "NOLB")
        ends.shutdown()
        ends.server_close()
        lab.wait_until(ends, "DOWN")
        _only_one_is_cut(lab, sent)


def test_requests_at_a_server_that_is_unready_otherwise_are_cut(lab: Lab) -> None:
    """Without etcd it has no answer for them, for as long as that lasts."""
    fails, *others = lab.servers
    with lab.one_request_at_each() as sent:
        fails.unready = NO_ETCD
        lab.wait_until(fails, "DOWN")
        assert {lab.get("/name") for _ in range(4)} == {each.name for each in others}
        _only_one_is_cut(lab, sent)


def _only_one_is_cut(lab: Lab, sent: list[Future[str]]) -> None:
    """That to the first server; the others are answered."""
    eventually("the cut request", lambda: any(each.done() for each in sent), seconds=_SECONDS)
    lab.goes_on.set()
    answers, errors = [], []
    for each in sent:
        error = each.exception(_SECONDS)
        errors.append(error) if error else answers.append(each.result())
    assert [isinstance(each, OSError | http.client.HTTPException) for each in errors] == [True], errors
    assert sorted(answers) == [each.name for each in lab.servers[1:]]
