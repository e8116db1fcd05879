"""What people do with kubectl all day, and connections that live long."""

import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab.polling import eventually
from lab.workload import ALONE, NAMESPACE, PORT, TAR, Workload

# Longer than the balancer's connect and check time-outs (5 s and 3 s).
_IDLE = 8


@pytest.fixture(scope="module")
def watch(workload: Workload, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, float]]:
    """A watch through the balancer: the file that its events go to, and when it began."""
    events = tmp_path_factory.mktemp("watch") / "events"
    command = ["get", "configmaps", "--namespace", NAMESPACE, "--watch-only", "--output", "name"]
    with events.open("w") as out:
        process = subprocess.Popen(workload.cluster.kubectl_command(*command), stdout=out, stderr=out)
    yield events, time.monotonic()
    process.terminate()
    process.wait(timeout=10)


@pytest.mark.usefixtures("watch")
def test_logs(workload: Workload) -> None:
    """A kubelet certificate without the node's address, or no right of the API server to ask the kubelet."""

    def logs(*arguments: str) -> str:
        return workload.cluster.kubectl("--namespace", NAMESPACE, "logs", *arguments)

    # A container that runs may not have said anything yet.
    said = eventually("a line of the log", lambda: logs(ALONE, "--container", TAR), seconds=30)
    assert said == "serving\n"
    for pod in workload.web:
        eventually(
            f"a line of the log of {pod.name}",
            lambda name=pod.name: "Started HTTP server" in logs(name),  # type: ignore[misc]
            seconds=30,
            report=lambda name=pod.name: logs(name),  # type: ignore[misc]
        )


def test_exec_with_input_and_status(workload: Workload) -> None:
    """An exec whose streams or exit status get lost on the way through balancer, API server and kubelet."""
    base = ("--namespace", NAMESPACE, "exec", "--stdin", ALONE, "--container", TAR, "--")
    assert workload.cluster.kubectl(*base, "tr", "a-z", "A-Z", stdin="through\n") == "THROUGH\n"
    assert workload.cluster.try_kubectl(*base, "sh", "-c", "exit 42").returncode == 42


def test_port_forward(workload: Workload) -> None:
    """A port-forward that opens and carries nothing."""
    pod = workload.web[0]
    command = ["--namespace", NAMESPACE, "port-forward", f"pod/{pod.name}", f":{PORT}"]
    with subprocess.Popen(workload.cluster.kubectl_command(*command), stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            # "Forwarding from 127.0.0.1:41234 -> 8080"
            said = process.stdout.readline()
            local = said.removeprefix("Forwarding from ").split(" ")[0]
            with urllib.request.urlopen(f"http://{local}/hostname", timeout=10) as answer:
                assert answer.read().decode() == pod.name
        finally:
            process.terminate()


def test_copy_there_and_back(workload: Workload, tmp_path: Path) -> None:
    """Bulk data through exec that is cut short."""
    there, back = tmp_path / "there", tmp_path / "back"
    there.write_bytes(bytes(range(256)) * 8192)
    inside = ("--container", TAR, f"{NAMESPACE}/{ALONE}:/copied")
    workload.cluster.kubectl("cp", str(there), *inside)
    workload.cluster.kubectl("cp", *inside, str(back))
    assert back.read_bytes() == there.read_bytes()


def test_a_long_watch_outlives_the_balancers_time_outs(workload: Workload, watch: tuple[Path, float]) -> None:
    """A balancer that cuts what is idle: kubelets and controllers would miss events and start over."""
    events, began = watch
    # Kept idle until its time has come: nothing else shows that it lives.
    assert "configmap/late" not in events.read_text()
    eventually("the watch has been idle for long enough", lambda: time.monotonic() - began > _IDLE, seconds=2 * _IDLE)
    workload.cluster.kubectl("--namespace", NAMESPACE, "create", "configmap", "late")
    eventually("the event", lambda: "configmap/late" in events.read_text(), seconds=30, report=events.read_text)
