"""What of a host's firewall drops the packets that the host forwards for a lab, and the lab cannot open.

A packet must pass every base chain of the hook `forward`: a rule in one does not overrule another. The lab opens the
chain FORWARD of iptables (containers_firewall.sh). Whatever else drops is the user's own, and is named: table, chain,
rule, and the commands that let the lab pass. Standard library only, as containers_preflight.py, which runs it.
"""

import fnmatch
import ipaddress
import json
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Range = ipaddress.IPv4Network
Rule = Mapping[str, Any]

# Opened by the lab itself; and firewalld's, which has its own command.
_OPENED = ("ip", "filter", "FORWARD")
_FIREWALLD = "firewalld"
_SEES_IPV4 = ("ip", "inet", "bridge")


@dataclass(frozen=True)
class Lab:
    """Whose packets: their addresses, and the bridge where it is there already."""

    ranges: Sequence[Range]
    bridge: str | None


@dataclass
class _Chain:
    family: str
    table: str
    name: str
    hook: str
    policy: str
    rules: list[Rule] = field(default_factory=list)

    @property
    def place(self) -> str:
        return f"{self.family} {self.table} {self.name}"


class UnreadableError(Exception):
    """The rules cannot be listed; the message says why."""


def problems(lab: Lab) -> Iterator[str]:
    """What drops the lab's packets, each with the commands that let them pass.

    Raises:
        UnreadableError: there are rules, perhaps, and they cannot be listed.
    """
    yield from _firewalld(lab)
    if shutil.which("nft") is None:
        # Rules of the kind that the lab cannot open are made with it.
        return
    listing = _run("nft", "-j", "list", "ruleset")
    if listing.returncode != 0:
        raise UnreadableError(listing.stderr.strip())
    for chain, rule in dropping(json.loads(listing.stdout or '{"nftables": []}'), lab):
        what = f"policy {chain.policy}" if rule is None else f"rule `{_text(chain, rule)}`"
        addresses = "{ " + ", ".join(str(each) for each in lab.ranges) + " }"
        commands = " and ".join(
            f"`nft insert rule {chain.place} ip {end} {addresses} accept`" for end in ("saddr", "daddr")
        )
        yield (
            f"its firewall drops what it forwards for the lab: table {chain.family} {chain.table}, chain {chain.name}, "
            f"{what}. Let the lab pass: {commands}, and keep both where that chain is made (/etc/nftables.conf)"
        )


def dropping(ruleset: Mapping[str, Any], lab: Lab) -> list[tuple[_Chain, Rule | None]]:
    """Chains that drop packets of the lab, each with the rule that does; None where it is the policy."""
    chains: dict[tuple[str, str, str], _Chain] = {}
    for entry in ruleset["nftables"]:
        if made := entry.get("chain"):
            key = (made["family"], made["table"], made["name"])
            chains[key] = _Chain(*key, hook=str(made.get("hook")), policy=str(made.get("policy", "accept")))
        if rule := entry.get("rule"):
            chains[rule["family"], rule["table"], rule["chain"]].rules.append(rule)
    found = []
    for key, chain in chains.items():
        if chain.hook != "forward" or chain.family not in _SEES_IPV4 or key == _OPENED or chain.table == _FIREWALLD:
            continue
        verdict, rule = _walk(chain, chains, lab, depth=0)
        if verdict == "drop" or (verdict == "none" and chain.policy == "drop"):
            found.append((chain, rule if verdict == "drop" else None))
    return found


def _walk(
    chain: _Chain, chains: Mapping[tuple[str, str, str], _Chain], lab: Lab, *, depth: int
) -> tuple[str, Rule | None]:
    """What becomes of the lab's packets in a chain: accept, drop or none, and the rule that drops."""
    for rule in chain.rules:
        statements = [(name, value) for statement in rule.get("expr", []) for name, value in statement.items()]
        hit = _hit(statements, lab)
        for name, value in statements:
            if name == "accept" and hit == "all":
                return "accept", None
            if name in ("drop", "reject") and hit in ("all", "some"):
                return "drop", rule
            if name in ("jump", "goto") and hit == "all" and depth < 16:
                inner = chains.get((chain.family, chain.table, value["target"]))
                verdict, found = _walk(inner, chains, lab, depth=depth + 1) if inner else ("none", None)
                if verdict != "none":
                    # The rule that jumps is in the chain that is named.
                    return verdict, rule if found else None
                if name == "goto":
                    return "none", None
            if name == "return" and hit == "all":
                return "none", None
    return "none", None


