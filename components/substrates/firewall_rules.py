"""Which chains of nftables and iptables drop packets of a lab: the rules read as the kernel reads them.

A packet must pass every base chain of its hook: a rule in one does not overrule another. What is looked for is a chain
that drops new connections of whole address ranges: by its policy, or by a rule, also one in a chain that is jumped to.
Rules for single ports or protocols are left out of account. Where it depends on a condition that cannot be read here
(a packet's mark, an extension of iptables) whether an earlier rule accepts the packets, that rule is named.
Standard library only: the preflight of the substrate `containers` runs it by the host's own Python.
"""

import fnmatch
import ipaddress
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Range = ipaddress.IPv4Network
Rule = Mapping[str, Any]
Key = tuple[str, str, str]

LEGACY = "legacy"
"""The family of the tables that iptables has without nftables."""
_SEES_IPV4 = ("ip", "inet", "bridge", LEGACY)
_DEEPEST_JUMP = 16
# Chains that kube-proxy and Calico make, in tables of others too: they are the cluster's own.
_OF_CLUSTERS = ("KUBE-", "cali-")
# Extensions of iptables that select a part of the packets.
_SELECT_A_PART = ("tcp", "udp", "icmp", "multiport", "limit", "hashlimit", "recent", "connlimit")


@dataclass(frozen=True)
class Packets:
    """Whose packets.

    Args:
        ranges: their addresses.
        interfaces: by which they come and go; patterns.
    """

    ranges: Sequence[Range]
    interfaces: Sequence[str]


@dataclass
class Chain:
    """A chain and its rules; `hook` is "None" for one that is only jumped to."""

    family: str
    table: str
    name: str
    hook: str
    policy: str
    rules: list[Rule] = field(default_factory=list)

    @property
    def place(self) -> str:
        """As nft's commands name it."""
        return f"{self.family} {self.table} {self.name}"


@dataclass(frozen=True)
class Finding:
    """A base chain that drops.

    Args:
        chain: which.
        rule: its rule that drops, or that jumps to one; None where it is the policy.
        unsure: an earlier rule that may accept the packets, and cannot be decided here.
    """

    chain: Chain
    rule: Rule | None
    unsure: Rule | None

    @property
    def place(self) -> str:
        """Table and chain, for a report."""
        return f"table {self.chain.family} {self.chain.table}, chain {self.chain.name}"

    def what(self, text: Callable[[Chain, Rule], str]) -> str:
        """What drops, for a report; `text` is how a rule is written."""
        return f"policy {self.chain.policy}" if self.rule is None else f"rule `{text(self.chain, self.rule)}`"


class Ruleset:
    """What `nft -j list ruleset` lists."""

    def __init__(self, listing: Mapping[str, Any]) -> None:
        self.chains: dict[Key, Chain] = {}
        self._elements: dict[Key, Any] = {}
        for entry in listing["nftables"]:
            if made := entry.get("chain"):
                key = (made["family"], made["table"], made["name"])
                self.chains[key] = Chain(*key, hook=str(made.get("hook")), policy=str(made.get("policy", "accept")))
            for kind in ("set", "map"):
                if named := entry.get(kind):
                    self._elements[named["family"], named["table"], named["name"]] = named.get("elem", [])
            if rule := entry.get("rule"):
                self.chains[rule["family"], rule["table"], rule["chain"]].rules.append(rule)

    def dropping(self, hook: str, packets: Packets) -> Iterator[Finding]:
        """The base chains of a hook that drop packets."""
        for chain in self.chains.values():
            if chain.hook != hook or chain.family not in _SEES_IPV4:
                continue
            found: list[Finding] = []
            for range_ in packets.ranges:
                walk = _Walk(self, range_, packets)
                verdict, rule = walk.through(chain)
                if verdict == "drop" or (verdict == "none" and chain.policy == "drop"):
                    found.append(Finding(chain, rule, next(iter(walk.unsure), None)))
            # One is enough; one that is certain, if there is any.
            yield from sorted(found, key=lambda each: each.unsure is not None)[:1]

    def elements(self, chain: Chain, value: Any) -> list[Any] | None:
        """The values of a set, a named one, too; None where they cannot be read."""
        if isinstance(value, str) and value.startswith("@"):
            value = self._elements.get((chain.family, chain.table, value.removeprefix("@")))
        elif isinstance(value, dict) and "set" in value:
            value = value["set"]
        elif not isinstance(value, list):
            value = [value]
        if not isinstance(value, list):
            return None
        # With a timeout or a comment.
        return [each["elem"]["val"] if isinstance(each, dict) and "elem" in each else each for each in value]


