"""`./hardway trace pod` on a running lab: the timeline is compared with the cluster."""

import json
import re
from collections.abc import Mapping
from typing import Any

from config import lab as config
from lab.cluster import Cluster
from lab.commands import toolchain
from lab.polling import eventually
from live.trace.pod_objects import SELECTOR

# Each is caused by the one before it.
_CAUSES = (
    "request",
    "stored",
    "scheduled",
    "sandbox",
    "network",
    "sandbox-ready",
    "container-created",
    "container-started",
    "ready",
    "answer",
    "delete",
    "terminating",
    "stop",
    "network-removed",
    "sandbox-stopped",
    "removed",
)
# Of two records: files have the time of the kernel's tick.
_TICK_MS = 20


def check_trace(cluster: Cluster, settings: config.Lab) -> dict[str, Any]:
    """Run `trace pod`, compare each stage with the others and with the cluster, and return the trace."""
    ran = toolchain("trace", "pod", "--json", stack=settings.name)
    assert ran.code == 0, ran.output
    trace: dict[str, Any] = json.loads(ran.output)
    stages = {stage["name"]: stage for stage in trace["stages"]}
    assert {name: stage["missing"] for name, stage in stages.items() if stage["missing"]} == {}
    assert all(stage["evidence"] for stage in stages.values())
    assert set(_CAUSES) <= set(stages)
    times = [stages[name]["milliseconds"] for name in _CAUSES]
    for name, earlier, later in zip(_CAUSES[1:], times, times[1:], strict=False):
        assert later >= earlier - _TICK_MS, (name, dict(zip(_CAUSES, times, strict=True)))

    name, address, node = trace["name"], trace["address"], trace["node"]
    worker = next(each for each in cluster.workers if each.name == node)
    if "calico" not in settings.network.pod_network:
        assert worker.pod_cidr is not None and address in {str(each) for each in worker.pod_cidr}
    revisions = [_revision(stages[stage]) for stage in ("stored", "terminating", "removed")]
    assert revisions == sorted(set(revisions))
    assert f"to {node}" in _text(stages["scheduled"])
    assert address in _text(stages["network"])
    assert address in _text(stages["endpoint"])
    assert address in _text(stages["rule"]) and trace["service_address"] in _text(stages["rule"])
    # Where the machine can show what the address was translated to.
    answer = _text(stages["answer"])
    assert re.search(rf"src={re.escape(address)} ", answer) or "the translation is not shown" in answer
    assert "HTTP 200" in answer
    assert "SIGTERM" in _text(stages["stop"])
    assert _is_removed(cluster), "the Pod or the Service of the trace is left"
    # The audit log itself, not what the command printed of it.
    audited = _audited(cluster, name)
    shown = re.search(r"audit ([0-9a-f-]{36}): create pods ", _text(stages["request"]))
    assert shown is not None and ("create", shown[1]) in audited
    assert '"value":"' not in ran.output
    return trace


def check_every_stage(cluster: Cluster, settings: config.Lab) -> None:
    """`check_trace`, of no fewer stages than were asked for; and nothing of it stays."""
    assert len(check_trace(cluster, settings)["stages"]) >= 12
    check_nothing_is_left(cluster)


def check_packet(cluster: Cluster, settings: config.Lab) -> dict[str, Any]:
    """Run `trace packet` with objects of its own: answered, seen on both workers, and nothing of it stays.

    Returns:
        The trace.
    """
    ran = toolchain("trace", "packet", "--json", stack=settings.name)
    assert ran.code == 0, ran.output
    found: dict[str, Any] = json.loads(ran.output)
    assert found["answered"] and found["endpoint"], found
    for part in ("request", "answer"):
        seen = {hop["machine"] for hop in found["hops"] if hop["part"] == part and hop["interface"]}
        assert len(seen & {each.name for each in settings.machines}) == 2, (part, found)
    translated = [hop for hop in found["hops"] if f"{found['address']} becomes {found['endpoint']}" in hop["what"]]
    assert translated and translated[0]["evidence"], found
    assert len(found["hops"]) >= 12 and not any(hop["ended"] for hop in found["hops"])
    check_nothing_is_left(cluster)
    return found


def check_nothing_is_left(cluster: Cluster) -> None:
    """No object and no program of a trace, on any machine."""
    eventually("no object of a trace", lambda: _is_removed(cluster), seconds=60)
    for machine in cluster.machines:
        # Not this shell's own command line.
        command = "pgrep -fa '[e]tcdctl watch|[n]ft monitor|[i]p -ts -o monitor' || true"
        eventually(
            f"no program of a trace on {machine.name}",
            lambda name=machine.name, command=command: not cluster.ssh(name, command).strip(),  # type: ignore[misc]
            seconds=30,
        )


def _is_removed(cluster: Cluster) -> bool:
    return not cluster.kubectl("get", "pods,services", "-n", "default", "-l", SELECTOR, "-o", "name").strip()


def _audited(cluster: Cluster, name: str) -> set[tuple[str, str]]:
    found: set[tuple[str, str]] = set()
    for controller in cluster.controllers:
        for line in cluster.ssh(
            controller.name, f"grep -h -F {name} /var/log/kubernetes/audit.log || true"
        ).splitlines():
            entry = json.loads(line)
            found.add((entry["verb"], entry["auditID"]))
    return found


def _text(stage: Mapping[str, Any]) -> str:
    return "\n".join(stage["evidence"])


def _revision(stage: Mapping[str, Any]) -> int:
    found = re.search(r"mod_revision (\d+)", _text(stage))
    assert found is not None, stage
    return int(found[1])
