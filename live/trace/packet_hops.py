"""The hops of a request and its answer, out of what the machines saw of them.

A hop stands here only if something was seen of it, and with what was seen. Where the packet is not answered, the last
hop says where it ended.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from live.cluster import LiveMachine
from live.trace.packet_events import Direction, Packet, Rule, Visit, where
from live.trace.packet_machines import Facts, Request, Seen
from live.trace.packet_objects import Endpoint, Target

Part = Literal["name", "request", "answer"]
Route = tuple[str, str, str]
"""Destination, source and incoming interface: what `ip route get` is asked for."""
# As nft prints them, also those of iptables; chains of others have the words in their names.
_DNAT, _SNAT = (
    re.compile(r"\bdnat (ip )?to |target \"DNAT\""),
    re.compile(r"(^| )(masquerade|snat)\b|target \"(MASQUERADE|SNAT)\""),
)


@dataclass(frozen=True, kw_only=True)
class Hop:
    """One thing that happened.

    Args:
        part: the resolution of the Service's name, the request or the answer.
        machine: where; the Pod's name where it happened in a Pod's network.
        interface: the interface; empty where it is none.
        what: what happened, in words.
        evidence: what the component itself said of it.
        ended: whether the packet went no further.
    """

    part: Part
    machine: str
    interface: str
    what: str
    evidence: Sequence[str] = ()
    ended: bool = False


@dataclass(kw_only=True)
class Observed:
    """All that is known of a trace.

    Args:
        target: what was traced.
        port: the source port.
        facts, seen: of each machine, by its name.
        request: how the request went.
        routes: what a machine says to `ip route get`: machine, and question -> answer.
    """

    target: Target
    port: int
    facts: Mapping[str, Facts]
    seen: Mapping[str, Seen]
    request: Request
    routes: Mapping[tuple[str, Route], str] = field(default_factory=dict)

    def visits(self, machine: str, direction: Direction) -> list[Visit]:
        """The visits on a machine, of one direction."""
        return [visit for visit in self.seen[machine].visits if visit.direction == direction]

    @property
    def endpoint(self) -> Endpoint | None:
        """The endpoint that the packet was sent to; None where no rule chose one."""
        known = {(each.address, each.port): each for each in self.target.endpoints}
        for visit in self.visits(self.target.machine.name, "request"):
            if visit.packet.destination in known:
                return known[visit.packet.destination]
        return None

    @property
    def other(self) -> LiveMachine | None:
        """The endpoint's machine, where it is another one."""
        machine = self.endpoint.machine if self.endpoint is not None else None
        return None if machine == self.target.machine else machine

    def questions(self) -> list[tuple[str, Route]]:
        """What the machines are to be asked: the routes of the packets that came from an interface."""
        asked = []
        for name, seen in self.seen.items():
            for direction in ("request", "answer"):
                own = [
                    visit
                    for visit in seen.visits
                    if visit.own and visit.family == "inet" and visit.direction == direction and _is_inner(visit)
                ]
                passed = [visit for visit in own if visit.chain == "forward"] or own[-1:]
                asked += [(name, _route(visit)) for visit in passed[:1] if visit.iif]
        return asked


def hops(observed: Observed) -> list[Hop]:
    """All hops, in order."""
    found = [*_name(observed), _pod_route(observed)]
    source, other, endpoint = observed.target.machine, observed.other, observed.endpoint
    found += _on(observed, source, "request")
    if other is not None:
        found += _on(observed, other, "request")
    answered = any(observed.visits(name, "answer") for name in observed.seen)
    if endpoint is not None and (answered or observed.request.connected):
        found += _listener(observed, endpoint)
    if other is not None:
        found += _on(observed, other, "answer")
    found += _on(observed, source, "answer")
    if observed.request.connected:
        found.append(_result(observed))
    else:
        found.append(_end(observed))
    return found


def _name(observed: Observed) -> Iterator[Hop]:
    target, facts = observed.target, observed.facts[observed.target.machine.name]
    server = facts.said("resolver-address")
    said = [line for line in facts.said("name").splitlines() if line and not line.startswith(";")]
    asked = f"the Pod's resolver is {server}"
    if said:
        address = said[-1].split()[-1]
        what = f"CoreDNS resolves {target.service.partition('/')[2]}: {address}"
        if not target.headless and address != target.address:
            what += f", and not {target.address}: it keeps answers for up to 30 s"
        yield Hop(part="name", machine=target.pod, interface="", what=what, evidence=[asked, *map(_blanks, said)])
        return
    why = facts.why("resolver") and "the Pod's /etc/resolv.conf could not be read"
    lines = [facts.why("name"), *facts.said("name").splitlines()]
    status = [line.strip("; ") for line in " \n".join(lines).splitlines() if "status:" in line or "timed out" in line]
    what = "the name of the Service was not resolved; the request goes to its address"
    yield Hop(part="name", machine=target.pod, interface="", what=what, evidence=[why or asked, *map(_blanks, status)])


