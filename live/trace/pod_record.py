"""What a trace of a Pod is made of: all that was collected, before it is read. As JSON it is the tests' input, too."""

import json
from dataclasses import asdict, dataclass, field
from typing import Any, Self

from live.trace.pod_api import Answer, Seen
from live.trace.pod_machines import Answers


@dataclass(frozen=True, kw_only=True)
class MachineRecord:
    """What a machine said.

    Args:
        offset: seconds by which its clock is ahead of the Pulumi host's.
        problem: why it could not be asked; empty where it could.
        answers: of pod_watch.sh.
    """

    offset: float = 0.0
    problem: str = ""
    answers: Answers = field(default_factory=dict)


@dataclass(kw_only=True)
class Record:
    """All that was collected about a Pod.

    Args:
        stack: the lab.
        namespace, name: the Pod's.
        followed: whether it existed before; it was not changed then.
        proxy_mode, pod_network: the lab's.
        sent: the Pod as it was sent; empty if it was followed.
        pod: the Pod as it was when its machine was asked.
        service: the Service before it; empty if there is none.
        created, deleted: the requests, where there were any.
        pods, slices, events: what the API said of each, with the times.
        asker: the machine from which the Service was asked; also the one whose rules are shown.
        machines: by name.
        problems: what did not happen in time, in words.
    """

    stack: str
    namespace: str
    name: str
    followed: bool
    proxy_mode: str
    pod_network: str
    sent: dict[str, Any] = field(default_factory=dict)
    pod: dict[str, Any] = field(default_factory=dict)
    service: dict[str, Any] = field(default_factory=dict)
    created: Answer | None = None
    deleted: Answer | None = None
    pods: list[Seen] = field(default_factory=list)
    slices: list[Seen] = field(default_factory=list)
    events: list[Seen] = field(default_factory=list)
    asker: str = ""
    machines: dict[str, MachineRecord] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    @property
    def node(self) -> str:
        """The Pod's node; empty while it has none."""
        return str(self.pod.get("spec", {}).get("nodeName", ""))

    @property
    def uid(self) -> str:
        """The Pod's."""
        return str(self.pod.get("metadata", {}).get("uid", ""))

    @property
    def address(self) -> str:
        """The Pod's."""
        return str(self.pod.get("status", {}).get("podIP", ""))

    @property
    def cluster_address(self) -> str:
        """The Service's."""
        return str(self.service.get("spec", {}).get("clusterIP", ""))

    def json(self) -> str:
        """All of it."""
        return json.dumps(asdict(self), indent=1)

    @classmethod
    def read(cls, text: str) -> Self:
        """What `json` wrote."""
        found = json.loads(text)
        for key in ("created", "deleted"):
            found[key] = Answer(**found[key]) if found[key] else None
        for key in ("pods", "slices", "events"):
            found[key] = [Seen(**each) for each in found[key]]
        found["machines"] = {name: MachineRecord(**each) for name, each in found["machines"].items()}
        return cls(**found)
