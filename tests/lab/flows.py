"""Flows from a pod, that policies open and close."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from lab.cluster import Cluster
from lab.policies import ROLE
from lab.polling import eventually
from lab.workload import ALONE, NAMESPACE, PORT, Pod, Workload

# Until every worker has heard of a policy.
_SECONDS = 60.0


@dataclass(frozen=True, kw_only=True)
class Flows:
    """The flows of the pod `alone`: to a web server on each worker, to the DNS, to addresses outside of the cluster."""

    workload: Workload

    @property
    def _cluster(self) -> Cluster:
        return self.workload.cluster

    def apply(self, *documents: dict[str, Any]) -> None:
        """Make or change policies."""
        self._cluster.apply(*documents)

    def drop(self, policy: str) -> None:
        """Take a policy away."""
        self._cluster.kubectl("delete", "networkpolicy", policy, "--namespace", NAMESPACE)

    def label(self) -> None:
        """Make the pod one that is let in."""
        self._cluster.kubectl("label", "pod", ALONE, "--namespace", NAMESPACE, *(f"{k}={v}" for k, v in ROLE.items()))

    def unlabel(self) -> None:
        """Make it like any other."""
        self._cluster.kubectl("label", "pod", ALONE, "--namespace", NAMESPACE, *(f"{key}-" for key in ROLE))

    def are_open(self, *flows: str) -> None:
        """Wait until every one of them is."""
        for flow in flows:
            eventually(f"{flow} open", lambda flow=flow: self._passes(flow), seconds=_SECONDS)  # type: ignore[misc]

    def are_closed(self, *flows: str) -> None:
        """Wait until every one of them is."""
        for flow in flows:
            eventually(f"{flow} closed", lambda flow=flow: not self._passes(flow), seconds=_SECONDS)  # type: ignore[misc]

    def _passes(self, flow: str) -> bool:
        ways: dict[str, Callable[[], bool]] = {
            "web": lambda: self._all_web(self.workload.alone),
            "web from another": lambda: self._connects(self.workload.web[0], self.workload.web[-1].address, PORT),
            "dns": self._resolves,
            "api": lambda: self._connects(self.workload.alone, str(self._cluster.controller.address), 6443),
            "balancer": lambda: self._connects(self.workload.alone, str(self._cluster.balancer.address), 6443),
        }
        return ways[flow]()

    def _all_web(self, caller: Pod) -> bool:
        """To all of them, or to none: a policy that one worker enforces and another does not is neither."""
        answers = [self._connects(caller, pod.address, PORT) for pod in self.workload.web]
        if any(answers) and not all(answers):
            raise AssertionError(f"some of the web servers answer and some do not: {answers}")
        return all(answers)

    def _resolves(self) -> bool:
        asked = self._exec(
            self.workload.alone, "dig", "+short", "+time=1", "+tries=1", "kubernetes.default.svc.cluster.local"
        )
        return asked == str(self._cluster.settings.network.api_service)

    def _connects(self, caller: Pod, address: str, port: int) -> bool:
        return self._exec(caller, "nc", "-z", "-w", "1", address, str(port), "&&", "echo", "yes") == "yes"

    def _exec(self, caller: Pod, *words: str) -> str:
        """What a command prints, however it ends; that it could be run at all is seen by its own last word."""
        command = f"{' '.join(words)}; echo; echo ran"
        said = self.workload.exec(caller, "sh", "-c", command).split()
        assert said[-1] == "ran", said
        return " ".join(said[:-1])
