"""`./hardway scale`: simulated Nodes are created, counted and removed, and what is made of the figures."""

import json
from pathlib import Path

import pytest
from small_lab import cluster

from live import scale, workload_tools
from live.cluster import Cluster
from live.scale import figures, simulation
from toolchain import access
from toolchain.errors import ToolchainError


class Api:
    """What kubectl says of an API with Nodes and Pods of which each is Ready at once, or never."""

    def __init__(self) -> None:
        self.nodes: list[str] = ["worker-0"]
        self.pods = 0
        self.namespace = False
        self.is_ready = True

    def kubectl(self, _: Cluster, *arguments: str, stdin: str | None = None, seconds: float = 60) -> str:
        simulated = [name for name in self.nodes if name.startswith("simulated-")]
        if arguments[0] == "apply":
            for each in json.loads(stdin or "")["items"]:
                if each["kind"] == "Node":
                    assert each["spec"]["taints"], "Pods of others must not be scheduled there"
                    self.nodes.append(each["metadata"]["name"])
                elif each["kind"] == "Namespace":
                    self.namespace = True
                else:
                    self.pods = each["spec"]["replicas"]
        elif arguments[:2] == ("delete", "nodes"):
            assert any(word.startswith(f"--selector={simulation.LABEL}") for word in arguments)
            self.nodes = [name for name in self.nodes if name not in simulated]
        elif arguments[:2] == ("delete", "namespace"):
            self.namespace = False
        elif arguments[:2] == ("get", "nodes"):
            if "--no-headers" in arguments:
                return "".join(f"{name} {'Ready' if self.is_ready else 'NotReady'}\n" for name in simulated)
            return "".join(f"node/{name}\n" for name in simulated)
        elif arguments[:2] == ("get", "namespace"):
            return "namespace/x\n" if self.namespace else ""
        elif arguments[:2] == ("get", "deployment"):
            return str(self.pods)
        return ""


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> Api:
    made = Api()
    monkeypatch.setattr(workload_tools, "kubectl", made.kubectl)
    return made


@pytest.fixture
def lab(tmp_path: Path) -> Cluster:
    return cluster(tmp_path)


@pytest.fixture
def kwok(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Runs until it is ended, and says so."""
    monkeypatch.setattr(access, "kubectl_environment", lambda _: {"PATH": "/usr/bin:/bin"})
    program = tmp_path / "kwok"
    program.write_text("#!/bin/sh\nexec sleep 1000\n")
    program.chmod(0o755)
    return program


def test_nodes_and_pods_are_created_up_to_the_number_and_removed_at_the_end(
    lab: Cluster, api: Api, kwok: Path, tmp_path: Path
) -> None:
    with simulation.simulating(lab, kwok, tmp_path / "log"):
        simulation.create_nodes(lab, 3)
        simulation.create_pods(lab, 15)
        simulation.create_nodes(lab, 300)
        assert len(api.nodes) == 301 and api.pods == 15 and api.namespace
        assert len(set(api.nodes)) == 301
    assert api.nodes == ["worker-0"] and not api.namespace


def test_an_error_removes_them_too(lab: Cluster, api: Api, kwok: Path, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), simulation.simulating(lab, kwok, tmp_path / "log"):
        simulation.create_nodes(lab, 3)
        raise RuntimeError
    assert api.nodes == ["worker-0"]


def test_what_an_earlier_run_left_is_removed_first(lab: Cluster, api: Api, kwok: Path, tmp_path: Path) -> None:
    api.nodes.append("simulated-0007")
    with simulation.simulating(lab, kwok, tmp_path / "log"):
        assert api.nodes == ["worker-0"]


def test_nodes_that_do_not_become_ready_are_an_error(lab: Cluster, api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Cluster, "allowed", lambda _, seconds: 0.0)
    api.is_ready = False
    with pytest.raises(ToolchainError, match="5 of 5 simulated Nodes are not Ready"):
        simulation.create_nodes(lab, 5)


@pytest.mark.parametrize(("percent", "value"), [(50, 50.0), (99, 99.0), (100, 100.0), (1, 1.0)])
def test_percentiles(percent: int, value: float) -> None:
    assert figures.percentile([float(each) for each in range(100, 0, -1)], percent) == value


def test_the_table_has_a_column_for_each_size_and_says_what_did_not_come() -> None:
    def size(nodes: int, failover: float | None) -> scale.Size:
        return scale.Size(
            nodes=nodes,
            pods=5 * nodes,
            nodes_ready=1.0,
            pods_ready=2.0,
            requests={"get": (1.5, 9.0)},
            memory=dict.fromkeys(figures.COMPONENTS, 100.4),
            commands={"status": 0.75},
            failover={} if failover is None else {"stop-leader: new leader": failover},
        )

    rows = {row[0]: row[1:] for row in scale.rows([size(0, 12.0), size(100, None)])}
    assert rows["pods"] == ["0", "500"]
    assert rows["get, ms, p99"] == ["9.0", "9.0"]
    assert rows["etcd, MiB"] == ["100", "100"]
    assert rows["stop-leader: new leader, s"] == ["12.00", "-"]
