"""What the kernel says of a packet on one machine: lines of `nft monitor` (nft(8), "trace"), as visits to chains.

A visit is one packet in one chain that hangs on a hook, with the rules that it met there and in the chains to which
these led. The order of visits is that in which the packet passed.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal

TABLE = "hardway-trace-packet"
"""The tables of a trace, in the families inet and netdev; of this name nothing else has any."""

Direction = Literal["request", "answer"]

_LINE = re.compile(r"trace id (?P<id>\w+) (?P<family>\w+) (?P<table>\S+) (?P<chain>\S+) (?P<said>.*)")
_VERDICT = re.compile(r"(?P<text>.*?) ?\(verdict (?P<verdict>[^)]*)\)$")
_WORDS = re.compile(r'(iif|oif|ip saddr|ip daddr|tcp sport|tcp dport|udp sport|udp dport|tcp flags ==) "?([^" ]+)"?')
_FLAG_LIST = re.compile(r"tcp flags == (\S+(?: ?\| ?\S+)*)")
# As it was when the watch began.
_COUNTER = re.compile(r"counter packets \d+ bytes \d+")
_RAW = re.compile(r"@(nh|th),0,(\d+) 0x([0-9a-f]+)")
_FLAGS = {"fin": 1, "syn": 2, "rst": 4, "psh": 8, "ack": 16, "urg": 32}
_TCP, _UDP = 6, 17


@dataclass(frozen=True, kw_only=True)
class Packet:
    """The addresses of a packet, as it was there.

    Args:
        protocol: tcp or udp.
        source, destination: address and port.
        flags: of TCP: syn, ack, rst ... as a number.
    """

    protocol: str
    source: tuple[str, int]
    destination: tuple[str, int]
    flags: int = 0

    @property
    def opens(self) -> bool:
        """Whether it is the first of a connection."""
        return self.flags & 18 == 2

    @property
    def refuses(self) -> bool:
        """Whether it says that nobody listens."""
        return bool(self.flags & 4)

    def __str__(self) -> str:
        names = ",".join(name.upper() for name, bit in _FLAGS.items() if self.flags & bit)
        what = names if self.protocol == "tcp" else self.protocol.upper()
        return f"{where(self.source)} > {where(self.destination)} {what}"


def where(place: tuple[str, int]) -> str:
    """ADDRESS:PORT."""
    return f"{place[0]}:{place[1]}"


@dataclass(frozen=True, kw_only=True)
class Rule:
    """A rule that a packet met.

    Args:
        chain: its chain.
        text: as nft prints it.
        verdict: what came of it: accept, drop, jump NAME ...
    """

    chain: str
    text: str
    verdict: str


@dataclass(frozen=True, kw_only=True)
class Visit:
    """A packet in a chain of a hook.

    Args:
        family, table, chain: which. The chain is the one of the first rule: `request` in the trace's own tables.
        iif, oif: the interfaces that the kernel knows there; empty where it knows none.
        packet: the packet then.
        rules: what it met.
    """

    family: str
    table: str
    chain: str
    iif: str
    oif: str
    packet: Packet
    rules: list[Rule] = field(default_factory=list)

    @property
    def own(self) -> bool:
        """Whether the chain is the trace's."""
        return self.table == TABLE

    @property
    def dropped_by(self) -> Rule | None:
        """The rule, or the policy, that dropped the packet."""
        return next((rule for rule in self.rules if rule.verdict == "drop"), None)

    @property
    def direction(self) -> Direction:
        """Which way the packet goes; an encapsulated one is known by the rule that found it."""
        if self.packet.protocol == "udp":
            return "answer" if self.chain == "answer" else "request"
        return "request" if self.packet.opens else "answer"


def parse(lines: Iterable[str]) -> list[Visit]:
    """The visits of the packets that the trace's own rules have marked, each position of a direction once.

    Args:
        lines: what `nft monitor` printed; what is no line of a trace is ignored.
    """
    visits: list[tuple[str, Visit]] = []
    current: dict[str, Visit] = {}
    for line in lines:
        found = _LINE.match(line.strip())
        if found is None:
            continue
        key, said = found["id"], found["said"]
        if said.startswith("packet: "):
            current.pop(key, None)
            if (packet := _packet(said)) is not None:
                words = dict(_WORDS.findall(said))
                current[key] = Visit(
                    family=found["family"],
                    table=found["table"],
                    chain=found["chain"],
                    iif=words.get("iif", ""),
                    oif=words.get("oif", ""),
                    packet=packet,
                )
                visits.append((key, current[key]))
            continue
        visit, rule = current.get(key), _rule(found["chain"], said)
        if visit and rule and (visit.family, visit.table) == (found["family"], found["table"]):
            visit.rules.append(rule)
    own = {key for key, visit in visits if visit.own}
    return _once([visit for key, visit in visits if key in own])


def _once(visits: Sequence[Visit]) -> list[Visit]:
    """Without the repetitions of a packet that got no answer; a connection's first packet tells all of it."""
    kept: dict[tuple[str, ...], Visit] = {}
    for visit in visits:
        key = (visit.direction, visit.packet.protocol, visit.family, visit.table, _hook(visit), visit.iif, visit.oif)
        kept.setdefault(key, visit)
    return list(kept.values())


def _hook(visit: Visit) -> str:
    # The first rule is in `request` or `answer` where the packet was not marked before.
    return "" if visit.family == "netdev" else visit.chain


def _rule(chain: str, said: str) -> Rule | None:
    if said.startswith("policy "):
        return Rule(chain=chain, text="policy", verdict=said.removeprefix("policy ").strip())
    found = _VERDICT.match(said)
    if found is None or not found["text"].startswith(("rule ", "unknown rule ")):
        return None
    text = _COUNTER.sub("", found["text"].removeprefix("rule "))
    return Rule(chain=chain, text=" ".join(text.split()), verdict=found["verdict"])


def _packet(said: str) -> Packet | None:
    words = dict(_WORDS.findall(said))
    for protocol in ("tcp", "udp"):
        if f"{protocol} dport" in words and "ip daddr" in words:
            flags = _FLAG_LIST.search(said)
            return Packet(
                protocol=protocol,
                source=(words["ip saddr"], int(words[f"{protocol} sport"])),
                destination=(words["ip daddr"], int(words[f"{protocol} dport"])),
                flags=_flags(flags[1]) if flags else 0,
            )
    # Where a packet leaves an interface, nft prints the headers as numbers, without leading zeros.
    raw = {name: bytes.fromhex(digits.zfill(int(bits) // 4)) for name, bits, digits in _RAW.findall(said)}
    if len(raw.get("nh", b"")) < 20 or len(raw.get("th", b"")) < 14 or raw["nh"][9] not in (_TCP, _UDP):
        return None
    network, transport = raw["nh"], raw["th"]
    return Packet(
        protocol="tcp" if network[9] == _TCP else "udp",
        source=(".".join(map(str, network[12:16])), int.from_bytes(transport[0:2], "big")),
        destination=(".".join(map(str, network[16:20])), int.from_bytes(transport[2:4], "big")),
        flags=transport[13] if network[9] == _TCP else 0,
    )


def _flags(text: str) -> int:
    if text.startswith("0x"):
        return int(text, 16)
    return sum(_FLAGS.get(name, 0) for name in re.split(r"[,| ]+", text))