class _Walk:
    """The way of new connections of one range through chains."""

    def __init__(self, ruleset: Ruleset, range_: Range, packets: Packets) -> None:
        self._ruleset, self._range, self._interfaces = ruleset, range_, packets.interfaces
        self.unsure: list[Rule] = []

    def through(self, chain: Chain, depth: int = 0) -> tuple[str, Rule | None]:
        """What becomes of them: accept, drop or none, and the rule that drops."""
        for rule in chain.rules:
            statements = [(name, value) for each in rule.get("expr", []) for name, value in each.items()]
            hit = self._hit(chain, statements)
            for verdict, value, more in self._verdicts(chain, statements):
                end = self._apply(chain, rule, verdict, value, _least(hit, more), depth)
                if end is not None:
                    return end
        return "none", None

    def _verdicts(self, chain: Chain, statements: Sequence[tuple[str, Any]]) -> Iterator[tuple[str, Any, str]]:
        """The verdicts of a rule, each with what it is for."""
        for name, value in statements:
            if name in ("accept", "drop", "reject", "jump", "goto", "return"):
                yield name, value, "all"
            elif name == "xt" and value and value.get("type") == "target" and value.get("name") == "REJECT":
                yield "reject", None, "all"
            elif name == "vmap":
                for pair in self._ruleset.elements(chain, value["data"]) or []:
                    if isinstance(pair, list) and len(pair) == 2 and isinstance(pair[1], dict):
                        match = {"op": "==", "left": value["key"], "right": pair[0]}
                        for verdict, target in pair[1].items():
                            yield verdict, target, self._match(chain, match)

    def _apply(
        self, chain: Chain, rule: Rule, verdict: str, value: Any, hit: str, depth: int
    ) -> tuple[str, Rule | None] | None:
        """Where the way ends by a verdict; None where it goes on with the next rule."""
        if hit in ("none", "part"):
            return None
        if verdict in ("drop", "reject"):
            return ("drop", rule) if hit in ("all", "some") else None
        if verdict in ("accept", "return"):
            if hit == "all":
                return ("accept" if verdict == "accept" else "none"), None
            if hit == "unknown":
                self.unsure.append(rule)
            return None
        inner = self._ruleset.chains.get((chain.family, chain.table, value["target"]))
        if inner is None or inner.name.startswith(_OF_CLUSTERS) or depth >= _DEEPEST_JUMP:
            return None
        before = len(self.unsure)
        end, found = self.through(inner, depth + 1)
        if len(self.unsure) > before:
            # Named by its place in the base chain.
            self.unsure[before:] = [rule]
        if end == "drop" and hit in ("all", "some"):
            # The rule that jumps is in the chain that is named.
            return "drop", rule
        if end == "accept" and hit == "unknown":
            self.unsure.append(rule)
        if hit == "all" and (end == "accept" or verdict == "goto"):
            return end, found
        return None

    def _hit(self, chain: Chain, statements: Sequence[tuple[str, Any]]) -> str:
        """Whether a rule is for all of the packets, for some addresses, for a part (ports, protocols), for none, or
        for which of them cannot be read here."""
        hits = [self._match(chain, value) for name, value in statements if name == "match"]
        has_address = any(_is_address(value["left"]) for name, value in statements if name == "match")
        for name, value in statements:
            if name == "xt" and not (value and (value.get("type") == "target" or value.get("name") == "comment")):
                hits.append(_extension(value or {}, has_address=has_address))
            if name in ("limit", "ct count", "quota", "meter"):
                hits.append("part")
        return _least(*hits)

    def _match(self, chain: Chain, match: Mapping[str, Any]) -> str:
        left, negated = match["left"], match["op"] == "!="
        right = self._ruleset.elements(chain, match["right"])
        if right is None or match["op"] not in ("==", "!=", "in") or not isinstance(left, dict):
            return "unknown"
        if "meta" in left:
            return _negated(self._meta(left["meta"].get("key"), right), negated)
        if "ct" in left:
            return _negated(_conntrack(left["ct"].get("key"), right), negated)
        if "payload" not in left:
            return "unknown"
        protocol, name = left["payload"].get("protocol"), left["payload"].get("field")
        if protocol == "ip" and name in ("saddr", "daddr"):
            return self._address(right, negated=negated)
        if protocol == "ip" and name == "protocol":
            return _protocol(right)
        if protocol == "ip6":
            return "none"
        return "part" if protocol in ("tcp", "udp", "th", "icmp", "icmpv6", "sctp", "dccp") else "unknown"

    def _meta(self, key: str | None, right: Sequence[Any]) -> str:
        if key in ("iifname", "oifname", "iif", "oif"):
            names = [str(each) for each in right]
            is_ours = any(
                fnmatch.fnmatchcase(ours, name) or fnmatch.fnmatchcase(name, ours)
                for ours in self._interfaces
                for name in names
            )
            return "all" if is_ours else "none"
        if key in ("nfproto", "protocol"):
            return "all" if {"ipv4", "ip"} & set(map(str, right)) else "none"
        if key == "l4proto":
            return _protocol(right)
        if key == "pkttype":
            return "all" if "unicast" in right else "none"
        return "unknown"

    def _address(self, right: Sequence[Any], *, negated: bool) -> str:
        try:
            named = list(ipaddress.collapse_addresses(network for each in right for network in _networks(each)))
        except (ValueError, TypeError, KeyError):
            return "unknown"
        inside = any(self._range.subnet_of(network) for network in named)
        if not inside and any(self._range.overlaps(network) for network in named):
            return "some"
        return "all" if inside != negated else "none"


