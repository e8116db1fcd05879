"""`stop` and `start` with an engine that only notes what it is asked."""

import io
import os
import socket
import subprocess
import threading
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from fake_engine import FakeEngine, installed
from small_lab import cluster, node, own_backend

from config.machines import Role
from live import answers, nodes, power
from live import cluster as clusters
from live.cluster import Cluster, LiveMachine
from live.containers import Containers
from live.https_api import ApiError
from toolchain import access, halted, operations, paths
from toolchain.errors import ToolchainError

_WORKS = "https://10.0.0.7:6443"
"""Where an API server answers."""


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cluster:
    monkeypatch.setattr(paths, "checkout", lambda: tmp_path)
    own_backend(tmp_path, monkeypatch)
    found = cluster(tmp_path, controllers=1)
    found.stack.directory.mkdir(parents=True)
    (found.stack.directory / "kubeconfig").write_text("server: https://10.0.0.5:6443\n")
    monkeypatch.setattr(clusters, "find", lambda stack, **given: replace(found, stack=stack))
    monkeypatch.setattr(power, "handshake_problem", lambda lab, url: "")
    monkeypatch.setattr(power, "_api", lambda lab: [])
    monkeypatch.setattr(nodes, "wait_until_heard", lambda *_, **__: {})
    monkeypatch.setattr(power, "dns_problem", lambda lab: "")
    monkeypatch.setattr(power, "dns_pods_missing", lambda lab, since: [])
    monkeypatch.setattr(power, "leaders_missing", lambda lab, since: [])
    monkeypatch.setattr(answers, "problems", lambda lab: [])
    leases_of(monkeypatch)
    return found


@pytest.fixture
def engine(tmp_path: Path, lab: Cluster, monkeypatch: pytest.MonkeyPatch) -> FakeEngine:
    return installed(tmp_path / "bin", lab, monkeypatch)


def refusal(change: Callable[[], object]) -> str:
    with pytest.raises(ToolchainError) as error:
        change()
    return str(error.value)


def test_all_machines_are_stopped_by_id_and_started_again(
    lab: Cluster, engine: FakeEngine, capsys: pytest.CaptureFixture[str]
) -> None:
    power.stop(lab.stack)
    assert engine.statuses() == {"exited"}
    assert sorted(engine.changes()) == sorted(
        f"stop -t {1 if Role.CONTROLLER in each.roles else 3} id-hardway-paper-{each.name}" for each in lab.machines
    )
    assert "`./hardway start -s paper` starts it" in capsys.readouterr().out
    power.start(lab.stack)
    assert engine.statuses() == {"running"}
    assert halted.stopped_since(lab.stack) == ""


