"""A timeline of a Pod, as it is printed: as a table, as JSON, as a sequence diagram."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from live.trace import pod_stages
from live.trace.mermaid import sequence_diagram
from live.trace.pod_record import Record
from live.trace.pod_stages import Stage

_CLIENT, _API = "client", "kube-apiserver"
# Who sends the message of a stage, and to whom; empty: the stage's own component.
_MESSAGES: Mapping[str, tuple[str, str]] = {
    "request": (_CLIENT, _API),
    "stored": (_API, ""),
    "scheduled": ("", _API),
    "seen": (_API, ""),
    "sandbox": ("kubelet", ""),
    "network": ("containerd", ""),
    "pause": ("containerd", ""),
    "namespaces": ("runc", ""),
    "sandbox-ready": ("", "kubelet"),
    "container-created": ("", "kubelet"),
    "container-started": ("", "kubelet"),
    "ready": ("", _API),
    "endpoint": ("", _API),
    "rule": ("", "kernel"),
    "answer": (_CLIENT, ""),
    "delete": (_CLIENT, _API),
    "terminating": (_API, ""),
    "endpoint-not-ready": ("", _API),
    "stop": ("kubelet", ""),
    "network-removed": ("containerd", ""),
    "sandbox-stopped": ("", "kubelet"),
    "endpoint-removed": ("", _API),
    "rule-removed": ("", "kernel"),
    "removed": (_API, ""),
}


@dataclass(frozen=True, kw_only=True)
class Timeline:
    """A Pod's timeline.

    Args:
        record: what was collected.
        stages: in the order of their times.
    """

    record: Record
    stages: Sequence[Stage]

    @property
    def exit_code(self) -> int:
        """0 if all that was to happen has happened, else 1."""
        return 1 if self.record.problems else 0

    def since_submission(self, stage: Stage) -> float | None:
        """When a stage was, in milliseconds since the submission."""
        if stage.at is None:
            return None
        return round((stage.at - pod_stages.begin(self.record, self.stages)) * 1000, 1)

    def json(self) -> str:
        """All of it, for programs."""
        record = self.record
        return json.dumps(
            {
                "stack": record.stack,
                "namespace": record.namespace,
                "name": record.name,
                "uid": record.uid,
                "node": record.node,
                "address": record.address,
                "service_address": record.cluster_address,
                "followed": record.followed,
                "clock_offsets": {name: found.offset for name, found in record.machines.items()},
                "problems": record.problems,
                "stages": [
                    {
                        "name": stage.name,
                        "milliseconds": self.since_submission(stage),
                        "machine": stage.machine,
                        "component": stage.component,
                        "what": stage.what,
                        "evidence": stage.evidence,
                        "missing": stage.missing,
                    }
                    for stage in self.stages
                ],
            },
            indent=2,
        )

    def mermaid(self) -> str:
        """A sequence diagram of the stages that have evidence."""
        return sequence_diagram(self._messages())

    def lines(self) -> Iterator[str]:
        """What a person reads."""
        record = self.record
        widths = [
            max([len(title), *(len(getattr(stage, key)) for stage in self.stages)])
            for title, key in (("MACHINE", "machine"), ("COMPONENT", "component"))
        ]
        yield f"{'MS':>9}  {'MACHINE':<{widths[0]}}  {'COMPONENT':<{widths[1]}}  WHAT, AND EVIDENCE"
        for stage in self.stages:
            when = self.since_submission(stage)
            shown = "-" if when is None else f"{when:.1f}"
            yield f"{shown:>9}  {stage.machine:<{widths[0]}}  {stage.component:<{widths[1]}}  {stage.what}"
            yield from (f"{'':>11}{said}" for said in stage.evidence)
            if stage.missing:
                yield f"{'':>11}no evidence: {stage.missing}"
        clocks = [f"{name} {found.offset * 1000:+.1f} ms" for name, found in record.machines.items() if found.offset]
        if clocks:
            yield f"The times of machines are corrected by what their clocks are ahead: {', '.join(clocks)}."
        with_evidence = sum(not stage.missing for stage in self.stages)
        end = " It exists, and was not changed." if record.followed else ""
        yield f"{with_evidence} of {len(self.stages)} stages of {record.namespace}/{record.name} with evidence.{end}"
        for problem in record.problems:
            yield f"not as expected: {problem}"

    def _messages(self) -> Iterator[tuple[str, str, str]]:
        for stage in self.stages:
            if stage.missing:
                continue
            source, target = (each or stage.component for each in _MESSAGES.get(stage.name, ("", "")))
            when = self.since_submission(stage)
            yield source, target, stage.what if when is None else f"{when:.0f} ms: {stage.what}"


def timeline(record: Record) -> Timeline:
    """The timeline of what was collected."""
    return Timeline(record=record, stages=pod_stages.read(record))