def _pod_route(observed: Observed) -> Hop:
    target, facts = observed.target, observed.facts[observed.target.machine.name]
    route = facts.said("pod-route") or facts.why("pod-route")
    words = route.split()
    interface = words[words.index("dev") + 1] if "dev" in words else ""
    gateway = f" by its gateway {words[words.index('via') + 1]}" if "via" in words else ""
    veth = facts.veths.get(target.pod_address, "") or "not known"
    return Hop(
        part="request",
        machine=target.pod,
        interface=interface,
        what=f"the Pod sends to {target.address}:{target.port}{gateway}; the other end of its interface is {veth} on "
        f"{target.machine.name}",
        evidence=[f"ip route get: {_blanks(route)}"],
    )


def _on(observed: Observed, machine: LiveMachine, direction: Direction) -> list[Hop]:
    """The hops on one machine, in one direction."""
    facts = observed.facts[machine.name]
    if (missing := observed.seen[machine.name].missing) and direction == "request":
        return [_hop(direction, machine, "", f"not watched here: {missing}")]
    found: list[Hop] = []
    before: Packet | None = None
    rules: list[Visit] = []
    visits = observed.visits(machine.name, direction)
    for visit in visits:
        packet, hook = visit.packet, _position(visit)
        if not visit.own:
            if packet.protocol == "tcp":
                rules.append(visit)
            continue
        if not _is_inner(visit):
            if visit.family == "netdev":
                found.append(_outer(observed, machine, direction, visit))
            continue
        if before is not None and packet.destination != before.destination:
            found.append(_destination_changed(observed, machine, direction, (before, packet), rules, visit))
            found += _conntrack(observed, machine, direction)
        if before is not None and packet.source != before.source:
            found.append(_source_changed(observed, machine, direction, (before, packet), rules, visit))
        filters = _filters(rules)
        rules = []
        before = packet
        if hook == "ingress":
            found.append(_comes_in(observed, facts, direction, visit))
        elif hook == "prerouting" and facts.kind(visit.iif) == "bridge":
            found.append(_bridged(facts, direction, visit, visits))
        elif hook == "forward":
            route = observed.routes.get((machine.name, _route(visit)), "")
            what = f"the machine routes it: from {visit.iif} to {visit.oif}"
            evidence = [str(packet), *([f"ip route get: {route}"] if route else [])]
            found.append(_hop(direction, machine, visit.oif, what, *evidence))
        elif hook == "input":
            found.append(_hop(direction, machine, visit.iif, "a program on the machine itself gets it", str(packet)))
        elif hook == "output":
            found.append(_hop(direction, machine, visit.oif, "a program on the machine sends it", str(packet)))
        elif hook == "postrouting" and filters and found:
            found[-1] = replace(found[-1], evidence=[*found[-1].evidence, *filters])
        elif hook == "egress":
            found.append(_goes_out(observed, facts, direction, visit))
    return found


def _comes_in(observed: Observed, facts: Facts, direction: Direction, visit: Visit) -> Hop:
    owner = next((address for address, veth in facts.veths.items() if veth == visit.iif), "")
    if owner:
        what = f"it comes out of the Pod {_pod_name(observed, owner)}"
    elif facts.kind(visit.iif) == "vxlan":
        what = "the tunnel has unpacked it"
    else:
        what = f"it arrives at {facts.machine.name}"
        if direction == "request" and visit.packet.source[0] == observed.target.pod_address:
            what += " with the Pod's own address as its source"
    return _hop(direction, facts.machine, visit.iif, what, str(visit.packet))


def _goes_out(observed: Observed, facts: Facts, direction: Direction, visit: Visit) -> Hop:
    owner = next((address for address, veth in facts.veths.items() if veth == visit.oif), "")
    if owner:
        bridge = facts.interfaces[visit.oif].master if visit.oif in facts.interfaces else ""
        by = f"the bridge {bridge} delivers it" if bridge else "it is delivered"
        what = f"{by} into the Pod {_pod_name(observed, owner)}"
    elif facts.kind(visit.oif) == "vxlan":
        what = "it goes into the tunnel"
    else:
        what = f"it leaves {facts.machine.name}"
    return _hop(direction, facts.machine, visit.oif, what, str(visit.packet))


