"""How the components' records are read: audit log, journal, changes in etcd, events of the kernel; with one clock."""

import base64
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from live.trace.pod_record import MachineRecord

# containerd: time="2026-11-29T15:11:27.123456789Z" level=info msg="..."
_CONTAINERD = re.compile(r'^time="([^"]+)" level=\w+ msg="((?:[^"\\]|\\.)*)"')
# ip -ts monitor: [2026-11-29T15:11:27.123456] 12: veth0@if2: ...
_LINK = re.compile(r"^\[([^\]]+)\] ?(.*)$")
_METRIC = re.compile(r"^(\w+)\{(.*)\} (\S+)$")
_LABEL = re.compile(r'(\w+)="([^"]*)"')


@dataclass(frozen=True, kw_only=True)
class Line:
    """One line that a component wrote.

    Args:
        at: when: seconds since 1970, by the Pulumi host's clock.
        machine: where.
        program: which; empty where the place of the line says it.
        text: what.
    """

    at: float
    machine: str
    program: str = ""
    text: str


@dataclass(frozen=True, kw_only=True)
class AuditEntry:
    """One request, as an API server's audit log has it.

    Args:
        machine: whose.
        id: of the request; the API server sends it to the client, too.
        verb, resource, name, user, agent, source: as there; a subresource is behind a slash.
        code: HTTP's.
        received, completed: when, by the Pulumi host's clock.
        annotations: what admission and authorization have noted.
    """

    machine: str
    id: str
    verb: str
    resource: str
    name: str
    user: str
    agent: str
    source: str
    code: int
    received: float
    completed: float
    annotations: dict[str, str]

    @property
    def text(self) -> str:
        """The entry, for a person."""
        took = (self.completed - self.received) * 1000
        return f"audit {self.id}: {self.verb} {self.resource} by {self.user}, code {self.code}, {took:.1f} ms"


@dataclass(frozen=True, kw_only=True)
class Written:
    """One change of a key in etcd.

    Args:
        at: when the member told of it, by the Pulumi host's clock.
        machine: the member's.
        key: which.
        deleted: whether it was deleted.
        created, revision, version: revision of its creation, of this change, and the number of changes since.
        term: of Raft.
    """

    at: float
    machine: str
    key: str
    deleted: bool
    created: int
    revision: int
    version: int
    term: int

    @property
    def text(self) -> str:
        """The change, for a person."""
        what = "DELETE" if self.deleted else "PUT"
        return f"etcd {what} {self.key}: mod_revision {self.revision}, version {self.version}, Raft term {self.term}"


def seconds(text: str) -> float:
    """A time in the API's form, or in the form of another component: UTC where it names no zone."""
    found = datetime.fromisoformat(text)
    return found.timestamp() if found.tzinfo else datetime.fromisoformat(f"{text}+00:00").timestamp()


def lines(found: MachineRecord, key: str) -> list[list[str]]:
    """The answers of one kind."""
    return found.answers.get(key, [])


def audit(name: str, found: MachineRecord) -> Iterator[AuditEntry]:
    """The audit entries of a machine."""
    for fields in lines(found, "audit"):
        try:
            entry: dict[str, Any] = json.loads("\t".join(fields))
        except ValueError:
            # The last line of a file that is being written.
            continue
        if entry.get("stage") != "ResponseComplete" or "objectRef" not in entry:
            continue
        target = entry["objectRef"]
        resource = "/".join(filter(None, (target.get("resource"), target.get("subresource"))))
        yield AuditEntry(
            machine=name,
            id=entry["auditID"],
            verb=entry["verb"],
            resource=resource,
            name=target.get("name", ""),
            user=entry["user"].get("username", ""),
            agent=entry.get("userAgent", "").partition(" ")[0],
            source=", ".join(entry.get("sourceIPs", [])),
            code=entry.get("responseStatus", {}).get("code", 0),
            received=seconds(entry["requestReceivedTimestamp"]) - found.offset,
            completed=seconds(entry["stageTimestamp"]) - found.offset,
            annotations=entry.get("annotations", {}),
        )


