"""What a machine's own firewall drops of a lab's packets: base chains of the hooks input and forward.

Kubernetes adds rules of its own, and none of them opens another program's chain. Whether a machine's ports are open
is tried by the others; that packets of pods pass cannot be tried before there are pods, so that the chains are read.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from ipaddress import IPv4Network
from pathlib import Path

from components.substrates.firewall_rules import LEGACY, Chain, Finding, Packets, Rule, Ruleset, of_iptables

SCRIPT = Path(__file__).with_name("machine_firewall.sh")
"""Prints what `problems` and `notes` are given: a line for each word and value."""

_OF_THE_LAB = ("kube-proxy", "hardway", "calico")
_FIREWALLD = "firewalld"
# By which packets of pods come and go on their own machine, besides its interface to the others.
_OF_PODS = ("cnio0", "cali*", "vxlan.calico", "tunl0")


def problems(
    found: Mapping[str, Sequence[str]],
    pods: IPv4Network | None,
    machines: Sequence[IPv4Network],
    *,
    interfaces: Sequence[str],
    is_closed: bool,
) -> Iterator[str]:
    """What drops the lab's packets, each with the commands that let them pass.

    Args:
        found: what the script said: word -> its values.
        pods: the range of all pods; None where none of their packets passes through the host.
        machines: the addresses of the others.
        interfaces: by which the host reaches the others.
        is_closed: whether another machine could not reach one of the host's ports.
    """
    yield from _firewalld(found, [*machines, *([pods] if pods else [])])
    for each, addresses in _findings(found, pods, machines, interfaces, is_closed=is_closed):
        if each.unsure is None or each.chain.hook == "input":
            yield _problem(found, each, addresses)


def notes(
    found: Mapping[str, Sequence[str]],
    pods: IPv4Network | None,
    machines: Sequence[IPv4Network],
    *,
    interfaces: Sequence[str],
) -> Iterator[str]:
    """What may drop the lab's packets and cannot be decided, and what could not be read."""
    for reason in found.get("unread", ()):
        yield f"its firewall cannot be read, and may drop packets of the lab: {reason}"
    for each, addresses in _findings(found, pods, machines, interfaces, is_closed=False):
        if each.unsure is not None:
            yield _problem(found, each, addresses)


def _findings(
    found: Mapping[str, Sequence[str]],
    pods: IPv4Network | None,
    machines: Sequence[IPv4Network],
    interfaces: Sequence[str],
    *,
    is_closed: bool,
) -> Iterator[tuple[Finding, Sequence[IPv4Network]]]:
    listings = [json.loads(listing) for listing in found.get("nft", ())]
    if legacy := found.get("legacy"):
        listings.append(of_iptables(legacy))
    for listing in listings:
        ruleset = Ruleset(listing)
        # What pods send and get, and what other machines send to the host itself.
        asked = [("forward", Packets([pods], [*_OF_PODS, *interfaces]))] if pods else []
        asked += [("input", Packets(machines, interfaces))] if is_closed else []
        for hook, packets in asked:
            for each in ruleset.dropping(hook, packets):
                if not each.chain.table.startswith(_OF_THE_LAB) and each.chain.table != _FIREWALLD:
                    yield each, packets.ranges


def _problem(found: Mapping[str, Sequence[str]], each: Finding, addresses: Sequence[IPv4Network]) -> str:
    texts = {tuple(line.split(" ", 3)[:3]): line.split(" ", 3)[3] for line in found.get("rule", ())}

    def text(chain: Chain, rule: Rule) -> str:
        key = (chain.family, chain.table, str(rule["handle"]))
        return str(rule.get("text") or texts.get(key) or f"handle {rule['handle']}")

    does = "drops" if each.unsure is None else "may drop"
    what = "forwards for pods" if each.chain.hook == "forward" else "gets from the other machines"
    said = f"its firewall {does} what it {what}: {each.place}, {each.what(text)}"
    if each.unsure is not None:
        said += f"; whether `{text(each.chain, each.unsure)}` accepts it before cannot be read"
    commands = " && ".join(_commands(found, each.chain, addresses))
    return f"{said}. Let the lab pass: `{commands}`, and keep that for the next boot"


def _commands(found: Mapping[str, Sequence[str]], chain: Chain, addresses: Sequence[IPv4Network]) -> Iterator[str]:
    is_forward = chain.hook == "forward"
    built_in = chain.name in ("INPUT", "FORWARD")
    if found.get("ufw") and built_in:
        for each in addresses:
            yield f"ufw route allow from {each}" if is_forward else f"ufw allow from {each}"
            if is_forward:
                yield f"ufw route allow to {each}"
        return
    for end in ("saddr", "daddr") if is_forward else ("saddr",):
        if built_in and chain.table == "filter" and chain.family in ("ip", LEGACY):
            # A rule that nft adds there makes iptables refuse the table.
            program = "iptables-legacy" if chain.family == LEGACY else "iptables"
            option = "-s" if end == "saddr" else "-d"
            yield f"{program} -I {chain.name} {option} {','.join(map(str, addresses))} -j ACCEPT"
        else:
            yield f"nft insert rule {chain.place} ip {end} {{ {', '.join(map(str, addresses))} }} accept"


def _firewalld(found: Mapping[str, Sequence[str]], wanted: Sequence[IPv4Network]) -> Iterator[str]:
    sources = next(iter(found.get("firewalld", ())), None)
    if sources is None:
        return
    trusted = [IPv4Network(each) for each in sources.split() if ":" not in each and each[:1].isdigit()]
    if missing := [each for each in wanted if not any(each.subnet_of(source) for source in trusted)]:
        added = " ".join(f"--add-source={each}" for each in missing)
        yield (
            "firewalld is active, and its zone trusted lacks addresses of the lab: "
            f"`firewall-cmd --permanent --zone=trusted {added} && firewall-cmd --reload`"
        )
