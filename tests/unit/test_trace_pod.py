"""How `trace pod` reads what the components wrote: the lines are those of a real lab, recorded by `Record.json`."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from live.trace import pod_report, pod_stages
from live.trace.mermaid import sequence_diagram
from live.trace.pod_record import Record
from live.trace.pod_stages import Stage

_RECORDED = Path(__file__).with_name("recorded")
_CAUSES = (
    "request",
    "stored",
    "scheduled",
    "seen",
    "sandbox",
    "network",
    "pause",
    "sandbox-ready",
    "container-created",
    "namespaces",
    "container-started",
    "ready",
    "endpoint",
    "rule",
    "answer",
    "delete",
    "terminating",
    "stop",
    "exit",
    "network-removed",
    "sandbox-stopped",
    "cgroup-removed",
    "removed",
)


@pytest.fixture
def record() -> Record:
    """A Pod's whole life."""
    return Record.read((_RECORDED / "trace_pod.json").read_text())


@pytest.fixture
def followed() -> Record:
    """A Pod that exists, of the cluster's DNS, after a restart of its machine."""
    return Record.read((_RECORDED / "trace_pod_followed.json").read_text())


def _by_name(record: Record) -> dict[str, Stage]:
    return {stage.name: stage for stage in pod_stages.read(record)}


def test_every_stage_has_evidence_in_the_order_of_causes(record: Record) -> None:
    stages = pod_stages.read(record)
    assert {stage.name: stage.missing for stage in stages if stage.missing} == {}
    found = {stage.name: stage.at for stage in stages}
    assert set(_CAUSES) <= set(found)
    times = [found[name] for name in _CAUSES]
    assert all(times)
    assert times == sorted(times, key=lambda at: at or 0)
    shown = [stage.at for stage in stages]
    assert shown == sorted(shown, key=lambda at: at or 0)


def test_evidence_is_of_this_pod_and_of_this_request(record: Record) -> None:
    """An audit entry, a key, an address or a process of something else."""
    stages, created = _by_name(record), record.created
    assert created is not None
    assert created.audit_id in stages["request"].evidence[0]
    revision = created.body["metadata"]["resourceVersion"]
    assert stages["stored"].evidence == [
        f"etcd PUT /registry/pods/default/{record.name}: mod_revision {revision}, version 1, Raft term 3"
    ]
    assert any(f"networks/bridge/{record.address} contains" in said for said in stages["network"].evidence)
    assert any(record.uid.replace("-", "_") in said for said in stages["cgroup-removed"].evidence)
    assert any(record.address in said and record.cluster_address in said for said in stages["answer"].evidence)
    assert any(record.address in said and said.startswith("nft monitor: add rule") for said in stages["rule"].evidence)
    assert any("SIGTERM" in said for said in stages["stop"].evidence if said.startswith("log of the container"))


def test_revisions_in_etcd_rise(record: Record) -> None:
    text = "\n".join(
        said
        for stage in pod_stages.read(record)
        if stage.component == "etcd"
        for said in stage.evidence
        if "mod_revision" in said
    )
    revisions = [int(number) for number in re.findall(r"mod_revision (\d+)", text)]
    assert len(revisions) == 3
    assert revisions == sorted(set(revisions))


def test_a_pod_is_stored_before_it_is_bound(record: Record) -> None:
    """With several API servers the scheduler may have it before the one that wrote it has answered."""
    answers = record.machines["controller-0"].answers
    late = {"2026-11-29T15:37:26.993469Z": "2026-11-29T15:37:27.010000Z", "1795966646.996955": "1795966647.012000"}
    for key in ("audit", "etcd-pods"):
        for fields in answers[key]:
            fields[:] = [late.get(field, field).replace(*next(iter(late.items()))) for field in fields]
    stored, scheduled = (_by_name(record)[name].at for name in ("stored", "scheduled"))
    assert stored is not None and scheduled is not None
    assert stored <= scheduled < 1795966647.0


def test_admission_shows_what_was_set_and_no_more(record: Record) -> None:
    said = "\n".join(_by_name(record)["admission"].evidence)
    assert "pod-security.kubernetes.io/enforce-policy: baseline:latest" in said
    assert "node.kubernetes.io/not-ready" in said
    assert "kube-api-access-" in said
    # Sent, not set.
    assert "terminationGracePeriodSeconds" not in said
    assert "imagePullPolicy" not in said


def test_what_the_scheduler_filtered_is_counted_by_itself(record: Record) -> None:
    said = "\n".join(_by_name(record)["scheduled"].evidence)
    assert re.search(r"Filter \(\d+ µs\): .*NodeResourcesFit \+2", said), said
    node = record.node
    assert f"to {node}" in said


