"""`./hardway scale`: simulated Nodes are created, counted and removed, and what is made of the figures."""

import json
import signal
import subprocess
import sys
import textwrap
from collections.abc import Mapping
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
from small_lab import cluster

from live import drills, scale
from live.cluster import Cluster
from live.https_api import ApiError
from live.scale import figures, simulation
from live.scale.figures import Latency
from live.waiting import still_missing
from toolchain import access
from toolchain.errors import ToolchainError

READY = {"conditions": [{"type": "Ready", "status": "True"}]}
PAGE = 200


class Server:
    """An API with Nodes and Pods of which each is Ready at once, or never."""

    def __init__(self) -> None:
        self.nodes: dict[str, bool] = {"worker-0": False}
        """Name -> whether it is simulated."""
        self.pods = 0
        self.namespace = False
        self.is_ready = True
        self.refused = False
        self.silent = 0

    def __call__(self, _: Cluster) -> "Server":
        return self

    def connection(self, *, seconds: float) -> "Server":
        return self

    def close(self) -> None:
        pass

    def get(self, path: str, *, seconds: float = 10) -> Any:
        return self.send("GET", path)

    def send(self, method: str, path: str, body: Any = None, *, seconds: float = 10) -> Any:
        if self.silent and method == "DELETE":
            self.silent -= 1
            raise ApiError("TimeoutError: The read operation timed out")
        if self.refused:
            raise ApiError("HTTP 403: no", HTTPStatus.FORBIDDEN)
        plain, _, query = path.partition("?")
        kind = plain.rpartition("/")[2]
        if kind == "nodes":
            return self._nodes(method, query, body)
        if not self.namespace and (method, kind) != ("POST", "namespaces"):
            if kind == "pods":
                return {"metadata": {}}
            raise ApiError("HTTP 404: there is no such namespace", HTTPStatus.NOT_FOUND)
        match method, kind:
            case "POST", "namespaces":
                self.namespace = True
            case "POST" | "PUT", "deployments" | "scale":
                self.pods = body["spec"]["replicas"]
            case "DELETE", simulation.NAMESPACE:
                # It is there until its Pods are gone.
                self.namespace = self.pods > 0
            case "DELETE", "pods":
                assert body == {"gracePeriodSeconds": 0}
                self.pods = max(0, self.pods - PAGE)
                self.namespace = self.pods > 0
                return {"metadata": {"continue": "more"} if self.pods else {}}
            case "GET", "simulated":
                return {"status": {"replicas": self.pods, "readyReplicas": self.pods if self.is_ready else 0}}
            case "GET", "pods":
                assert "status.phase!=Running" in unquote(query)
                return {"items": [] if self.is_ready else [{}] * self.pods}
        return {}

    def _nodes(self, method: str, query: str, body: Any) -> Any:
        if method == "POST":
            assert body["spec"]["taints"], "Pods of others must not be scheduled there"
            assert body["metadata"]["labels"][simulation.LABEL] == "true"
            self.nodes[body["metadata"]["name"]] = True
            return body
        assert query.startswith(f"labelSelector={simulation.LABEL}=true"), "other Nodes are not this program's"
        simulated = [name for name, is_simulated in self.nodes.items() if is_simulated]
        if method == "GET":
            status = READY if self.is_ready else {}
            return {"items": [{"metadata": {"name": name}, "status": status} for name in simulated]}
        for name in simulated[:PAGE]:
            del self.nodes[name]
        return {"metadata": {"continue": "more"} if len(simulated) > PAGE else {}}


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Server:
    made = Server()
    monkeypatch.setattr(simulation, "Api", made)
    monkeypatch.setattr(simulation, "ask", Server.send)
    monkeypatch.setattr(simulation, "_LOOK_EVERY", 0.01)
    return made


@pytest.fixture
def lab(tmp_path: Path) -> Cluster:
    return cluster(tmp_path)


