"""Whether the etcd members of a lab hold the same data: one cluster, revisions close together, equal hashes.

A hash is made of all keys up to a revision, without what was compacted. Two are comparable where both members were
asked for the same revision and have compacted to the same one: so they are asked once all revisions are known.
"""

from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass

APART = 5000
"""How many revisions may be between members that are asked one after another: etcd refuses writes where a member has
that many committed and not applied."""


@dataclass(frozen=True, kw_only=True)
class MemberData:
    """What a voting member that answers says of its data.

    Args:
        name: its own.
        cluster_id: in hexadecimal digits.
        revision: its latest.
        hash: of the data up to the revision that all were asked for; None where it told none.
        compacted: the revision that it has compacted to, when it told its hash.
        message: why it told none.
    """

    name: str
    cluster_id: str
    revision: int
    hash: int | None = None
    compacted: int | None = None
    message: str = ""


def common_revision(members: Sequence[MemberData]) -> int | None:
    """The revision that all members have reached; None where there are not two members to compare."""
    return min(each.revision for each in members) if len(members) > 1 else None


def compacted_apart(members: Sequence[MemberData]) -> bool:
    """Whether hashes cannot be compared because one member has compacted to another revision than the others."""
    return len({each.compacted for each in members if each.hash is not None}) > 1


def problems(members: Sequence[MemberData]) -> Iterator[str]:
    """How their data differ."""
    if len(members) < 2:
        return
    if len({each.cluster_id for each in members}) > 1:
        yield f"the etcd members belong to different clusters: {_groups(members, lambda each: each.cluster_id)}"
        return
    newest = max(members, key=lambda each: each.revision)
    behind = [each for each in members if newest.revision - each.revision > APART]
    for each in behind:
        yield (
            f"the etcd member {each.name} is at revision {each.revision}, "
            f"{newest.revision - each.revision} behind {newest.name}"
        )
    told = [each for each in members if each.hash is not None]
    if compacted_apart(told):
        if not behind:
            yield (
                "the data of the etcd members cannot be compared, they have compacted to different revisions: "
                f"{_groups(told, lambda each: str(each.compacted))}"
            )
    elif len({each.hash for each in told}) > 1:
        yield f"the etcd members hold different data: {_groups(told, lambda each: f'hash {each.hash}')}"
    if not behind:
        for each in members:
            if each.hash is None:
                yield f"the data of the etcd member {each.name} cannot be compared: {each.message or 'no hash'}"


def _groups(members: Collection[MemberData], value: Callable[[MemberData], str]) -> str:
    names: dict[str, list[str]] = defaultdict(list)
    for each in members:
        names[value(each)].append(each.name)
    return ", ".join(f"{' and '.join(named)} {said}" for said, named in names.items())
