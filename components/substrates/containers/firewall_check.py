"""What of a host's firewall drops the packets that the host forwards for a lab, and the lab cannot open.

The lab opens the chain FORWARD of iptables (firewall.sh). Whatever else drops is the user's own, and is
named: table, chain, rule, and the commands that let the lab pass. Standard library only: preflight.py runs
it, and `./hardway status` as a program of its own, which prints a line for each problem.
"""

import argparse
import ipaddress
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Run as a program beside others, by the host's Python: the project is not on its path.
sys.path.insert(0, str(Path(__file__).parents[3]))

from components.substrates.firewall_rules import Chain, Finding, Packets, Range, Rule, Ruleset

# Opened by the lab itself; and firewalld's, which has its own command.
_OPENED = ("ip", "filter", "FORWARD")
_FIREWALLD = "firewalld"
UNREADABLE = 3
"""Exit status where the rules cannot be listed."""


@dataclass(frozen=True)
class Lab:
    """Whose packets: their addresses, and the bridge where it is there already.

    Args:
        ranges, bridge: these.
        network: the name of its network, where the lab is up: what it opened is looked at, too.
    """

    ranges: Sequence[Range]
    bridge: str | None
    network: str | None = None


class UnreadableError(Exception):
    """The rules cannot be listed; the message says why."""


def problems(lab: Lab) -> Iterator[str]:
    """What drops the lab's packets, each with the commands that let them pass.

    Raises:
        UnreadableError: there are rules, perhaps, and they cannot be listed.
    """
    for sure, problem in looked_at(lab):
        if sure:
            yield problem


def looked_at(lab: Lab) -> Iterator[tuple[bool, str]]:
    """What drops the lab's packets, or may drop them where that cannot be decided: whether it is sure, and the text.

    Raises:
        UnreadableError: as `problems`.
    """
    for problem in _firewalld(lab):
        yield True, problem
    if shutil.which("nft") is None:
        # Rules of the kind that the lab cannot open are made with it.
        return
    listing = _run("nft", "-j", "list", "ruleset")
    if listing.returncode != 0:
        raise UnreadableError(listing.stderr.strip())
    for found in dropping(json.loads(listing.stdout or '{"nftables": []}'), lab):
        yield found.unsure is None, _problem(found, lab)


def _problem(found: Finding, lab: Lab) -> str:
    does = "drops" if found.unsure is None else "may drop"
    said = f"its firewall {does} what it forwards for the lab: {found.place}, {found.what(_text)}"
    if found.unsure is not None:
        said += f"; whether `{_text(found.chain, found.unsure)}` accepts it before cannot be read"
    chain = found.chain
    if (chain.family, chain.table, chain.name) == _OPENED:
        return f"{said}. Open it again: `sh /usr/local/lib/{lab.network}/firewall.sh open`"
    addresses = "{ " + ", ".join(str(each) for each in lab.ranges) + " }"
    commands = " and ".join(
        f"`nft insert rule {chain.place} ip {end} {addresses} accept`" for end in ("saddr", "daddr")
    )
    return f"{said}. Let the lab pass: {commands}, and keep both where that chain is made (/etc/nftables.conf)"


def dropping(ruleset: Mapping[str, Any], lab: Lab) -> list[Finding]:
    """Chains that drop packets of the lab."""
    packets = Packets(lab.ranges, [lab.bridge] if lab.bridge else [])
    return [
        found
        for found in Ruleset(ruleset).dropping("forward", packets)
        if found.chain.table != _FIREWALLD
        and (lab.network or (found.chain.family, found.chain.table, found.chain.name) != _OPENED)
    ]


def _text(chain: Chain, rule: Rule) -> str:
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


def bridge_of(network: Mapping[str, Any]) -> str:
    """The bridge of a network as the container engine describes it."""
    return str(network.get("network_interface") or f"br-{network.get('Id', '')[:12]}")


def _run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


def main() -> int:
    """Print a line for each problem of a running lab; exit status 3, and the reason, where it cannot be read."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--engine", required=True)
    parser.add_argument("--network", required=True)
    parser.add_argument("--ranges", required=True, nargs="+", type=ipaddress.IPv4Network)
    args = parser.parse_args()
    try:
        described = _run(args.engine, "network", "inspect", args.network)
        if described.returncode != 0:
            raise UnreadableError(described.stderr.strip())
        (network,) = json.loads(described.stdout)
        print(*problems(Lab(args.ranges, bridge_of(network), args.network)), sep="\n")
    except (UnreadableError, OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return UNREADABLE
    return 0


if __name__ == "__main__":
    sys.exit(main())
