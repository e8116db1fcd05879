"""The stages of a Pod's life, each with what the component itself says of it.

A stage without evidence says why there is none. Nothing is concluded from how Kubernetes works: each line of evidence
is in a record that a component wrote, or is what the kernel or a file shows.
"""

import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from config import health
from live.trace import pod_read
from live.trace.pod_read import AuditEntry, Line, seconds
from live.trace.pod_record import MachineRecord, Record

_NO_MACHINE = MachineRecord(problem="it is not known where")
_API, _ETCD, _SCHEDULER, _KUBELET = "kube-apiserver", "etcd", "kube-scheduler", "kubelet"
_CONTAINERD, _RUNC, _CNI, _PROXY, _KERNEL = "containerd", "runc", "CNI plugin", "kube-proxy", "kernel"
_SLICES = "endpointslice-controller"
_NEVER = "it did not happen in time"


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One stage.

    Args:
        name: its own, for programs.
        at: when: seconds since 1970, by the Pulumi host's clock; null where no component tells it.
        machine, component: where, and of whom the evidence is.
        what: in words.
        evidence: what the component wrote or has.
        missing: why there is no evidence; empty where there is some.
    """

    name: str
    at: float | None
    machine: str
    component: str
    what: str
    evidence: list[str] = field(default_factory=list)
    missing: str = ""


def read(record: Record) -> list[Stage]:
    """The stages in the order of their times; one without a time stands where it belongs."""
    return _in_order(list(_Reader(record).stages()))


def begin(record: Record, stages: Sequence[Stage]) -> float:
    """The time that the timeline counts from: the submission."""
    if record.created is not None:
        return record.created.sent
    first = next((stage.at for stage in stages if stage.name == "request" and stage.at is not None), None)
    return first or seconds(record.pod["metadata"]["creationTimestamp"])


def _in_order(stages: list[Stage]) -> list[Stage]:
    keyed, last = [], 0.0
    for stage in stages:
        last = stage.at if stage.at is not None else last
        keyed.append((last, stage))
    return [stage for _, stage in sorted(keyed, key=lambda pair: pair[0])]


class _Reader:
    """All records of one Pod, read."""

    def __init__(self, record: Record) -> None:
        self._record = record
        self._node = record.machines.get(record.node, _NO_MACHINE)
        machines = record.machines.items()
        self._audit = [each for name, found in machines for each in pod_read.audit(name, found)]
        self._pods = [each for name, found in machines for each in pod_read.etcd(name, found, "pods")]
        self._pods = [each for each in self._pods if each.key.endswith(f"/{record.name}")]
        self._slices = [each for name, found in machines for each in pod_read.etcd(name, found, "endpointslices")]
        self._journal = sorted(pod_read.journal(record.node, self._node), key=lambda each: each.at)
        self._links = list(pod_read.links(record.node, self._node))
        self._gone = {each.text.partition("\t")[0]: each for each in pod_read.stamped(record.node, self._node, "gone")}
        self._ids = {fields[0]: fields[1] for fields in self._all("process")}

    def stages(self) -> Iterator[Stage]:
        """All stages, in the order of their causes."""
        yield self._request()
        yield self._admission()
        yield self._stored()
        yield self._scheduled()
        yield self._seen()
        yield self._sandbox()
        yield self._network()
        yield self._pause()
        yield self._namespaces()
        yield self._sandbox_ready()
        yield self._image()
        yield self._container("container-created", "CreateContainer within sandbox", " returns container id")
        yield self._container("container-started", "StartContainer for", " returns successfully")
        yield self._ready()
        yield self._endpoint()
        yield self._rule()
        if self._record.followed:
            return
        yield self._answer()
        yield self._delete()
        yield self._terminating()
        yield self._endpoint_terminating()
        yield self._stop()
        yield self._exit()
        yield self._network_removed()
        yield self._sandbox_stopped()
        yield self._endpoint_removed()
        yield self._cgroup_removed()
        yield self._rule_removed()
        yield self._removed()

    # Submission

    def _request(self) -> Stage:
        created = self._record.created
        entry = self._entry("create", "pods", created.audit_id if created else None)
        said = [f"answer: HTTP {created.code}, header Audit-Id: {created.audit_id}"] if created else []
        return self._stage(
            "request",
            entry.received if entry else created.sent if created else None,
            entry.machine if entry else "",
            _API,
            f"POST of the Pod {self._record.namespace}/{self._record.name}",
            [*([_audit(entry)] if entry else []), *said],
            self._no_audit(),
        )

    def _admission(self) -> Stage:
        created = self._record.created
        entry = self._entry("create", "pods", created.audit_id if created else None)
        marks = [f"{key}: {value}" for key, value in (entry.annotations if entry else {}).items() if "security" in key]
        added = list(_added(self._record.sent, created.body)) if created else []
        said = [
            *(f"audit annotation {mark}" for mark in marks),
            *_grouped(added),
            *(f"warning: {warning}" for warning in (created.warnings if created else [])),
        ]
        return self._stage(
            "admission",
            entry.received if entry else created.sent if created else None,
            entry.machine if entry else "",
            _API,
            "admission: defaults are set, Pod Security is checked",
            said,
            "what was sent is not known, and the audit log has no annotation of Pod Security",
        )

    def _stored(self) -> Stage:
        first = next((each for each in self._pods if each.version == 1), None)
        entry = self._entry("create", "pods", self._record.created.audit_id if self._record.created else None)
        if first is not None:
            # The member's word passes some programs on its way; the API server answers after the write. The scheduler
            # may have the Pod from another API server before that answer: it was written before it was bound.
            answered = [entry.completed] if entry else []
            at = min([first.at, *answered, *(each.received for each in self._bound())])
            return self._stage("stored", at, first.machine, _ETCD, "the Pod is written", [first.text])
        found = [now for name, each in self._record.machines.items() if (now := pod_read.stored(name, each))]
        said = [f"{found[0].text}; create_revision {found[0].created}"] if found else []
        machine = found[0].machine if found else ""
        return self._stage("stored", None, machine, _ETCD, "the Pod is in etcd", said, self._problem_of("etcd-status"))

    # The scheduler

    def _scheduled(self) -> Stage:
        bound = self._bound()
        entry = bound[-1] if bound else None
        said = [_audit(entry)] if entry else []
        said += [f"event {each['reason']}: {each['message']}" for each in self._events("Scheduled", "FailedScheduling")]
        if entry is not None and not self._record.followed:
            said += list(_scheduling(self._record.machines[entry.machine]))
        condition = health.condition_of(self._record.pod, "PodScheduled")
        if not said and condition:
            said = [f"condition PodScheduled {condition['status']}: {condition.get('message', '')}".rstrip(": ")]
        node = self._record.node
        return self._stage(
            "scheduled",
            # The kubelet may have the Pod before the scheduler has its answer.
            entry.received if entry else None,
            entry.machine if entry else "",
            _SCHEDULER,
            f"bound to {node}" if node else "not bound to a node",
            said,
            self._no_audit(),
        )

    # The node

    def _seen(self) -> Stage:
        told = [fields[0] for fields in self._all("seen")]
        lines = [each for each in self._journal if each.program == _KUBELET and self._record.uid in each.text]
        made = [each for each in self._journal if each.text.startswith("Created slice kubepods")]
        said = [f"annotation kubernetes.io/config.seen: {told[0]}"] if told else []
        said += [f"systemd: {each.text.split(' - ')[0].rstrip('.')}" for each in made[:1]]
        said += [f"journal: {_klog(each.text)}" for each in lines[:1]]
        said += [f"directory {fields[0]}" for fields in self._all("directory")]
        times = [seconds(told[0]) - self._node.offset] if told else [each.at for each in (*made[:1], *lines[:1])]
        return self._on_node("seen", min(times, default=None), _KUBELET, "the kubelet has the Pod", said)

    def _image(self) -> Stage:
        images = [" ".join(fields[0].split()[:3]) for fields in self._all("image")]
        pulls = [each for each in self._journal if each.program == _CONTAINERD and each.text.startswith("PullImage")]
        told = self._events("Pulled", "Pulling", "Failed", "BackOff")
        said = [f"event {each['reason']}: {each['message']}" for each in told]
        said += [f"containerd: {_short(each.text)}" for each in pulls]
        said += [f"ctr images: {image}" for image in images]
        at = next((each.at for each in self._record.events if each.object.get("reason") == "Pulled"), None)
        started = self._journal_line("CreateContainer within sandbox")
        if self._record.followed or (at is not None and started is not None):
            # The event comes by way of the API; the image is there before the container is created.
            at = started.at if started is not None else None
        return self._on_node("image", at, _KUBELET, "the image is there" if images else "the image", said)

    def _sandbox(self) -> Stage:
        line = self._journal_line("RunPodSandbox for")
        return self._logged("sandbox", line, "RunPodSandbox: the sandbox is being created")

    def _sandbox_ready(self) -> Stage:
        line = self._journal_line("RunPodSandbox for", " returns sandbox id")
        return self._logged("sandbox-ready", line, "RunPodSandbox returns: the sandbox runs")

    def _network(self) -> Stage:
        said, times, address = [], [], ""
        for fields in self._all("cni-result"):
            result = json.loads(fields[2])["result"]
            if not fields[0].endswith("-lo"):
                names = ", ".join(each["name"] for each in result.get("interfaces", []))
                address = ", ".join(each["address"] for each in result.get("ips", []))
                said.append(f"{fields[0]}: interfaces {names}; address {address}")
                times.append(float(fields[1]) - self._node.offset)
        said += [f"host-local: {fields[0]} contains {_short(fields[2])}" for fields in self._all("host-local")]
        for key, place in (("pod-link", "in the Pod"), ("host-link", "on the host"), ("pod-address", "in the Pod")):
            said += [f"ip, {place}: {_spaces(fields[0])}" for fields in self._all(key) if fields[0]]
        said += [f"ip route get: {_spaces(fields[0])}" for fields in self._all("host-route")]
        said += [f"kernel: {_spaces(each.text)}" for each in self._links[:1]]
        said += [f"Calico: {text}" for text in self._calico("assigned addresses", "Setting the host side veth name")]
        missing = "the Pod uses the network of its node" if self._record.pod["spec"].get("hostNetwork") else ""
        what = f"CNI ADD: {address}" if address else "CNI ADD"
        return self._on_node("network", max(times, default=None), _CNI, what, said, missing)

    def _pause(self) -> Stage:
        return self._process("pause", "sandbox", "the pause container runs")

    def _namespaces(self) -> Stage:
        spaces: dict[str, dict[str, str]] = {}
        for kind, text in (fields for fields in self._all("namespace") if len(fields) == 2):
            name, _, number = text.partition(":")
            spaces.setdefault(kind, {})[name] = number
        said = [f"{kind}: {' '.join(f'{k}:{v}' for k, v in found.items())}" for kind, found in spaces.items()]
        pause, own = spaces.get("sandbox", {}), spaces.get("container", {})
        if own and pause:
            shared = [name for name in pause if pause[name] == own.get(name)]
            said.append(f"the same in both: {', '.join(shared)}")
        at = self._runc("container")[1] or self._runc("sandbox")[1]
        return self._on_node("namespaces", at, _KERNEL, "the container joins the namespaces of pause", said)

    def _container(self, name: str, start: str, end: str) -> Stage:
        line = self._journal_line(start, end)
        what = f"{start.split()[0]} returns"
        if name == "container-started":
            said, at = self._runc("container")
            said += [f"cgroup {fields[1]}" for fields in self._all("cgroup") if fields[0] == "container"]
            logged = [f"containerd: {_short(line.text)}"] if line else []
            found = line.at if line else at
            return self._on_node(name, found, _CONTAINERD, f"{what}: the container runs", [*logged, *said])
        return self._logged(name, line, f"{what}: the container is created")

    def _process(self, name: str, kind: str, what: str) -> Stage:
        said, at = self._runc(kind)
        said += [f"pid {fields[2]} ({fields[4]})" for fields in self._all("process") if fields[0] == kind]
        said += [f"cgroup {fields[1]}" for fields in self._all("cgroup") if fields[0] == kind]
        return self._on_node(name, at, _RUNC, what, said)

    # Ready, and behind the Service

    def _ready(self) -> Stage:
        seen = next((each for each in self._record.pods if health.has_condition(each.object)), None)
        patches = pod_read.of(self._audit, "patch", "pods/status", "system:node:")
        if seen is None:
            return self._on_node("ready", None, _KUBELET, "the Pod is not Ready", [], _NEVER)
        said = []
        if self._record.followed:
            at = seconds(str(health.condition_of(seen.object)["lastTransitionTime"]))
            entry = None
            said.append("condition Ready True since " + health.condition_of(seen.object)["lastTransitionTime"])
        else:
            version = seen.object["metadata"]["resourceVersion"]
            written = next((each for each in self._pods if str(each.revision) == version), None)
            known = min(seen.at, written.at) if written else seen.at
            # The last one that had been sent by then.
            entry = next((each for each in reversed(patches) if each.received <= known), None)
            at = min(known, entry.completed) if entry else known
            said.append(f"watch: Ready True at resourceVersion {version}")
        lines = [each for each in self._journal if "Observed pod startup duration" in each.text]
        said = [*([_audit(entry)] if entry else []), *said, *(f"journal: {_klog(each.text)}" for each in lines[:1])]
        return self._on_node("ready", at, _KUBELET, "status: the Pod is Ready", said)

    def _endpoint(self) -> Stage:
        return self._slice_stage(
            "endpoint",
            "the EndpointSlice has the address",
            lambda endpoint: bool(endpoint) and bool(endpoint["conditions"].get("ready")),
        )

    def _rule(self) -> Stage:
        record = self._record
        found = record.machines.get(record.asker, _NO_MACHINE)
        events = [each for each in self._rule_events(record.asker) if each.text.startswith("add rule")]
        first = next((each for each in events if _names_address(each.text, record.address)), None)
        said = [f"nft monitor: {_spaces(each.text)}" for each in ([first] if first else [])]
        for tool in ("nftables", "iptables"):
            said += [f"{tool}: {_spaces(fields[0])}" for fields in found.answers.get(f"rule-{tool}", [])]
        missing = found.problem or "no rule of kube-proxy names the address of the Pod"
        if not record.cluster_address:
            missing = "no Service selects the Pod"
        elif record.cluster_address == "None":
            missing = "the Service is headless: it has no address"
        at = first.at if first else None
        return self._stage("rule", at, record.asker, _PROXY, f"the rule for {record.cluster_address}", said, missing)

    def _answer(self) -> Stage:
        record = self._record
        found = record.machines.get(record.asker, _NO_MACHINE)
        answers = found.answers.get("answer", [])
        said = [f"curl http://{record.cluster_address}: {_spaces(fields[2])}" for fields in answers]
        said += [f"conntrack: {_spaces(fields[0])}" for fields in found.answers.get("conntrack", [])]
        said += [f"the translation is not shown: {fields[0]}" for fields in found.answers.get("no-conntrack", [])]
        good = answers and " HTTP 200 " in answers[-1][2]
        at = float(answers[-1][1]) - found.offset if good else None
        what = "a request through the Service is answered" if good else "no answer through the Service"
        return self._stage("answer", at, record.asker, _KERNEL, what, said, found.problem or _NEVER)

    # Back

    def _delete(self) -> Stage:
        deleted = self._record.deleted
        entry = self._entry("delete", "pods", deleted.audit_id if deleted else None)
        at = entry.received if entry else deleted.sent if deleted else None
        said = [_audit(entry)] if entry else []
        said += [f"answer: HTTP {deleted.code}, header Audit-Id: {deleted.audit_id}"] if deleted else []
        machine = entry.machine if entry else ""
        return self._stage("delete", at, machine, _API, "DELETE of the Pod", said, self._no_audit())

    def _terminating(self) -> Stage:
        deleted = self._record.deleted
        if deleted is None:
            return self._stage("terminating", None, "", _ETCD, "deletionTimestamp is set", [], _NEVER)
        metadata = deleted.body.get("metadata", {})
        written = next((each for each in self._pods if str(each.revision) == metadata.get("resourceVersion")), None)
        said = [
            f"deletionTimestamp {metadata.get('deletionTimestamp')}, {metadata.get('deletionGracePeriodSeconds')} s"
        ]
        entry = self._entry("delete", "pods", deleted.audit_id)
        at = deleted.answered
        if written is not None:
            at = min(written.at, entry.completed if entry else deleted.answered)
            said.append(written.text)
        machine = written.machine if written else ""
        return self._stage("terminating", at, machine, _ETCD, "deletionTimestamp is set", said)

    def _endpoint_terminating(self) -> Stage:
        return self._slice_stage(
            "endpoint-not-ready",
            "the EndpointSlice: the endpoint is not ready",
            lambda endpoint: not (endpoint and endpoint["conditions"].get("ready")),
            after=self._record.deleted.sent if self._record.deleted else None,
        )

    def _endpoint_removed(self) -> Stage:
        return self._slice_stage(
            "endpoint-removed",
            "the EndpointSlice has no address",
            lambda endpoint: not endpoint,
            after=self._record.deleted.sent if self._record.deleted else None,
        )

    def _rule_removed(self) -> Stage:
        record = self._record
        since = record.deleted.sent if record.deleted else 0
        events = [each for each in self._rule_events(record.asker) if each.at >= since]
        # The last one that deletes: a rule is also replaced when its endpoint begins to terminate.
        last = next((each for each in reversed(events) if each.text.startswith("delete")), None)
        said = [f"nft monitor: {_spaces(each.text)}" for each in events if last and each.at > last.at - 0.1]
        gone = record.machines.get(record.asker, _NO_MACHINE).answers.get("no-rule", [])
        said += [f"no rule names {fields[1]}" for fields in gone if fields[2] == "yes"]
        at = last.at if last else float(gone[-1][0]) if said else None
        return self._stage("rule-removed", at, record.asker, _PROXY, "the rule is removed", said, _NEVER)

    def _stop(self) -> Stage:
        line = self._journal_line("StopContainer for")
        sent = self._journal_line("Stop container", " with signal")
        said = [f"containerd: {_short(each.text)}" for each in (line, sent) if each]
        told = [fields[0] for fields in self._all("log") if "SIGTERM" in fields[0]]
        said += [f"log of the container: {text}" for text in told]
        said += [f"event {each['reason']}: {each['message']}" for each in self._events("Killing")]
        return self._on_node("stop", line.at if line else None, _CONTAINERD, "StopContainer: SIGTERM", said)

    def _exit(self) -> Stage:
        line = self._journal_line("received container exit event")
        states = [
            each["state"]["terminated"]
            for seen in reversed(self._record.pods)
            for each in seen.object["status"].get("containerStatuses", [])
            if "terminated" in each.get("state", {})
        ]
        said = [f"containerd: {_short(line.text)}"] if line else []
        said += [f"status: exit code {each['exitCode']}, {each.get('reason', '')}" for each in states[:1]]
        gone = self._gone.get("container-process")
        said += [f"{gone.text.partition(chr(9))[2]} is gone"] if gone else []
        at = line.at if line else gone.at if gone else None
        return self._on_node("exit", at, _CONTAINERD, "the container has ended", said)

    def _network_removed(self) -> Stage:
        line = self._journal_line("TearDown network for sandbox")
        said = [f"containerd: {_short(line.text)}"] if line else []
        said += [f"kernel: {_spaces(each.text)}" for each in self._links if each.text.startswith("Deleted")][:1]
        for key in ("host-local", "cni-result"):
            said += [f"{self._gone[key].text.partition(chr(9))[2]} is gone"] if key in self._gone else []
        said += [f"Calico: {text}" for text in self._calico("Releasing address using", "Released address")]
        at = line.at if line else None
        return self._on_node("network-removed", at, _CNI, "CNI DEL: interface and address are released", said)

    def _sandbox_stopped(self) -> Stage:
        line = self._journal_line("StopPodSandbox for", " returns successfully")
        said = [f"containerd: {_short(line.text)}"] if line else []
        said += [f"pause: {self._gone['sandbox-process'].text.partition(chr(9))[2]} is gone"] if self._gone else []
        removed = self._journal_line("RemovePodSandbox", " returns successfully")
        said += [f"containerd: {_short(removed.text)}"] if removed else []
        if line and not removed:
            said.append("RemovePodSandbox: not in containerd's log until now")
        return self._on_node("sandbox-stopped", line.at if line else None, _CONTAINERD, "the sandbox is stopped", said)

    def _cgroup_removed(self) -> Stage:
        slice_ = next((each for each in self._journal if each.text.startswith("Removed slice kubepods")), None)
        gone = self._gone.get("pod-cgroup")
        said = [f"systemd: {slice_.text.split(' - ')[0].rstrip('.')}"] if slice_ else []
        said += [f"{gone.text.partition(chr(9))[2]} is gone"] if gone else []
        at = slice_.at if slice_ else gone.at if gone else None
        return self._on_node("cgroup-removed", at, _KUBELET, "the cgroup of the Pod is removed", said)

    def _removed(self) -> Stage:
        entries = pod_read.of(self._audit, "delete", "pods", "system:node:")
        last = next((each for each in self._pods if each.deleted), None)
        said = [_audit(each) for each in entries[-1:]] + ([last.text] if last else [])
        at = last.at if last else entries[-1].completed if entries else None
        machine = last.machine if last else entries[-1].machine if entries else ""
        return self._stage("removed", at, machine, _ETCD, "the Pod is removed", said, _NEVER)

    # What several stages use

    def _stage(
        self, name: str, at: float | None, machine: str, component: str, what: str, said: list[str], missing: str = ""
    ) -> Stage:
        missing = "" if said else missing or "the component has written nothing of it"
        return Stage(
            name=name,
            at=at if said else None,
            machine=machine,
            component=component,
            what=what,
            evidence=said,
            missing=missing,
        )

    def _on_node(
        self, name: str, at: float | None, component: str, what: str, said: list[str], missing: str = ""
    ) -> Stage:
        node = self._record.node
        why = self._node.problem or missing if node else "the Pod has no node"
        return self._stage(name, at, node, component, what, said, why)

    def _logged(self, name: str, line: Line | None, what: str) -> Stage:
        said = [f"containerd: {_short(line.text)}"] if line else []
        missing = "containerd's journal has no such line" + (
            " since the Pod was created" if self._record.followed else ""
        )
        return self._on_node(name, line.at if line else None, _CONTAINERD, what, said, missing)

    def _slice_stage(
        self, name: str, what: str, wanted: Callable[[dict[str, Any]], bool], after: float | None = None
    ) -> Stage:
        for seen in self._record.slices:
            endpoint = _endpoint(seen.object, self._record.uid)
            if (after is not None and seen.at < after) or not wanted(endpoint):
                continue
            metadata = seen.object["metadata"]
            shown = f"{endpoint['addresses'][0]} {_conditions(endpoint)}" if endpoint else "no endpoint"
            said = [f"EndpointSlice {metadata['name']}: {shown}"]
            written = next((e for e in self._slices if str(e.revision) == metadata["resourceVersion"]), None)
            before = [e for e in self._audit if e.resource == "endpointslices" and e.received <= seen.at]
            entry = max(before, key=lambda each: each.received, default=None)
            if self._record.followed:
                said.append(f"resourceVersion {metadata['resourceVersion']}")
                return self._stage(name, None, "", _SLICES, what, said)
            said += [_audit(entry)] if entry else []
            said += [written.text] if written else []
            times = [seen.at, *([written.at] if written else []), *([entry.completed] if entry else [])]
            return self._stage(name, min(times), entry.machine if entry else "", _SLICES, what, said)
        missing = "no EndpointSlice has the Pod" if self._record.followed else _NEVER
        return self._stage(name, None, "", _SLICES, what, [], missing)

    def _bound(self) -> list[AuditEntry]:
        return pod_read.of(self._audit, "create", "pods/binding")

    def _entry(self, verb: str, resource: str, audit_id: str | None) -> AuditEntry | None:
        entries = pod_read.of(self._audit, verb, resource)
        if audit_id is None:
            entries = [each for each in entries if each.name == self._record.name]
            return entries[-1] if entries else None
        return next((each for each in entries if each.id == audit_id), None)

    def _no_audit(self) -> str:
        for found in self._record.machines.values():
            for fields in found.answers.get("no-audit", []):
                return f"no audit log: {fields[0]}"
        problems = [f"{name}: {found.problem}" for name, found in self._record.machines.items() if found.problem]
        return "; ".join(problems) or "the audit logs have no such request"

    def _problem_of(self, key: str) -> str:
        if any(key in found.answers for found in self._record.machines.values()):
            return "etcd has no such key"
        return "no etcd member answers"

    def _all(self, key: str) -> list[list[str]]:
        return self._node.answers.get(key, [])

    def _events(self, *reasons: str) -> list[dict[str, Any]]:
        found = {each.object["metadata"]["uid"]: each.object for each in self._record.events}
        return [each for each in found.values() if each.get("reason") in reasons]

    def _journal_line(self, start: str, end: str | None = None) -> Line | None:
        """containerd's first line that begins so; and goes on so, or, if nothing is given, does not tell of the end."""
        # Of a Pod that is followed, the last: it may have been started again.
        for each in reversed(self._journal) if self._record.followed else self._journal:
            fits = " returns " not in each.text if end is None else end in each.text
            if each.program == _CONTAINERD and each.text.startswith(start) and fits:
                return each
        return None

    def _calico(self, *words: str) -> Iterator[str]:
        for word in words:
            found = [" ".join(fields) for fields in self._all("calico") if word in " ".join(fields)]
            yield from (_short(text)[:300] for text in found[:1])

    def _rule_events(self, machine: str) -> list[Line]:
        return list(pod_read.stamped(machine, self._record.machines.get(machine, _NO_MACHINE), "rule-event"))

    def _runc(self, kind: str) -> tuple[list[str], float | None]:
        """What runc says of a container, and when it was created."""
        for fields in self._all("runc"):
            if fields[0] == kind and (match := re.search(r'"created":"([^"]+)"', fields[1])):
                text = fields[1].strip(",").replace('"', "")
                return [f"runc state {self._ids.get(kind, '')[:12]}: {text}"], seconds(match[1]) - self._node.offset
        return [], None