def test_workers_are_started_once_the_api_server_accepts_connections(
    lab: Cluster, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kubelets that find no API server: they try again after longer and longer times."""
    power.stop(lab.stack)
    before = len(engine.asked)
    controllers = [each.name for each in lab.machines if Role.WORKER not in each.roles]
    started: list[int] = []

    def handshake_problem(_: Cluster, url: str) -> str:
        started.append(sum(line.startswith("start ") for line in engine.asked[before:]))
        return "" if len(started) >= 2 else "connection refused"

    monkeypatch.setattr(power, "handshake_problem", handshake_problem)
    power.start(lab.stack)
    assert started[:2] == [len(controllers)] * 2
    assert engine.statuses() == {"running"}


def test_workers_are_started_where_the_api_server_never_answers(
    lab: Cluster, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    power.stop(lab.stack)
    monkeypatch.setattr(power, "_API_SECONDS", 0)
    monkeypatch.setattr(power, "_HEALTHY_SECONDS", 0)
    monkeypatch.setattr(power, "handshake_problem", lambda lab, url: "connection refused")
    monkeypatch.setattr(power, "_api", lambda lab: ["connection refused"])
    assert "connection refused" in refusal(lambda: power.start(lab.stack))
    assert engine.statuses() == {"running"}


def test_commands_for_a_stopped_lab_say_how_to_start_it(lab: Cluster, engine: FakeEngine) -> None:
    power.stop(lab.stack)
    for command in (lambda: access.read(lab.stack), lambda: access.kubectl(lab.stack, ["get", "nodes"])):
        said = refusal(command)
        assert said.startswith("The lab paper is stopped, since 2") and said.endswith("`./hardway start -s paper`.")


def test_both_may_be_repeated(lab: Cluster, engine: FakeEngine) -> None:
    power.stop(lab.stack)
    since = halted.stopped_since(lab.stack)
    power.stop(lab.stack)
    assert since and halted.stopped_since(lab.stack) == since
    power.start(lab.stack)
    power.start(lab.stack)


def test_a_stop_that_fails_is_repeated_or_reverted(
    lab: Cluster, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAILS", "stop hardway-paper-worker-0")
    assert "hardway-paper-worker-0: " in refusal(lambda: power.stop(lab.stack))
    # The others are stopped: the lab does not work.
    assert halted.stopped_since(lab.stack)
    monkeypatch.delenv("FAILS")
    power.start(lab.stack)
    assert engine.statuses() == {"running"}


def test_paused_machines_of_a_killed_save_go_on(lab: Cluster, engine: FakeEngine) -> None:
    Containers(lab)._run("pause", "hardway-paper-controller-0")
    power.start(lab.stack)
    assert engine.statuses() == {"running"}


def test_what_is_not_healthy_at_the_deadline_is_said(
    lab: Cluster, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    power.stop(lab.stack)
    monkeypatch.setattr(power, "_HEALTHY_SECONDS", 0)
    monkeypatch.setattr(power, "dns_problem", lambda lab: "DNS on worker-0 does not resolve kubernetes")
    monkeypatch.setattr(answers, "problems", lambda lab: ["kubelet.service on worker-0 does not run"])
    said = refusal(lambda: power.start(lab.stack))
    assert "  - kubelet.service on worker-0 does not run\n  - DNS on worker-0 does not resolve kubernetes\n" in said
    # The machines run: `status` says more, and is not refused.
    assert halted.stopped_since(lab.stack) == ""


def test_up_starts_a_stopped_lab_and_goes_on_with_one_that_is_not_healthy(
    lab: Cluster, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    power.start_for_up(lab.stack)
    assert engine.asked == []
    power.stop(lab.stack)
    monkeypatch.setattr(power, "_HEALTHY_SECONDS", 0)
    monkeypatch.setattr(power, "dns_problem", lambda lab: "DNS on worker-0 does not resolve kubernetes")
    power.start_for_up(lab.stack)
    assert engine.statuses() == {"running"}
    assert "It is started first." in (said := capsys.readouterr().out) and "  - DNS on worker-0" in said


def test_other_containers_than_the_labs_are_left_alone(lab: Cluster, engine: FakeEngine) -> None:
    engine.create("worker-7")
    engine.upper("worker-0").parent.rename(engine.upper("worker-0").parents[2] / "gone")
    said = refusal(lambda: power.stop(lab.stack))
    assert "hardway-paper-worker-0 is missing: `./hardway replace worker-0`" in said
    assert "hardway-paper-worker-7 is not of the lab's machines" in said
    assert engine.changes() == [] and not halted.stopped_since(lab.stack)


@pytest.mark.parametrize("substrate", ["libvirt", "gcp", "machines"])
@pytest.mark.parametrize("command", ["stop", "start"])
def test_other_substrates_are_refused(lab: Cluster, engine: FakeEngine, substrate: str, command: str) -> None:
    said = refusal(lambda: getattr(power, command)(replace(lab.stack, substrate=substrate)))
    assert f"the substrate `{substrate}`" in said and "Nothing was changed." in said
    assert engine.asked == []


def test_another_user_than_root_is_told_to_use_sudo(
    lab: Cluster, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert refusal(lambda: power.stop(lab.stack)).endswith("Run the same command with sudo.")
    assert engine.asked == []


def test_a_lab_whose_rewind_is_not_finished_is_neither_started_nor_changed(lab: Cluster, engine: FakeEngine) -> None:
    halted.mark_rewinding(lab.stack, "before")
    for command in (
        lambda: power.start(lab.stack),
        lambda: power.stop(lab.stack),
        lambda: access.read(lab.stack),
        lambda: operations.check_settings(lab.stack),
        lambda: operations.preview(None, lab.stack),  # type: ignore[arg-type]
    ):
        assert refusal(command).endswith("`./hardway rewind -s paper before`.")
    assert engine.asked == []


def leases_of(monkeypatch: pytest.MonkeyPatch, *leases: dict[str, object]) -> list[dict[str, object]]:
    """The API has these leases; what is written to it is returned."""
    written: list[dict[str, object]] = []

    class FakeApi:
        def __init__(self, _: Cluster) -> None: ...

        def send(self, method: str, path: str, body: Any = None, *, url: str, seconds: float) -> dict[str, object]:
            if url != _WORKS:
                raise ApiError("connection refused")
            if method == "PUT":
                assert path.endswith(f"/leases/{body['metadata']['name']}")
                written.append(body)
            return {"items": leases}

    monkeypatch.setattr(power, "Api", FakeApi)
    return written


def test_only_leases_from_before_the_stop_are_released(lab: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without it Services have no pods for 15 s; with the others there would be two leaders."""
    since = datetime(2026, 11, 29, 12, 0, 0, tzinfo=UTC)

    def lease(name: str, renewed: str, holder: str) -> dict[str, object]:
        spec = {"holderIdentity": holder, "renewTime": renewed, "leaseDurationSeconds": 15}
        return {"metadata": {"name": name, "resourceVersion": "7"}, "spec": spec}

    old = lease("kube-controller-manager", "2026-11-29T11:59:59.000000Z", "controller-0_a")
    new = lease("kube-scheduler", "2026-11-29T12:00:01.000000Z", "controller-0_b")
    free = lease("another", "2026-11-29T11:00:00.000000Z", "")
    written = leases_of(monkeypatch, old, new, free)
    power.release_leases(lab, since, ["https://10.0.0.9:6443", _WORKS, "https://10.0.0.8:6443"])
    (released,) = written
    assert released["metadata"] == {"name": "kube-controller-manager", "resourceVersion": "7"}
    assert released["spec"]["holderIdentity"] == ""  # type: ignore[index]


def test_an_api_server_that_accepts_no_connections_is_named(lab: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """A load balancer that accepts and closes them: no API server is ready behind it."""
    monkeypatch.undo()
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"https://127.0.0.1:{server.getsockname()[1]}"
        closer = threading.Thread(target=lambda: server.accept()[0].close(), daemon=True)
        closer.start()
        assert power.handshake_problem(lab, url).startswith("no TLS handshake: ")
        closer.join()
    assert power.handshake_problem(lab, url).startswith("no TLS handshake: ")


def test_the_api_is_ready_once_it_says_so(lab: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """An endpoint that answers and is not ready."""
    monkeypatch.undo()
    answers_of_api: list[object] = [ApiError("HTTP 500: [-]etcd failed", 500), "ok"]

    class FakeApi:
        def __init__(self, _: Cluster) -> None: ...

        def get(self, path: str) -> object:
            assert path == "/readyz"
            if isinstance(said := answers_of_api.pop(0), ApiError):
                raise said
            return said

    monkeypatch.setattr(power, "Api", FakeApi)
    assert power._api(lab) == [f"the API at {lab.endpoint} does not answer (HTTP 500: [-]etcd failed)"]
    assert power._api(lab) == []


def test_a_pod_of_dns_counts_once_its_container_has_started_again(
    lab: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pods whose state is from before the stop: the API says for a while that they are Ready."""
    monkeypatch.undo()
    since = datetime(2026, 11, 29, 12, 0, 0, tzinfo=UTC)

    def pod(name: str, started: str, ready: str = "True", phase: str = "Running", **metadata: str) -> object:
        state = {"running": {"startedAt": started}} if started else {"waiting": {}}
        status = {"conditions": [{"type": "Ready", "status": ready}], "containerStatuses": [{"state": state}]}
        return {"metadata": {"name": name, **metadata}, "status": {"phase": phase, **status}}

    before, after = "2026-11-29T11:00:00Z", "2026-11-29T12:00:04Z"
    items = [
        pod("again", after),
        pod("old", before),
        pod("waits", ""),
        pod("starts", after, ready="False"),
        pod("evicted", before, phase="Failed"),
        pod("leaves", before, deletionTimestamp=after),
        {"metadata": {"name": "new"}, "status": {"phase": "Pending"}},
    ]

    class FakeApi:
        def __init__(self, _: Cluster) -> None: ...

        def get(self, path: str) -> object:
            if path == "/apis/apps/v1/namespaces/kube-system/deployments/coredns":
                return {"spec": {"replicas": 2}, "status": {"availableReplicas": 1}}
            assert path == "/api/v1/namespaces/kube-system/pods?labelSelector=k8s-app%3Dkube-dns"
            if not items:
                raise ApiError("HTTP 500: no", 500)
            return {"items": items}

    monkeypatch.setattr(power, "Api", FakeApi)
    missing = [f"the pod {name} of DNS is not Ready" for name in ("old", "waits", "starts", "new")]
    assert power.dns_pods_missing(lab, since) == missing
    items[1:] = []
    assert power.dns_pods_missing(lab, since) == ["DNS has 1 of 2 replicas available"]
    items.clear()
    assert power.dns_pods_missing(lab, since) == ["the pods of DNS cannot be asked for (HTTP 500: no)"]


def test_a_leader_counts_once_it_has_renewed_its_lease(lab: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """A lease from before the stop, or one that was released and that nobody has taken."""
    monkeypatch.undo()
    now = datetime.now(UTC)

    def lease(name: str, seconds_ago: float, holder: str) -> dict[str, object]:
        renewed = (now - timedelta(seconds=seconds_ago)).isoformat()
        spec = {"holderIdentity": holder, "renewTime": renewed, "leaseDurationSeconds": 15}
        return {"metadata": {"name": name}, "spec": spec}

    manager, scheduler = "kube-controller-manager", "kube-scheduler"
    found: list[object] = []

    class FakeApi:
        def __init__(self, _: Cluster) -> None: ...

        def get(self, path: str) -> object:
            assert path == "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases"
            return {"items": found}

    monkeypatch.setattr(power, "Api", FakeApi)
    since = now - timedelta(seconds=5)
    found[:] = [lease(manager, 8, "controller-0_a"), lease(scheduler, 1, "")]
    assert power.leaders_missing(lab, since) == [f"{manager} has no leader", f"{scheduler} has no leader"]
    found[:] = [lease(manager, 1, "controller-0_b"), lease("another", 1, "x")]
    assert power.leaders_missing(lab, since) == [f"{scheduler} has no leader"]
    found[:] = [lease(manager, 1, "controller-0_b"), lease(scheduler, 2, "controller-0_c")]
    assert power.leaders_missing(lab, since) == []


@pytest.mark.parametrize("what", ["dns_pods_missing", "leaders_missing"])
def test_a_start_waits_for_leaders_and_each_pod_of_dns(
    lab: Cluster, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    power.stop(lab.stack)
    looks = [["it is not there"], []]
    monkeypatch.setattr(power, what, lambda lab, since: looks.pop(0))
    power.start(lab.stack)
    assert looks == []


def test_dns_is_asked_until_it_answers_in_one_login(
    lab: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A login for each query, or an answer that is not the API's address and counts."""
    monkeypatch.undo()
    dig, api = tmp_path / "dig", lab.stack.network.api_service
    # The first answer is none, the second one is old.
    dig.write_text(
        f"#!/bin/bash\necho x >>{tmp_path}/asked\n"
        f"case $(wc -l <{tmp_path}/asked) in 1) ;; 2) echo 10.9.9.9 ;; *) echo {api} ;; esac\n"
    )
    dig.chmod(0o755)
    logins: list[str] = []

    def ssh(_: Cluster, machine: LiveMachine, script: str, **__: object) -> subprocess.CompletedProcess[str]:
        logins.append(machine.name)
        path = f"{tmp_path}:{os.environ['PATH']}"
        return subprocess.run(
            ["bash", "-c", script], env={"PATH": path}, capture_output=True, text=True, check=False, timeout=60
        )

    monkeypatch.setattr(Cluster, "ssh", ssh)
    assert power.dns_problem(lab) == ""
    assert logins == ["worker-0"] and len((tmp_path / "asked").read_text().splitlines()) == 3
    dig.write_text("#!/bin/sh\necho 10.9.9.9\n")
    monkeypatch.setattr(power, "_DNS_SECONDS", 0)
    assert power.dns_problem(lab).endswith("does not resolve kubernetes.default.svc.cluster.local: 10.9.9.9")


def test_a_node_counts_once_its_kubelet_has_renewed_its_lease(lab: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """A Node whose condition is from before the stop, and counts."""
    monkeypatch.undo()
    name, since = "worker-0", datetime(2026, 11, 29, 9, 0, tzinfo=UTC)
    spec = {"renewTime": "2026-11-29T08:59:00.000000Z"}
    there = {
        "/api/v1/nodes/worker-0": node(name),
        "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/worker-0": {"spec": spec},
    }

    class FakeApi:
        def __init__(self, _: Cluster) -> None: ...

        def connection(self, *, seconds: float) -> io.StringIO:
            return io.StringIO()

    monkeypatch.setattr(nodes, "ask", lambda _, __, path: there[path])
    monkeypatch.setattr(nodes, "Api", FakeApi)
    assert nodes.wait_until_heard(lab, [name], since=since, seconds=0) == {name: "its kubelet has not been heard"}
    spec["renewTime"] = "2026-11-29T09:01:00.000000Z"
    assert nodes.wait_until_heard(lab, [name], since=since, seconds=0) == {}