def journal(name: str, found: MachineRecord) -> Iterator[Line]:
    """The lines of a machine's journal; those of containerd at the time that they name themselves."""
    for fields in lines(found, "journal"):
        try:
            entry = json.loads("\t".join(fields))
        except ValueError:
            continue
        text, at = entry.get("MESSAGE"), int(entry["__REALTIME_TIMESTAMP"]) / 1e6
        if not isinstance(text, str):
            continue
        if match := _CONTAINERD.match(text):
            at, text = seconds(match[1]), re.sub(r"\\(.)", r"\1", match[2])
        yield Line(at=at - found.offset, machine=name, program=entry.get("SYSLOG_IDENTIFIER", ""), text=text)


def stamped(name: str, found: MachineRecord, key: str) -> Iterator[Line]:
    """Lines with the machine's time in front."""
    for fields in lines(found, key):
        if len(fields) > 1:
            yield Line(at=float(fields[0]) - found.offset, machine=name, text="\t".join(fields[1:]).strip())


def links(name: str, found: MachineRecord) -> Iterator[Line]:
    """What the kernel said of network interfaces."""
    for fields in lines(found, "link"):
        if match := _LINK.match("\t".join(fields)):
            yield Line(at=seconds(match[1]) - found.offset, machine=name, text=match[2].replace("\\", " "))


def etcd(name: str, found: MachineRecord, kind: str) -> Iterator[Written]:
    """The changes of the objects of a kind: pods, endpointslices."""
    for line in stamped(name, found, f"etcd-{kind}"):
        try:
            said = json.loads(line.text)
        except ValueError:
            continue
        for event in said.get("Events") or ():
            pair = event["kv"]
            yield Written(
                at=line.at,
                machine=name,
                key=base64.b64decode(pair["key"]).decode(),
                deleted=event.get("type") == 1,
                created=pair.get("create_revision", 0),
                revision=pair["mod_revision"],
                version=pair.get("version", 0),
                term=said["Header"].get("raft_term", 0),
            )


def stored(name: str, found: MachineRecord) -> Written | None:
    """A key as etcd has it now; its time is not known."""
    for fields in lines(found, "etcd-now"):
        said = json.loads("\t".join(fields))
        for pair in said.get("kvs") or ():
            return Written(
                at=0,
                machine=name,
                key=base64.b64decode(pair["key"]).decode(),
                deleted=False,
                created=pair["create_revision"],
                revision=pair["mod_revision"],
                version=pair["version"],
                term=said["header"].get("raft_term", 0),
            )
    return None


def metrics(found: MachineRecord, key: str) -> dict[tuple[str, str, str], float]:
    """(metric, extension point or result, plugin) -> value, of a scheduler."""
    values = {}
    for fields in lines(found, key):
        if match := _METRIC.match(fields[0]):
            labels = dict(_LABEL.findall(match[2]))
            what = labels.get("extension_point") or labels.get("result", "")
            values[(match[1], what, labels.get("plugin", ""))] = float(match[3])
    return values


def grown(found: MachineRecord) -> dict[tuple[str, str, str], float]:
    """What has grown in a scheduler's metrics between both questions."""
    before, after = metrics(found, "metrics-before"), metrics(found, "metrics-after")
    if not before or not after:
        return {}
    return {key: value - before.get(key, 0) for key, value in after.items() if value > before.get(key, 0)}


def of(entries: Sequence[AuditEntry], verb: str, resource: str, user: str = "") -> list[AuditEntry]:
    """The requests of a kind, in the order of their answers."""
    chosen = [each for each in entries if (each.verb, each.resource) == (verb, resource) and user in each.user]
    return sorted(chosen, key=lambda each: each.completed)