def test_a_machine_whose_clock_is_ahead_is_corrected(record: Record) -> None:
    """Two clocks in one timeline."""
    before = _by_name(record)["sandbox"].at
    assert before is not None
    record.machines[record.node] = replace(record.machines[record.node], offset=2.5)
    after = _by_name(record)["sandbox"].at
    assert after == pytest.approx(before - 2.5, abs=1e-6)


def test_without_an_audit_log_the_answer_is_the_evidence(record: Record) -> None:
    """A line that is invented, or a trace that fails."""
    controller = record.machines["controller-0"]
    controller.answers.pop("audit")
    controller.answers["no-audit"] = [["there is no /var/log/kubernetes/audit.log"]]
    stages = _by_name(record)
    assert stages["request"].evidence[0].startswith("answer: HTTP 201")
    assert stages["stored"].evidence
    assert not any(
        said.startswith("audit") for stage in stages.values() for said in stage.evidence if ": " in said[:60]
    )
    # The event and the metrics of a scheduler that has written no audit entry.
    assert stages["scheduled"].evidence[0].startswith("event Scheduled")


def test_a_machine_that_cannot_be_asked_is_named(record: Record) -> None:
    node = record.node
    record.machines[node] = replace(record.machines[node], problem="Connection refused", answers={})
    stages = _by_name(record)
    for name in ("sandbox", "network", "pause", "namespaces", "stop", "sandbox-stopped"):
        assert (stages[name].missing, stages[name].at) == ("Connection refused", None) or stages[name].evidence
    assert stages["sandbox"].missing == "Connection refused"
    lines = "\n".join(pod_report.timeline(record).lines())
    assert "no evidence: Connection refused" in lines


def test_a_machine_without_conntrack_says_so(record: Record) -> None:
    asker = record.machines[record.asker]
    asker.answers.pop("conntrack")
    asker.answers["no-conntrack"] = [["there is neither"]]
    assert _by_name(record)["answer"].evidence[-1] == "the translation is not shown: there is neither"


def test_a_pod_that_is_not_scheduled_ends_the_timeline_there(record: Record) -> None:
    record.pod["spec"].pop("nodeName")
    record.pod["status"].pop("podIP")
    record.machines = {"controller-0": record.machines["controller-0"]}
    record.problems = ["the Pod is not ready within 60 s"]
    found = pod_report.timeline(record)
    assert found.exit_code == 1
    assert {stage.missing for stage in found.stages if stage.name in ("sandbox", "pause")} == {"the Pod has no node"}
    assert "not as expected: the Pod is not ready within 60 s" in list(found.lines())


def test_a_pod_that_exists_has_what_is_still_there(followed: Record) -> None:
    stages = _by_name(followed)
    assert followed.followed
    assert "delete" not in stages
    assert "mod_revision" in stages["stored"].evidence[0]
    assert any(said.startswith("event Scheduled") for said in stages["scheduled"].evidence)
    assert "returns sandbox id" in stages["sandbox-ready"].evidence[0]
    assert any("service-ips" in said for said in stages["rule"].evidence)
    assert pod_report.timeline(followed).exit_code == 0


def test_json_has_all_stages_with_milliseconds(record: Record) -> None:
    found = json.loads(pod_report.timeline(record).json())
    assert found["address"] == record.address
    by_name = {stage["name"]: stage for stage in found["stages"]}
    assert len(by_name) >= 12
    assert 0 <= by_name["request"]["milliseconds"] < by_name["removed"]["milliseconds"] < 60_000


def test_the_sequence_diagram_declares_all_participants(record: Record) -> None:
    lines = pod_report.timeline(record).mermaid().splitlines()
    assert lines[0] == "sequenceDiagram"
    declared = {line.split()[1] for line in lines if line.startswith("  participant ")}
    messages = [re.fullmatch(r"  (p\d+)->>(p\d+): [^;]*", line) for line in lines if "->>" in line]
    assert len(messages) > 12
    for message in messages:
        assert message is not None
        assert {message[1], message[2]} <= declared


def test_mermaids_own_characters_are_escaped() -> None:
    assert sequence_diagram([("a;b", "c", "one; two # three <x>")]).splitlines()[1:] == [
        "  participant p0 as a#59;b",
        "  participant p1 as c",
        "  p0->>p1: one#59; two #35; three #lt;x#gt;",
    ]


def test_a_record_is_read_as_it_was_written(record: Record) -> None:
    assert Record.read(record.json()) == record
