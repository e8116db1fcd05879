"""What asks and writes without pause while something is broken, and keeps what it saw.

Four of them, each in a thread of its own: a writer and a client of the API through the balancer, a writer of etcd on a
machine, and the client inside a pod (see workload.py), whose log is followed. A fifth watches what the API says about
leaders, API servers and nodes.
"""

import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from config import health
from live.background import Background
from live.cluster import Cluster, LiveMachine
from live.drills.samples import Sample
from live.drills.workload import NAMESPACE
from live.https_api import SECONDS, Api, ApiError, ask, found
from live.programs import LEADERS
from toolchain import access
from toolchain.errors import ToolchainError

ETCD_PREFIX = "/hardway-drills/"

_CONFIG_MAPS = f"/api/v1/namespaces/{NAMESPACE}/configmaps"
_LEASES = "/apis/coordination.k8s.io/v1/namespaces"
_ENDPOINTS = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices/kubernetes"
_READ_BACK_SECONDS = 30
_DELETED_AT_ONCE = 200


class Probe(Background):
    """Something that tries again and again, in a thread, as long as its `with` block runs."""

    _END_SECONDS = 10

    def __init__(self, name: str, *, every: float) -> None:
        super().__init__(name)
        self.name = name
        self._every = every
        self._samples: list[Sample] = []

    @property
    def samples(self) -> list[Sample]:
        """All tries so far."""
        return list(self._samples)

    def _work(self) -> None:
        while not self._over.is_set():
            self._try()
            self._over.wait(self._every)

    def _try(self) -> None:
        raise NotImplementedError

    def _note(self, began: float, error: str = "") -> None:
        self._samples.append(Sample(began=began, ended=time.time(), error=error))


class ApiClient(Probe):
    """Reads an object, each time by a new connection: the load balancer chooses again, and etcd is asked."""

    def __init__(self, api: Api) -> None:
        super().__init__("API client", every=0.1)
        self._api = api

    def _try(self) -> None:
        began = time.time()
        try:
            self._api.get(f"/api/v1/namespaces/{NAMESPACE}", seconds=SECONDS)
            self._note(began)
        except ApiError as error:
            self._note(began, str(error))


class ApiWriter(Probe):
    """Makes ConfigMaps, each with a number, by one connection as long as that holds; knows which were acknowledged.

    Args:
        api: where.
        run: stands in the names and the label of all that it writes.
    """

    def __init__(self, api: Api, run: str) -> None:
        super().__init__("API writer", every=0.08)
        self._api, self._run = api, run
        self._connection = api.connection()
        self._number = 0
        self.acknowledged: set[str] = set()

    def _try(self) -> None:
        # A number is tried once: a write that was not acknowledged may be there or not, and proves nothing.
        self._number += 1
        number, began = str(self._number), time.time()
        document = {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": f"{self._run}-{number}", "labels": {"drill": self._run}},
            "data": {"number": number},
        }
        try:
            ask(self._connection, "POST", _CONFIG_MAPS, document)
        except ApiError as error:
            self._note(began, str(error))
        else:
            self.acknowledged.add(number)
            self._note(began)

    def _end(self) -> None:
        self._thread.join(timeout=5)
        self._connection.close()

    def lost(self) -> list[str]:
        """The acknowledged writes that cannot be read back, by their numbers; all are removed then.

        Raises:
            ApiError: the API does not answer.
        """
        mine = f"{_CONFIG_MAPS}?labelSelector=drill={self._run}"
        found = self._api.get(mine, seconds=_READ_BACK_SECONDS)["items"]
        there = {
            item["data"]["number"]
            for item in found
            if item["metadata"]["name"] == f"{self._run}-{item['data']['number']}"
        }
        # The API server deletes one after the other: a long run has more than it deletes within one request's time.
        while self._api.send("DELETE", f"{mine}&limit={_DELETED_AT_ONCE}", seconds=_READ_BACK_SECONDS)["metadata"].get(
            "continue"
        ):
            pass
        return sorted(self.acknowledged - there, key=int)