def _bridged(facts: Facts, direction: Direction, visit: Visit, visits: Sequence[Visit]) -> Hop:
    port = next((each.iif for each in visits if _position(each) == "ingress"), "")
    what = f"{port or 'its interface'} is a port of the bridge, which is the Pod's gateway: the machine gets the packet"
    return _hop(direction, facts.machine, visit.iif, what, str(visit.packet))


def _outer(observed: Observed, machine: LiveMachine, direction: Direction, visit: Visit) -> Hop:
    names = {each.machine.address: each.machine.name for each in observed.facts.values()}
    source, destination = (names.get(place[0], place[0]) for place in (visit.packet.source, visit.packet.destination))
    verb = "leaves" if visit.oif and not visit.iif else "arrives"
    what = f"it {verb} in a packet of VXLAN from {source} to {destination}"
    return _hop(direction, machine, visit.iif or visit.oif, what, str(visit.packet))


def _destination_changed(
    observed: Observed,
    machine: LiveMachine,
    direction: Direction,
    packets: tuple[Packet, Packet],
    rules: Sequence[Visit],
    visit: Visit,
) -> Hop:
    old, new = packets
    if direction == "answer":
        what = f"connection tracking undoes the masquerade: for {where(old.destination)} it is {where(new.destination)}"
        return _hop(direction, machine, visit.iif, what, f"{old} becomes {new}")
    endpoint = observed.endpoint
    chosen = f", the Pod {endpoint.pod}" if endpoint is not None and endpoint.pod else ""
    what = f"kube-proxy's rule (DNAT): {where(old.destination)} becomes {where(new.destination)}{chosen}"
    path = _path(rules, _DNAT)
    lost = "the rules are in no table of nftables: iptables-legacy has no trace; conntrack shows the translation"
    return _hop(direction, machine, visit.iif, what, *(path or [lost]))


def _source_changed(
    observed: Observed,
    machine: LiveMachine,
    direction: Direction,
    packets: tuple[Packet, Packet],
    rules: Sequence[Visit],
    visit: Visit,
) -> Hop:
    old, new = packets
    if direction == "answer":
        what = f"connection tracking translates back: from {where(old.source)} to the Service's {where(new.source)}"
        return _hop(direction, machine, visit.oif, what, f"{old} becomes {new}")
    what = f"masquerade (SNAT): the source {where(old.source)} becomes {where(new.source)}"
    path = _path(rules, _SNAT)
    return _hop(direction, machine, visit.oif, what, *(path or [f"{old} becomes {new}"]))


def _conntrack(observed: Observed, machine: LiveMachine, direction: Direction) -> Iterator[Hop]:
    entry = observed.seen[machine.name].conntrack
    if direction == "request" and entry:
        what = "connection tracking keeps both directions: all further packets follow this entry, not the rule"
        yield _hop(direction, machine, "", what, entry)


def _listener(observed: Observed, endpoint: Endpoint) -> Iterator[Hop]:
    if endpoint.machine is None or endpoint.machine.name not in observed.facts:
        return
    said = observed.facts[endpoint.machine.name].said(f"listens-{endpoint.address}").splitlines()
    what = f"a program listens on port {endpoint.port} and answers" if said else "it answers"
    name = endpoint.pod or endpoint.machine.name
    yield Hop(part="answer", machine=name, interface="", what=what, evidence=[f"ss: {_blanks(line)}" for line in said])


def _result(observed: Observed) -> Hop:
    target, request = observed.target, observed.request
    connect, total = (round(1000 * seconds, 1) for seconds in request.seconds)
    got = f"HTTP status {request.status}" if request.status else "a connection; the server does not speak HTTP"
    evidence = [f"curl: connected after {connect} ms, ended after {total} ms"]
    if request.error:
        evidence.append(f"curl: {request.error}")
    what = f"the Pod gets its answer from {target.address}:{target.port}: {got}"
    return Hop(part="answer", machine=target.pod, interface="", what=what, evidence=evidence)


