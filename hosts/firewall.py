"""What a host's own firewall drops of a lab's packets: base chains of the hooks input and forward.

A packet must pass every base chain of its hook: a rule in one does not overrule another. Kubernetes adds rules of its
own, and none of them opens a chain of somebody else's. Whether a machine's ports are open is tried by the others; that
packets of pods pass cannot be tried before there are pods, so that the chains are read.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from ipaddress import IPv4Network
from typing import Any

_OF_THE_LAB = ("kube-proxy", "hardway", "calico")
_SEES_IPV4 = ("ip", "inet")
# Rules for these let nothing of a lab pass.
_OTHER_INTERFACES = ("lo", "docker", "br-", "virbr", "podman", "lxc", "tun", "wg")


def problems(
    found: Mapping[str, Sequence[str]], pods: IPv4Network | None, machines: Sequence[IPv4Network], *, is_closed: bool
) -> Iterator[str]:
    """What drops the lab's packets, each with the commands that let them pass.

    Args:
        found: what the probe said.
        pods: the range of all pods; None where none of their packets passes through the host.
        machines: the addresses of the others.
        is_closed: whether another machine could not reach one of the host's ports.
    """
    sources = next(iter(found.get("firewalld", ())), None)
    trusted = [IPv4Network(each) for each in (sources or "").split() if ":" not in each and each[:1].isdigit()]
    if sources is not None:
        wanted = [*machines, *([pods] if pods else [])]
        if missing := [each for each in wanted if not any(each.subnet_of(source) for source in trusted)]:
            added = " ".join(f"--add-source={each}" for each in missing)
            yield (
                "firewalld is active, and its zone trusted lacks addresses of the lab: "
                f"`firewall-cmd --permanent --zone=trusted {added} && firewall-cmd --reload`"
            )
        return
    for family, table, name, hook in _base_chains(found):
        if hook == "input" and is_closed:
            addresses = machines
        elif hook == "forward" and pods and not _lets_pass(found, family, table, pods):
            addresses = [pods]
        else:
            continue
        what = "forwards for pods" if hook == "forward" else "gets from the other machines"
        yield (
            f"its firewall drops what it {what}: "
            f"table {family} {table}, chain {name}, policy drop. Let the lab pass: "
            f"`{' && '.join(_commands(found, family, table, name, hook, addresses))}`, and keep that for the next boot"
        )


def _commands(
    found: Mapping[str, Sequence[str]], family: str, table: str, name: str, hook: str, addresses: Sequence[IPv4Network]
) -> Iterator[str]:
    if found.get("ufw") and name in ("INPUT", "FORWARD"):
        for each in addresses:
            yield f"ufw route allow from {each}" if hook == "forward" else f"ufw allow from {each}"
            if hook == "forward":
                yield f"ufw route allow to {each}"
        return
    for end in ("saddr", "daddr") if hook == "forward" else ("saddr",):
        if family == "legacy":
            for each in addresses:
                yield f"iptables-legacy -I {name} {'-s' if end == 'saddr' else '-d'} {each} -j ACCEPT"
        else:
            yield f"nft insert rule {family} {table} {name} ip {end} {{ {', '.join(map(str, addresses))} }} accept"


def _entries(found: Mapping[str, Sequence[str]], kind: str) -> Iterator[Mapping[str, Any]]:
    for listing in found.get("nft", ()):
        yield from (entry[kind] for entry in json.loads(listing)["nftables"] if kind in entry)


def _base_chains(found: Mapping[str, Sequence[str]]) -> Iterator[tuple[str, str, str, str]]:
    """Family, table, name and hook of the base chains that drop what no rule accepts."""
    for chain in _entries(found, "chain"):
        if (
            chain.get("hook") in ("input", "forward")
            and chain.get("policy") == "drop"
            and chain["family"] in _SEES_IPV4
            and not chain["table"].startswith(_OF_THE_LAB)
        ):
            yield chain["family"], chain["table"], chain["name"], chain["hook"]
    for line in found.get("legacy", ()):
        if line.startswith((":INPUT DROP", ":FORWARD DROP")):
            name = line.split()[0].removeprefix(":")
            yield "legacy", "filter", name, name.lower()


def _lets_pass(found: Mapping[str, Sequence[str]], family: str, table: str, pods: IPv4Network) -> bool:
    """Whether a rule of a table is there to let pods' packets pass, in any of its chains. Of several conditions only
    those by address and interface are looked at."""
    if family == "legacy":
        return any(f" {pods} " in f"{line} " and "-j ACCEPT" in line for line in found.get("legacy", ()))
    for rule in _entries(found, "rule"):
        statements = [(key, value) for statement in rule.get("expr", []) for key, value in statement.items()]
        if (rule["family"], rule["table"]) != (family, table) or not any(key == "accept" for key, _ in statements):
            continue
        if any(_is_for(value, pods) for key, value in statements if key == "match"):
            return True
    return False


def _is_for(match: Mapping[str, Any], pods: IPv4Network) -> bool:
    left, right = match["left"], match["right"]
    values = right["set"] if isinstance(right, dict) and "set" in right else [right]
    if not isinstance(left, dict) or match["op"] == "!=":
        return False
    if left.get("meta", {}).get("key") in ("iifname", "oifname"):
        return not all(str(each).startswith(_OTHER_INTERFACES) for each in values)
    if left.get("payload", {}).get("field") not in ("saddr", "daddr") or left["payload"].get("protocol") != "ip":
        return False
    return any(pods.subnet_of(network) for each in values for network in _network(each))


def _network(value: Any) -> list[IPv4Network]:
    if isinstance(value, dict) and "prefix" in value:
        return [IPv4Network(f"{value['prefix']['addr']}/{value['prefix']['len']}")]
    return []
