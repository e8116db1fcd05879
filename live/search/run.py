"""The order of one seeded fault: clients at work, the fault, its repair, all healthy; then the history is judged."""

import itertools
import json
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from config.machines import Role
from live.cluster import Cluster
from live.drills.faults import Fault
from live.drills.health import data_path_complaints, wait_until_none
from live.drills.probes import OWN_MEMBER
from live.drills.run import undisturbed
from live.https_api import Api, ApiError
from live.last_lines import Logged, last_lines
from live.search import clients, faults
from live.search.checks import Checker, as_watched, in_order_of_versions
from live.search.clients import Requests, Watch, Writer
from live.search.delay import DelayingProxy
from live.search.history import Event, History, Operation, Outcome, acknowledged, write
from live.search.plan import Planned
from live.waiting import still_missing
from toolchain import operations
from toolchain.errors import ToolchainError

_CLIENTS, _KEYS = 4, 3
_HEALTHY_WITHIN = 120
_ANSWERS_WITHIN = 60
_SEEN_WITHIN = 30
_LOOK_EVERY = 0.2
_HASHES = f"""{OWN_MEMBER}
set -e
revision=$(etcdctl endpoint status -w json | grep -o '"revision":[0-9]*')
etcdctl endpoint hashkv --cluster --rev "${{revision#*:}}" -w json"""


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """How a fault went.

    Args:
        planned: the fault.
        operations: how many there were of each outcome.
        acknowledged: how many of those were writes that were acknowledged.
        events: how many the watch told of.
        seconds: from the fault to the healthy cluster.
        violations: what no correct store does, a sentence each.
        failure: why it could not be done to its end; empty where it was.
    """

    planned: Planned
    operations: Mapping[str, int] = field(default_factory=dict)
    acknowledged: int = 0
    events: int = 0
    seconds: float = 0
    violations: list[str] = field(default_factory=list)
    failure: str = ""

    @property
    def passed(self) -> bool:
        """Nothing is wrong, and writes were acknowledged: without any, a history proves nothing."""
        return not self.violations and not self.failure and self.acknowledged > 0


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where faults are injected and judged.

    Args:
        cluster: the lab.
        api: its API.
        checker: judges histories.
        directory: takes them.
    """

    cluster: Cluster
    api: Api
    checker: Checker
    directory: Path


Make = Callable[[Planned, Cluster, DelayingProxy | None], Fault]


def inject(
    planned: Planned, place: Place, make: Callable[[Planned, Cluster, DelayingProxy | None], Fault] = faults.of
) -> Verdict:
    """Inject a fault, repair it however that goes, and judge the history.

    Args:
        planned: the fault.
        place: where.
        make: makes it; another one in tests of the checks.
    """
    history, began = History(), time.monotonic()
    run_name = f"s{planned.seed}-{planned.number}-{time.time_ns():x}"
    watch: Watch | None = None
    violations: list[str] = []
    failure, healthy = "", 0.0
    try:
        await_healthy(place)
        watch = Watch(place.api, run_name, clients.newest_version(place.api))
        with watch, _proxy(planned, place.cluster) as proxy:
            with _writers(planned, place, history, run_name, proxy) as writers:
                _await_answers(place, writers)
                began = time.monotonic()
                with _repaired(planned, place, make(planned, place.cluster, proxy)) as fault:
                    fault.inject()
                    if planned.lasts:
                        time.sleep(planned.seconds)
                await_healthy(place)
                healthy = time.monotonic()
                _await_answers(place, writers)
            _read_all(place, history, run_name)
            _await_seen(place, watch, history, run_name)
            violations += _different_members(place)
    except subprocess.TimeoutExpired as error:
        failure = f"a command on a machine has not ended within {error.timeout:.0f} s"
    except (ToolchainError, ApiError) as error:
        failure = str(error)
    seconds = (healthy or time.monotonic()) - began
    return _judge(planned, place, history.operations, watch, violations, failure, seconds)


def await_healthy(place: Place) -> None:
    """Wait until all that a write passes through is healthy.

    Raises:
        ToolchainError: with what is not, and the last lines of its log, after the deadline.
    """
    wait_until_none(
        place.cluster,
        lambda: data_path_complaints(place.cluster, place.api),
        seconds=_HEALTHY_WITHIN,
        what="The control plane",
    )


def repair_what_is_left(cluster: Cluster, say: Callable[[str], None]) -> None:
    """Repair what a run that was killed has broken.

    Raises:
        ToolchainError: it cannot be repaired.
    """
    file = _mark(cluster)
    if not file.exists():
        return
    planned = Planned(**json.loads(file.read_text()))
    say(f"Repairing what a seeded drill left: it was killed during: {planned}.")
    with nullcontext() if planned.runs_pulumi else operations.without_pulumi(cluster.stack, "./hardway drill"):
        faults.of(planned, cluster).recover()
    file.unlink()


def _judge(
    planned: Planned,
    place: Place,
    done: list[Operation],
    watch: Watch | None,
    violations: list[str],
    failure: str,
    seconds: float,
) -> Verdict:
    events: list[Event] = watch.events if watch is not None else []
    write(place.directory / f"{planned.number}.jsonl", done, events)
    found: list[str] = []
    try:
        found += place.checker.violations(done, place.directory)
    except ToolchainError as error:
        failure = failure or str(error)
    found += [*violations, *in_order_of_versions(done)]
    # What the watch has not seen is known only where it could go on to the end.
    if not failure:
        found += as_watched(done, events)
    return Verdict(
        planned=planned,
        operations={outcome: sum(each.outcome == outcome for each in done) for outcome in Outcome},
        acknowledged=acknowledged(done),
        events=len(events),
        seconds=seconds,
        violations=found,
        failure=failure,
    )


def _proxy(planned: Planned, cluster: Cluster) -> AbstractContextManager[DelayingProxy | None]:
    return DelayingProxy(cluster.endpoint) if planned.kind == "delay" else nullcontext()


@contextmanager
def _writers(
    planned: Planned, place: Place, history: History, run_name: str, proxy: DelayingProxy | None
) -> Iterator[list[Writer]]:
    keys = clients.keys(run_name, _KEYS)
    port = proxy.port if proxy is not None else None
    with ExitStack() as running:
        writers = []
        for number in range(_CLIENTS):
            requests = Requests(place.api, history, run_name, number, proxy_port=port)
            writers.append(running.enter_context(Writer(requests, keys, number, planned.chance(number))))
        yield writers


@contextmanager
def _repaired(planned: Planned, place: Place, fault: Fault) -> Iterator[Fault]:
    """Have the fault repaired in the end; a mark tells the next run of it, should this one be killed."""
    file = _mark(place.cluster)
    file.write_text(json.dumps(asdict(planned)))
    try:
        yield fault
    finally:
        with undisturbed():
            fault.recover()
        file.unlink()


def _mark(cluster: Cluster) -> Path:
    return cluster.stack.directory / "search.json"


def _await_answers(place: Place, writers: list[Writer]) -> None:
    since = time.monotonic_ns()
    _await(
        place,
        lambda: [f"client {number}" for number, writer in enumerate(writers) if writer.last_ok < since],
        _ANSWERS_WITHIN,
        "There is no good answer for",
    )


def _read_all(place: Place, history: History, run_name: str) -> None:
    """Read every object through every API server: each asks its own etcd member, with a quorum."""
    for number, machine in enumerate(place.cluster.with_role(Role.CONTROLLER)):
        requests = Requests(place.api, history, run_name, _CLIENTS + number, url=f"https://{machine.address}:6443")
        for key in clients.keys(run_name, _KEYS):
            _await(
                place,
                lambda requests=requests, key=key: _unread(requests.get(key)),  # type: ignore[misc]
                _ANSWERS_WITHIN,
                f"The API server of {machine.name} does not answer:",
            )
        requests.disconnect()


def _unread(read: Operation) -> list[str]:
    return [read.key] if read.outcome not in (Outcome.OK, Outcome.MISSING) else []


def _await_seen(place: Place, watch: Watch, history: History, run_name: str) -> None:
    """Create a last object, and wait until the watch reports it: then it has reported everything before it."""
    requests = Requests(place.api, history, run_name, _CLIENTS)
    tries = itertools.count()
    last: list[Operation] = []

    def unmade() -> list[str]:
        number = next(tries)
        last.append(requests.create(f"{run_name}-end-{number}", f"end.{number}"))
        return [] if last[-1].outcome == Outcome.OK else [f"the create of the last object: {last[-1].outcome}"]

    def unseen() -> list[str]:
        if watch.failure:
            raise ToolchainError(f"The watch ended: {watch.failure}.")
        return [] if watch.version >= last[-1].version else [f"it is at {watch.version}, not {last[-1].version}"]

    _await(place, unmade, _ANSWERS_WITHIN, "There is no good answer to")
    requests.disconnect()
    _await(place, unseen, _SEEN_WITHIN, "The watch has not seen all changes")


def _await(place: Place, missing: Callable[[], list[str]], seconds: float, what: str) -> None:
    """Wait for what the API servers and etcd are to give; an error has the last lines of their logs."""
    allowed = place.cluster.allowed(seconds)
    if left := still_missing(missing, allowed, every=_LOOK_EVERY):
        logged = [Logged(each, "etcd") for each in place.cluster.etcd_members]
        logged += [Logged(each, "kube-apiserver") for each in place.cluster.with_role(Role.CONTROLLER)]
        logs = last_lines(place.cluster, logged)
        raise ToolchainError(f"{what} within {allowed:.0f} s: {'; '.join(left)}{logs}")


def _different_members(place: Place) -> list[str]:
    """Whether all etcd members have the same data at the same revision.

    Raises:
        ToolchainError: they cannot be asked, or do not come to the same revision.
    """
    found: list[str] = []

    def incomparable() -> list[str]:
        done = place.cluster.ssh(place.cluster.etcd_members[0], _HASHES)
        if done.returncode != 0:
            # One that has not come so far refuses: mvcc: required revision is a future revision.
            return [done.stderr.strip()]
        said: dict[str, dict[str, Any]] = {each["Endpoint"]: each["HashKV"] for each in json.loads(done.stdout)}
        compacted = {each.get("compact_revision", 0) for each in said.values()}
        # A hash is of what was not compacted, and members compact one after the other.
        if len(compacted) > 1:
            return [f"their histories begin at the revisions {sorted(compacted)}"]
        hashes = {member: each["hash"] for member, each in said.items()}
        if len(set(hashes.values())) != 1 or len(hashes) != len(place.cluster.etcd_members):
            found.append(f"etcd's members have different data at one revision: {hashes}")
        return []

    _await(place, incomparable, _SEEN_WITHIN, "The hashes of etcd's members cannot be compared")
    return found