def _hit(statements: Sequence[tuple[str, Any]], lab: Lab) -> str:
    """Whether a rule is for all of the lab's packets, for some, for none, or nobody can say."""
    hits = [_match(value, lab) for name, value in statements if name == "match"]
    # Of iptables' own extensions a comment is no condition.
    hits += ["unknown" for name, value in statements if name == "xt" and value.get("name") != "comment"]
    hits += ["unknown" for name, _ in statements if name in ("vmap", "limit", "ct count")]
    for worst in ("none", "unknown", "some"):
        if worst in hits:
            return worst
    return "all"


def _match(match: Mapping[str, Any], lab: Lab) -> str:
    left, right, negated = match["left"], match["right"], match["op"] == "!="
    if match["op"] not in ("==", "!=", "in") or not isinstance(left, dict):
        return "unknown"
    if left.get("meta", {}).get("key") in ("iifname", "oifname"):
        names = [str(each) for each in _listed(right)]
        is_ours = lab.bridge is not None and any(fnmatch.fnmatchcase(lab.bridge, name) for name in names)
        return "all" if is_ours != negated else "none"
    if left.get("meta", {}).get("key") in ("nfproto", "protocol"):
        return "all" if (right in ("ipv4", "ip")) != negated else "none"
    payload = left.get("payload", {})
    if payload.get("protocol") == "ip6":
        return "none"
    if payload.get("protocol") != "ip" or payload.get("field") not in ("saddr", "daddr"):
        return "unknown"
    try:
        named = [network for each in _listed(right) for network in _networks(each)]
    except (ValueError, TypeError, KeyError):
        # A named set: its content is not here.
        return "unknown"
    if negated:
        return "unknown"
    if all(any(each.subnet_of(network) for network in _merged(named)) for each in lab.ranges):
        return "all"
    return "some" if any(each.overlaps(network) for each in lab.ranges for network in named) else "none"


def _listed(right: Any) -> list[Any]:
    if isinstance(right, dict) and "set" in right:
        return list(right["set"])
    return right if isinstance(right, list) else [right]


def _networks(value: Any) -> list[Range]:
    if isinstance(value, dict) and "prefix" in value:
        return [Range(f"{value['prefix']['addr']}/{value['prefix']['len']}")]
    if isinstance(value, dict) and "range" in value:
        first, last = (ipaddress.IPv4Address(end) for end in value["range"])
        return list(ipaddress.summarize_address_range(first, last))
    return [Range(value)]


def _merged(networks: Sequence[Range]) -> list[Range]:
    return list(ipaddress.collapse_addresses(networks))


def _text(chain: _Chain, rule: Rule) -> str:
    """The rule as nft writes it."""
    listing = _run("nft", "-a", "list", "chain", chain.family, chain.table, chain.name)
    for line in listing.stdout.splitlines():
        text, separator, handle = line.partition(" # handle ")
        if separator and handle.strip() == str(rule["handle"]):
            return text.strip()
    return f"handle {rule['handle']}"


def _firewalld(lab: Lab) -> Iterator[str]:
    if shutil.which("firewall-cmd") is None or _run("firewall-cmd", "--state").returncode != 0:
        return
    closed = [
        each for each in lab.ranges if _run("firewall-cmd", f"--get-zone-of-source={each}").stdout.strip() != "trusted"
    ]
    if closed:
        sources = " ".join(f"--add-source={each}" for each in closed)
        yield (
            "firewalld runs here and does not trust the lab's addresses: "
            f"`firewall-cmd --permanent --zone=trusted {sources}` and `firewall-cmd --reload`"
        )


def _run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