def _audit(entry: AuditEntry) -> str:
    where = f" from {entry.source}" if entry.source else ""
    return f"{entry.text}{where}{f', {entry.agent}' if entry.agent else ''}"


def _scheduling(found: MachineRecord) -> Iterator[str]:
    """What the scheduler has counted meanwhile."""
    grown = pod_read.grown(found)
    attempts = {what: value for (name, what, _), value in grown.items() if name == "scheduler_schedule_attempts_total"}
    if sum(attempts.values()) > 1:
        yield f"its metrics are of {sum(attempts.values()):.0f} attempts meanwhile, not of this Pod alone"
    for point in ("Filter", "Score"):
        plugins = [
            f"{plugin} +{value:.0f}"
            for (name, what, plugin), value in grown.items()
            if (name, what) == ("scheduler_plugin_evaluation_total", point)
        ]
        took = grown.get(("scheduler_framework_extension_point_duration_seconds_sum", point, ""))
        if plugins:
            time = f" ({took * 1e6:.0f} µs)" if took else ""
            yield f"metric scheduler_plugin_evaluation_total, {point}{time}: {', '.join(sorted(plugins))}"


def _added(sent: Any, stored: Any, path: str = "") -> Iterator[str]:
    """The paths in a stored Pod that the sent one does not have, with short values; not those of its identity."""
    if isinstance(sent, dict) and isinstance(stored, dict):
        for key, value in stored.items():
            if path == "" and key in ("metadata", "status"):
                continue
            where = f"{path}.{key}" if path else key
            if key in sent:
                yield from _added(sent[key], value, where)
            else:
                yield from _values(value, where)
    elif isinstance(sent, list) and isinstance(stored, list):
        known = {each.get("name"): each for each in sent if isinstance(each, dict)}
        for each in stored:
            name = each.get("name") if isinstance(each, dict) else None
            if name in known and name is not None:
                yield from _added(known[name], each, f"{path}[{name}]")
            elif each not in sent:
                yield from _values(each, f"{path}[{name}]" if name else path)