class _Lines(Probe):
    """Follows what a script on a machine prints; starts it again when the machine was lost."""

    def __init__(self, name: str, cluster: Cluster, machine: LiveMachine) -> None:
        super().__init__(name, every=0.5)
        self._cluster, self._machine = cluster, machine
        self._process: subprocess.Popen[str] | None = None

    def _try(self) -> None:
        with subprocess.Popen(
            # A machine that is lost says nothing; so does the connection to it, unless it asks.
            [
                *access.ssh_command(self._cluster.stack),
                *_KEEPALIVE,
                self._machine.name,
                self._machine.as_root(self._script()),
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            errors="replace",
        ) as self._process:
            assert self._process.stdout is not None
            for line in self._process.stdout:
                # The first words may be all that came of the last line of a machine that was lost.
                if line.endswith("\n"):
                    self._line(line.rstrip())
                if self._over.is_set():
                    break
            self._process.kill()

    def _end(self) -> None:
        if self._process is not None:
            self._process.kill()

    def _script(self) -> str:
        raise NotImplementedError

    def _line(self, line: str) -> None:
        raise NotImplementedError


_KEEPALIVE = ("-o", "ServerAliveInterval=1", "-o", "ServerAliveCountMax=3")


class EtcdWriter(_Lines):
    """Writes keys into etcd on a member's machine, through that member; knows which were acknowledged."""

    def __init__(self, cluster: Cluster, machine: LiveMachine, run: str) -> None:
        super().__init__("etcd writer", cluster, machine)
        self._prefix = f"{ETCD_PREFIX}{run}/"
        self._try_timeout = 500 * cluster.timeout_factor
        self._number = 0
        self.acknowledged: set[str] = set()

    def lost(self) -> list[str]:
        """The acknowledged writes that cannot be read back, by their numbers; all are removed then.

        Raises:
            ToolchainError: etcd does not answer.
        """
        script = f"{OWN_MEMBER}\netcdctl get --prefix {self._prefix} && etcdctl del --prefix {self._prefix} >/dev/null"
        done = self._cluster.ssh(self._machine, script)
        if done.returncode != 0:
            raise ToolchainError(f"The writes to etcd cannot be read back: {done.stderr.strip()}")
        lines = done.stdout.splitlines()
        there = {value for key, value in zip(lines[::2], lines[1::2], strict=True) if key == f"{self._prefix}{value}"}
        return sorted(self.acknowledged - there, key=int)

    def _script(self) -> str:
        return f"""{OWN_MEMBER}
            number={self._number}
            while :; do
              number=$((number + 1)) began=$EPOCHREALTIME
              said=$(etcdctl --command-timeout={self._try_timeout}ms put {self._prefix}$number $number 2>&1) && said=OK
              printf '%s %s %s %s\\n' $number $began $EPOCHREALTIME "${{said##*$'\\n'}}" || exit
              sleep 0.12
            done"""

    def _line(self, line: str) -> None:
        number, began, ended, said = line.split(" ", 3)
        self._number = int(number)
        good = said == "OK"
        if good:
            self.acknowledged.add(number)
        self._samples.append(Sample(began=float(began), ended=float(ended), error="" if good else said))


OWN_MEMBER = "export LC_ALL=C; . /etc/etcd/etcdctl.env; export ETCDCTL_ENDPOINTS=https://127.0.0.1:2379"
"""The shell lines that make etcdctl ask the machine's own member."""


class PodClient(_Lines):
    """Follows the log of the client inside a pod: what it got from the Service, and from DNS.

    Args:
        cluster: the lab.
        machine: where the pod runs.
        log: the file there.
    """

    def __init__(self, cluster: Cluster, machine: LiveMachine, log: str) -> None:
        super().__init__("pod's Service client", cluster, machine)
        self._log = log
        self._since = time.time()
        self._dns: list[Sample] = []

    @property
    def dns(self) -> list[Sample]:
        """Its questions to DNS; `samples` are its calls of the Service."""
        return list(self._dns)

    def _script(self) -> str:
        return f"tail -n +1 -F {self._log}"

    def _line(self, line: str) -> None:
        what, began, ended, said = line.split(" ", 3)
        kept = self._dns if what == "dns" else self._samples
        # The log is read from its beginning whenever there is a new connection.
        known = kept[-1].began if kept else self._since
        if float(began) > known:
            error = "" if said.startswith("OK") else said
            kept.append(Sample(began=float(began), ended=float(ended), error=error))


@dataclass(frozen=True, kw_only=True)
class View:
    """What the API said at one moment.

    Args:
        at: when the answers were there.
        leaders: program -> the identity that holds its lease: MACHINE_UUID.
        renewed: program -> when that lease was last renewed.
        held: the programs whose lease is held, and was renewed in time.
        api_servers: their addresses, as the endpoints of the Service `kubernetes`.
        ready: the nodes that are Ready.
        heard: node -> when its kubelet last renewed its lease.
    """

    at: float
    leaders: Mapping[str, str] = field(default_factory=dict)
    renewed: Mapping[str, float] = field(default_factory=dict)
    held: frozenset[str] = frozenset()
    api_servers: frozenset[str] = frozenset()
    ready: frozenset[str] = frozenset()
    heard: Mapping[str, float] = field(default_factory=dict)


class Watcher(Probe):
    """Looks at leaders, API servers and nodes, through the balancer."""

    def __init__(self, api: Api, nodes: Sequence[str]) -> None:
        super().__init__("watcher", every=0.4)
        self._nodes = nodes
        self._connection = api.connection()
        self._views: list[View] = []

    @property
    def views(self) -> list[View]:
        """What was seen so far."""
        return list(self._views)

    def _try(self) -> None:
        began = time.time()
        try:
            self._views.append(look(lambda path: ask(self._connection, "GET", path), self._nodes))
            self._note(began)
        except ApiError as error:
            self._note(began, str(error))

    def _end(self) -> None:
        self._thread.join(timeout=5)
        self._connection.close()


def look(get: Any, nodes: Sequence[str]) -> View:
    """What the API says now.

    Args:
        get: path -> object.
        nodes: those that are looked at, by name: other Nodes, of which there may be many, cost nothing.

    Raises:
        ApiError: there is no answer.
    """
    leases = [get(f"{_LEASES}/kube-system/leases/{program}") for program in LEADERS]
    slice_ = get(_ENDPOINTS)
    registered = [each for name in nodes if (each := found(get, f"/api/v1/nodes/{name}"))]
    heard = [each for name in nodes if (each := found(get, f"{_LEASES}/kube-node-lease/leases/{name}"))]
    now = time.time()
    return View(
        at=now,
        leaders={lease["metadata"]["name"]: lease["spec"].get("holderIdentity", "") for lease in leases},
        renewed={lease["metadata"]["name"]: _epoch(lease["spec"]["renewTime"]) for lease in leases},
        held=frozenset(lease["metadata"]["name"] for lease in leases if health.is_held(lease["spec"], now)),
        api_servers=frozenset(
            address for endpoint in slice_.get("endpoints") or () for address in endpoint["addresses"]
        ),
        ready=frozenset(node["metadata"]["name"] for node in registered if health.has_condition(node)),
        heard={lease["metadata"]["name"]: _epoch(lease["spec"]["renewTime"]) for lease in heard},
    )


def _epoch(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


def surviving_member(cluster: Cluster, lost: Sequence[LiveMachine]) -> LiveMachine:
    """A machine with an etcd member that is not among those that are hit; any, where all are."""
    members = cluster.etcd_members
    return next((member for member in members if member not in lost), members[0])