def _least(*hits: str) -> str:
    """What several conditions together are for."""
    return next((worst for worst in ("none", "part", "unknown", "some") if worst in hits), "all")


def _negated(hit: str, negated: bool) -> str:
    return {"all": "none", "none": "all"}.get(hit, hit) if negated else hit


def _conntrack(key: str | None, right: Sequence[Any]) -> str:
    """Of a new connection."""
    if key == "state":
        return "all" if "new" in right else "none"
    if key == "direction":
        return "all" if "original" in right else "none"
    return "part" if key == "status" else "unknown"


def _protocol(right: Sequence[Any]) -> str:
    return "all" if {"tcp", "udp"} <= set(map(str, right)) else "part"


def _extension(extension: Mapping[str, Any], *, has_address: bool) -> str:
    """Of a condition of iptables of which only the name can be read."""
    if extension.get("name") == "conntrack":
        # For replies, nearly always; unless the rule names addresses, too.
        return "unknown" if has_address else "part"
    return "part" if extension.get("name") in _SELECT_A_PART else "unknown"


def _is_address(left: Any) -> bool:
    return isinstance(left, dict) and left.get("payload", {}).get("field") in ("saddr", "daddr")


def _networks(value: Any) -> list[Range]:
    if isinstance(value, dict) and "prefix" in value:
        return [Range(f"{value['prefix']['addr']}/{value['prefix']['len']}")]
    if isinstance(value, dict) and "range" in value:
        first, last = (ipaddress.IPv4Address(end) for end in value["range"])
        return list(ipaddress.summarize_address_range(first, last))
    return [Range(value)]


def of_iptables(lines: Sequence[str]) -> dict[str, Any]:
    """The table `filter` as `iptables-legacy-save` prints it, in the form of nft's listing."""
    entries: list[dict[str, Any]] = []
    for number, line in enumerate(lines):
        place = {"family": LEGACY, "table": "filter"}
        if line.startswith(":"):
            name, policy = line[1:].split()[:2]
            hook = {"hook": name.lower(), "policy": policy.lower()} if policy != "-" else {}
            entries.append({"chain": {**place, "name": name, **hook}})
        elif line.startswith("-A "):
            words = line.split()
            entries.append(
                {"rule": {**place, "chain": words[1], "handle": number, "text": line, "expr": list(_statements(words))}}
            )
    # A rule may stand before the chain that it jumps to, never before its own.
    return {"nftables": entries}


def _statements(words: Sequence[str]) -> Iterator[dict[str, Any]]:
    """The conditions and the verdict of a rule of iptables."""
    position = 2
    negated = False
    while position < len(words):
        word, value = words[position], words[position + 1] if position + 1 < len(words) else ""
        position += 2
        op = "!=" if negated else "=="
        negated = False
        if word == "!":
            negated, position = True, position - 1
        elif word in ("-s", "-d"):
            network = Range(value)
            prefix = {"prefix": {"addr": str(network.network_address), "len": network.prefixlen}}
            left = {"payload": {"protocol": "ip", "field": "saddr" if word == "-s" else "daddr"}}
            yield {"match": {"op": op, "left": left, "right": prefix}}
        elif word in ("-i", "-o"):
            left = {"meta": {"key": "iifname" if word == "-i" else "oifname"}}
            yield {"match": {"op": op, "left": left, "right": value.replace("+", "*")}}
        elif word == "-p":
            yield {"match": {"op": op, "left": {"meta": {"key": "l4proto"}}, "right": value}}
        elif word in ("--ctstate", "--state"):
            yield {"match": {"op": op, "left": {"ct": {"key": "state"}}, "right": {"set": value.lower().split(",")}}}
        elif word == "-m" and value not in ("comment", "conntrack", "state"):
            yield {"xt": {"type": "match", "name": value}}
        elif word in ("-j", "-g"):
            yield from _target(value, "jump" if word == "-j" else "goto")
            return
        elif word == "--comment" and value.startswith('"'):
            # Of several words.
            while not words[position - 1].endswith('"') and position < len(words):
                position += 1
        elif word.startswith("--") and value.startswith("-"):
            # Without a value.
            position -= 1


def _target(name: str, verdict: str) -> Iterator[dict[str, Any]]:
    if name in ("ACCEPT", "DROP", "REJECT", "RETURN"):
        yield {name.lower(): None}
    elif name not in ("LOG", "MARK", "NFLOG", "TCPMSS", "CONNMARK", "CT"):
        yield {verdict: {"target": name}}
