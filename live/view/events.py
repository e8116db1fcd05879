"""What changed in a lab between two moments, as lines of the timeline."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from live.view.now import LabNow, MachineNow

Level = Literal["good", "bad", "plain"]


@dataclass(frozen=True, kw_only=True)
class Event:
    """One line.

    Args:
        level: whether something was lost, came back, or neither.
        what: etcd, machine, unit, lease, API, load balancer, node, pod, service, command.
        text: the sentence.
    """

    level: Level
    what: str
    text: str


def events(before: LabNow, after: LabNow) -> list[Event]:
    """All that changed. What was not known before is no change."""
    return [
        *_commands(before, after),
        *_machines(before, after),
        *_etcd(before, after),
        *_api(before, after),
        *_leases(before, after),
        *_balancers(before, after),
        *_nodes(before, after),
        *_pods(before, after),
        *_services(before, after),
    ]


def _commands(before: LabNow, after: LabNow) -> Iterator[Event]:
    if before.halted != after.halted:
        text = after.halted or "The lab runs again."
        yield Event(level="bad" if after.halted else "good", what="command", text=text)
    for old, new in ((before.command, after.command), (before.lesson, after.lesson)):
        if old != new:
            if old:
                yield Event(level="plain", what="command", text=f"{old}: ended")
            if new:
                yield Event(level="plain", what="command", text=f"{new}: started")


def _machines(before: LabNow, after: LabNow) -> Iterator[Event]:
    for old, new in _pairs(before.machines, after.machines):
        if old is None or new is None:
            # At the beginning none is known.
            if before.machines:
                text = f"{old.name} was removed from the lab" if old else f"{new.name} was added to the lab"
                yield Event(level="plain", what="machine", text=text)
            continue
        # A machine that was never heard and does not answer is news, too.
        if old.answers is not False and new.answers is False:
            yield Event(level="bad", what="machine", text=f"{new.name} does not answer ({new.message})")
        if old.answers is False and new.answers:
            yield Event(level="good", what="machine", text=f"{new.name} answers")
        yield from _programs(old, new)


def _programs(old: MachineNow, new: MachineNow) -> Iterator[Event]:
    if old.programs is None or new.programs is None:
        return
    for was, is_ in _pairs(old.programs, new.programs):
        if was is None or is_ is None or was == is_:
            continue
        name = f"{is_.name.removesuffix('.service')} on {new.name}"
        if was.state != is_.state:
            level: Level = "good" if is_.runs else "plain" if is_.state.endswith("ing") else "bad"
            yield Event(level=level, what="unit", text=f"{name} is {is_.state}")
        elif is_.runs and is_.pid.strip("0"):
            yield Event(level="plain", what="unit", text=f"{name} has restarted (process {is_.pid})")


def _etcd(before: LabNow, after: LabNow) -> Iterator[Event]:
    for old, new in _pairs(before.members, after.members, "machine"):
        if old is None or new is None or old.answers is None:
            continue
        if old.answers and new.answers is False:
            yield Event(level="bad", what="etcd", text=f"the member on {new.machine} does not answer ({new.message})")
        elif old.answers is False and new.answers:
            yield Event(level="good", what="etcd", text=f"the member on {new.machine} answers: {new.role}")
        elif new.answers and old.role != new.role and "leader" not in (old.role, new.role):
            yield Event(level="plain", what="etcd", text=f"the member on {new.machine}: {new.role}")
    was, is_ = before.leader, after.leader
    if was and not is_:
        yield Event(level="bad", what="etcd", text=f"etcd has lost its leader {was.machine} (term {was.term})")
    elif is_ and not was and before.members and before.etcd_known:
        yield Event(level="good", what="etcd", text=f"{is_.machine} is etcd's leader, term {is_.term}")
    elif was and is_ and was.machine != is_.machine:
        text = f"{is_.machine} is etcd's leader, term {is_.term}; before: {was.machine}, term {was.term}"
        yield Event(level="plain", what="etcd", text=text)
    elif was and is_ and was.term != is_.term:
        yield Event(level="plain", what="etcd", text=f"{is_.machine} leads etcd again: term {is_.term}")


def _api(before: LabNow, after: LabNow) -> Iterator[Event]:
    if before.api_ready is not False and after.api_ready is False:
        yield Event(level="bad", what="API", text=f"the endpoint does not answer ({after.api_message})")
    if before.api_ready is False and after.api_ready:
        yield Event(level="good", what="API", text="the endpoint answers")


def _leases(before: LabNow, after: LabNow) -> Iterator[Event]:
    for old, new in _pairs(before.leases, after.leases):
        if old is None or new is None or old.renewed is None or new.renewed is None:
            continue
        if old.holder != new.holder and new.holder:
            came = f"; before: {old.holder}" if old.holder else ""
            yield Event(level="good", what="lease", text=f"{new.holder} holds the lease of {new.name}{came}")
        elif old.holder and not new.holder:
            yield Event(level="bad", what="lease", text=f"the lease of {new.name} is free; before: {old.holder}")
        elif new.holder and old.holder_runs and new.holder_runs is False:
            text = f"{new.name} on {new.holder} does not run; it holds the lease"
            yield Event(level="bad", what="lease", text=text)


def _balancers(before: LabNow, after: LabNow) -> Iterator[Event]:
    old = {(each.balancer, each.server): each for each in before.backends}
    for each in after.backends:
        was = old.get((each.balancer, each.server))
        if was and was.up != each.up:
            where = f"{each.balancer}: {each.server} is {each.status} ({each.check})"
            yield Event(level="good" if each.up else "bad", what="load balancer", text=where)
    if before.address_on is not None and after.address_on is not None and before.address_on != after.address_on:
        held = " and ".join(after.address_on) or "no machine that answers"
        level: Level = "good" if len(after.address_on) == 1 else "bad"
        yield Event(level=level, what="load balancer", text=f"the API's address is on {held}")


def _nodes(before: LabNow, after: LabNow) -> Iterator[Event]:
    if before.nodes is None or after.nodes is None:
        return
    for old, new in _pairs(before.nodes, after.nodes):
        if new is None:
            yield Event(level="plain", what="node", text=f"the Node {old.name} was removed")
        elif old is None:
            yield Event(level="plain", what="node", text=f"the Node {new.name} was registered")
        else:
            if old.ready != new.ready:
                text = f"{new.name} is {'Ready' if new.ready else 'not Ready'}"
                yield Event(level="good" if new.ready else "bad", what="node", text=text)
            if old.schedulable != new.schedulable:
                text = f"{new.name} {'accepts new pods' if new.schedulable else 'is cordoned'}"
                yield Event(level="plain", what="node", text=text)


def _pods(before: LabNow, after: LabNow) -> Iterator[Event]:
    if before.pods is None or after.pods is None:
        return
    for old, new in _pairs(before.pods, after.pods):
        if new is None:
            yield Event(level="plain", what="pod", text=f"{old.name} was deleted")
        elif old is None:
            yield Event(level="plain", what="pod", text=f"{new.name} was created")
        elif old != new:
            changes = []
            if new.node != old.node:
                changes.append(f"bound to {new.node}")
            if new.state != old.state:
                changes.append(new.state)
            if new.ip != old.ip and new.ip:
                changes.append(new.ip)
            if new.restarts > old.restarts:
                changes.append(f"restarts: {new.restarts}")
            if new.ready != old.ready:
                changes.append("Ready" if new.ready else "not Ready")
            if changes:
                lost = old.ready and not new.ready and new.state not in ("Terminating", "Succeeded", "Completed")
                level: Level = "bad" if lost else "good" if new.ready and not old.ready else "plain"
                yield Event(level=level, what="pod", text=f"{new.name}: {', '.join(changes)}")


def _services(before: LabNow, after: LabNow) -> Iterator[Event]:
    if before.services is None or after.services is None:
        return
    for old, new in _pairs(before.services, after.services):
        if old is None or new is None or old.ready == new.ready:
            continue
        text = f"the Service {new.name} has {len(new.ready)} ready endpoints; before: {len(old.ready)}"
        level: Level = "plain" if new.ready else "bad"
        yield Event(level=level, what="service", text=text)


def _pairs(before: Sequence[Any], after: Sequence[Any], key: str = "name") -> Iterator[tuple[Any, Any]]:
    """The same thing before and after; None where there was none."""
    old = {getattr(each, key): each for each in before}
    new = {getattr(each, key): each for each in after}
    for name in dict.fromkeys([*old, *new]):
        yield old.get(name), new.get(name)