@pytest.fixture
def kwok(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Says its process, and runs until it is ended."""
    monkeypatch.setattr(access, "kubectl_environment", lambda _: {"PATH": "/usr/bin:/bin"})
    program = tmp_path / "kwok"
    program.write_text("#!/bin/sh\necho $$\nexec sleep 1000\n")
    program.chmod(0o755)
    return program


def process_of(log: Path) -> int:
    assert not still_missing(lambda: not (log.exists() and log.read_text().endswith("\n")), 10, every=0.02)
    return int(log.read_text())


def runs(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().split()[2] != "Z"
    # The second one says that it ended after the file was opened.
    except (FileNotFoundError, ProcessLookupError):
        return False


def ends(process: int) -> bool:
    return not still_missing(lambda: runs(process), 10, every=0.02)


def test_nodes_and_pods_are_created_up_to_the_number_and_removed_at_the_end(
    lab: Cluster, server: Server, kwok: Path, tmp_path: Path
) -> None:
    with simulation.simulating(lab, kwok, tmp_path / "log"):
        process = process_of(tmp_path / "log")
        simulation.create_nodes(lab, 3)
        simulation.create_pods(lab, 15)
        simulation.create_nodes(lab, 300)
        simulation.create_pods(lab, 1500)
        assert len(server.nodes) == 301 and server.pods == 1500 and server.namespace
        assert runs(process)
    assert server.nodes == {"worker-0": False} and not server.pods and not server.namespace
    assert ends(process)


def test_an_error_removes_them_too(lab: Cluster, server: Server, kwok: Path, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), simulation.simulating(lab, kwok, tmp_path / "log"):
        process = process_of(tmp_path / "log")
        simulation.create_nodes(lab, 3)
        raise RuntimeError
    assert server.nodes == {"worker-0": False}
    assert ends(process)


def test_what_an_earlier_run_left_is_removed_first(lab: Cluster, server: Server, kwok: Path, tmp_path: Path) -> None:
    server.nodes["simulated-0007"] = True
    server.namespace, server.pods = True, 7
    with simulation.simulating(lab, kwok, tmp_path / "log"):
        assert server.nodes == {"worker-0": False} and not server.namespace and not server.pods


def test_a_request_without_an_answer_is_repeated(lab: Cluster, server: Server, kwok: Path, tmp_path: Path) -> None:
    """As at a load of 50, after an interrupted drill."""
    with simulation.simulating(lab, kwok, tmp_path / "log"):
        simulation.create_nodes(lab, 3)
        simulation.create_pods(lab, 15)
        server.silent = 3
    assert server.nodes == {"worker-0": False} and not server.namespace and not server.silent


def test_kwok_ends_where_the_api_refuses_to_remove(lab: Cluster, server: Server, kwok: Path, tmp_path: Path) -> None:
    with pytest.raises(ApiError, match="403"), simulation.simulating(lab, kwok, tmp_path / "log"):
        process = process_of(tmp_path / "log")
        server.refused = True
    assert ends(process)


def test_kwok_ends_with_a_run_that_is_killed(kwok: Path, tmp_path: Path) -> None:
    log = tmp_path / "log"
    script = textwrap.dedent(f"""
        import subprocess, time
        from live.scale import simulation
        subprocess.Popen(["/bin/sh", "-c", simulation._WITH_ITS_PARENT, "sh", "{kwok}"], stdin=subprocess.PIPE,
                         stdout=open("{log}", "wb"), start_new_session=True)
        time.sleep(1000)
    """)
    with subprocess.Popen([sys.executable, "-c", script]) as run:
        process = process_of(log)
        assert runs(process)
        run.send_signal(signal.SIGKILL)
    assert ends(process)


def test_the_guard_ends_with_kwok(tmp_path: Path) -> None:
    command = ["/bin/sh", "-c", simulation._WITH_ITS_PARENT, "sh", "false"]
    with subprocess.Popen(command, stdin=subprocess.PIPE) as guard:
        guard.wait(timeout=10)


def test_nodes_that_do_not_become_ready_are_an_error(
    lab: Cluster, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Cluster, "allowed", lambda _, seconds: 0.0)
    server.is_ready = False
    with pytest.raises(ToolchainError, match="5 of 5 simulated Nodes are not Ready"):
        simulation.create_nodes(lab, 5)
    with pytest.raises(ToolchainError, match="25 Pods or more of 25 on simulated Nodes do not run"):
        simulation.create_pods(lab, 25)
    assert simulation.not_ready(lab) == 25


def test_an_interrupted_drill_ends_the_whole_run(lab: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(_: object, __: object, file: Path) -> int:
        file.write_text(json.dumps({"trouble": drills.INTERRUPTED, "drills": []}))
        return 1

    monkeypatch.setattr(drills, "main", interrupted)
    with pytest.raises(KeyboardInterrupt):
        scale._failovers(lab, ["stop-leader"], size(0))


@pytest.mark.parametrize(("percent", "value"), [(50, 50.0), (99, 99.0), (100, 100.0), (1, 1.0)])
def test_percentiles(percent: int, value: float) -> None:
    assert figures.percentile([float(each) for each in range(100, 0, -1)], percent) == value


def metrics(counted: Mapping[str, tuple[int, int, int]]) -> str:
    """What an API server says: verb -> requests within 100 ms, within 200 ms, and all."""
    return "".join(
        f'apiserver_request_duration_seconds_bucket{{component="apiserver",verb="{verb}",le="{limit}"}} {number}\n'
        for verb, numbers in counted.items()
        for limit, number in zip(("0.1", "0.2", "+Inf"), numbers, strict=True)
    )


def test_requests_of_all_clients_are_the_difference_of_the_histograms_of_all_servers() -> None:
    before = [metrics({"GET": (10, 10, 10), "WATCH": (0, 0, 5)}), metrics({})]
    after = [metrics({"GET": (60, 60, 60), "WATCH": (0, 0, 95)}), metrics({"GET": (0, 50, 50), "PATCH": (1, 1, 1)})]
    found = figures.from_histograms(before, after)
    assert found["all gets"] == Latency(count=100, median=100.0, p99=198.0)
    assert found["all writes"].count == 1
    assert "all lists" not in found, "there were none"


def test_requests_beyond_the_last_limit_count_with_that_limit() -> None:
    found = figures.from_histograms([metrics({})], [metrics({"LIST": (0, 0, 7)})])
    assert found["all lists"].p99 == pytest.approx(200)


def size(nodes: int, failover: float | None = None) -> scale.Size:
    return scale.Size(
        nodes=nodes,
        pods=5 * nodes,
        nodes_ready=1.0,
        pods_run=2.0,
        requests={"get": Latency(count=600, median=1.5, p99=9.0)},
        memory=dict.fromkeys(figures.COMPONENTS, 100.4),
        database=4.25,
        load=0.5,
        commands={"status": 0.75},
        failover={} if failover is None else {"stop-leader: new leader": failover},
    )


def test_the_table_has_a_column_for_each_size_and_says_what_did_not_come() -> None:
    rows = {row[0]: row[1:] for row in scale.rows([size(0, 12.0), size(100)])}
    assert rows["pods"] == ["0", "500"]
    assert rows["get, ms, p99"] == ["9.0", "9.0"]
    assert rows["get, number"] == ["600", "600"]
    assert rows["etcd, MiB"] == ["100", "100"]
    assert rows["stop-leader: new leader, s"] == ["12.00", "-"]


def test_the_file_says_where_it_was_measured(lab: Cluster) -> None:
    figures_ = scale.document(lab, [size(0), size(100)], seconds=60, load_before=(1.0, 2.0, 3.0))
    assert (figures_["controllers"], figures_["workers"], figures_["kubernetes"]) == (3, 1, "1.36.4")
    assert (figures_["seconds"], figures_["load_before"]) == (60, [1.0, 2.0, 3.0])
    assert [each["nodes"] for each in json.loads(json.dumps(figures_))["sizes"]] == [0, 100]