def _grouped(added: Sequence[str]) -> Iterator[str]:
    groups: dict[str, list[str]] = {}
    for each in added:
        kind = "tolerations" if "tolerations" in each else "volume of the service account"
        groups.setdefault(kind if "tolerations" in each or "kube-api-access" in each else "defaults", []).append(each)
    for kind, found in groups.items():
        yield f"set in the stored object, {kind}: {'; '.join(found)}"


def _values(value: Any, where: str) -> Iterator[str]:
    if isinstance(value, list) and value and isinstance(value[0], dict):
        for each in value:
            yield from _values(each, where)
    elif isinstance(value, dict):
        inner = ",".join(str(each) for each in value.values() if not isinstance(each, dict | list))
        yield f"{where} {{{inner or ','.join(value)}}}"
    else:
        yield f"{where} {value}"


def _endpoint(endpoint_slice: dict[str, Any], uid: str) -> dict[str, Any]:
    endpoints: Iterable[dict[str, Any]] = endpoint_slice.get("endpoints") or ()
    return next((each for each in endpoints if each.get("targetRef", {}).get("uid") == uid), {})


def _conditions(endpoint: dict[str, Any]) -> str:
    return ", ".join(f"{key} {str(value).lower()}" for key, value in endpoint["conditions"].items())


def _names_address(text: str, address: str) -> bool:
    return bool(address) and re.search(rf"(?<![\d.]){re.escape(address)}(?![\d.]*\d)", text) is not None


def _klog(text: str) -> str:
    """A line of Kubernetes' log without its header."""
    return _spaces(re.sub(r"^[IWEF]\d{4} \S+ +\d+ (\S+)\] ", r"\1: ", text))[:300]


def _short(text: str) -> str:
    """A text with identifiers of 64 digits shortened, as containerd's own programs accept them."""
    return _spaces(re.sub(r"\b([0-9a-f]{12})[0-9a-f]{52}\b", r"\1", text))


def _spaces(text: str) -> str:
    return " ".join(text.split())