def _end(observed: Observed) -> Hop:
    """Where the packet ended, and why, as far as it was seen."""
    target, endpoint, other = observed.target, observed.endpoint, observed.other
    curl = f"curl: {observed.request.error}"
    source = target.machine
    order: list[tuple[LiveMachine, Direction]] = [(source, "answer")]
    order += [(other, "answer"), (other, "request")] if other is not None else []
    order.append((source, "request"))
    for machine, direction in order:
        visits = [each for each in observed.visits(machine.name, direction) if _is_inner(each)]
        if not visits:
            continue
        last = visits[-1]
        own = [each for each in visits if each.own]
        refused = direction == "answer" and last.packet.refuses
        if refused and machine == source:
            place = where((endpoint.address, endpoint.port)) if endpoint is not None else where(last.packet.source)
            what = f"the connection was refused: nothing listens on {place}"
            return replace(_hop("answer", machine, last.oif, what, str(last.packet), curl), ended=True)
        if last.dropped_by:
            what = "the packet ends here: a rule drops it"
            return replace(_hop(direction, machine, last.iif, what, _words(last), curl), ended=True)
        hook = _position(own[-1]) if own else ""
        route = observed.routes.get((machine.name, _route(own[-1])), "") if own else ""
        asked = [f"ip route get: {route}"] if route else []
        place = own[-1].oif or own[-1].iif if own else ""
        packet = str(own[-1].packet) if own else str(last.packet)
        if hook in ("ingress", "prerouting", "translated"):
            what = "the packet ends here: the machine does not pass it on"
        elif hook == "forward":
            what = "the packet ends here: a rule for forwarded packets that nftables does not show drops it"
        elif hook == "input":
            what = f"the packet ends here: no program on {machine.name} answers"
        elif place in observed.facts[machine.name].veths.values():
            what = "the packet ends here: the Pod got it, and does not answer"
        else:
            to = next((m.name for m in (other, source) if m is not None and m != machine), "outside of the lab")
            what = f"the packet ends behind {place}: it left {machine.name} and did not arrive at {to}"
            if endpoint is None or (other is not None and observed.seen[other.name].missing):
                what = f"the packet left {machine.name}; what came of it was not watched"
        return replace(_hop(direction, machine, place, what, packet, *asked, curl), ended=True)
    what = "no packet came out of the Pod"
    return Hop(part="request", machine=target.pod, interface="", what=what, evidence=[curl], ended=True)


def _filters(rules: Sequence[Visit]) -> list[str]:
    """What the rules of others said to a packet that passed them."""
    return [
        f"{visit.family} {visit.table} {visit.chain}: {len(visit.rules) - 1} rules met, {_verdict(visit.rules[-1])}"
        for visit in rules
        if len(visit.rules) > 1
    ]


def _verdict(rule: Rule) -> str:
    # nft adds the mark of the packet to the verdict.
    return rule.verdict.split()[0]


def _path(rules: Sequence[Visit], decides: re.Pattern[str]) -> list[str]:
    """The rules that led to a translation: from the hook by jumps to the one that decides, each as nft prints it."""
    for visit in rules:
        for number, rule in enumerate(visit.rules):
            if decides.search(rule.text):
                way = [rule]
                for before in reversed(visit.rules[:number]):
                    if before.verdict in (f"jump {way[0].chain}", f"goto {way[0].chain}"):
                        way.insert(0, before)
                return [f"{visit.family} {visit.table} {_text(each)}" for each in way]
    return []


def _text(rule: Rule) -> str:
    # What a map led to is in the verdict alone.
    led = "" if rule.verdict in rule.text or rule.verdict == "accept" else f" ({rule.verdict})"
    return f"{rule.chain}: {rule.text}{led}"


def _words(visit: Visit) -> str:
    rule = visit.dropped_by
    assert rule is not None
    return f"{visit.family} {visit.table} {_text(rule)}"


def _position(visit: Visit) -> str:
    if not visit.own:
        return ""
    if visit.family == "netdev":
        return "ingress" if visit.iif else "egress"
    return visit.chain


def _is_inner(visit: Visit) -> bool:
    return visit.packet.protocol == "tcp"


def _route(visit: Visit) -> Route:
    return visit.packet.destination[0], visit.packet.source[0], visit.iif


def _hop(direction: Direction, machine: LiveMachine, interface: str, what: str, *evidence: str) -> Hop:
    return Hop(part=direction, machine=machine.name, interface=interface, what=what, evidence=list(evidence))


def _pod_name(observed: Observed, address: str) -> str:
    if address == observed.target.pod_address:
        return observed.target.pod
    return next((each.name for each in observed.target.endpoints if each.address == address), address)


def _blanks(text: str) -> str:
    return " ".join(text.split())
