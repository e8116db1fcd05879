"""All machines of a lab, asked at the same time; what several of them need is computed by one."""

from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from live.cluster import Cluster, LiveMachine
from live.drift import archives, look
from live.drift.archives import Members
from live.drift.look import Found
from live.drift.recorded import Recorded


def ask(cluster: Cluster, recorded: Mapping[str, Recorded]) -> dict[str, Found | str]:
    """Machine -> what it has; where it could not be asked, why."""
    # Containers mount one mirror: the first machine that uses an artifact computes its checksum.
    hashing = _first_users(cluster, recorded) if cluster.stack.traits.on_engine else {}
    members = archives.known(recorded.values())
    reading = _readers(recorded, members, [each.name for each in cluster.machines])

    def asked(machine: LiveMachine) -> Found | str:
        others = {path for path, first in hashing.items() if first != machine.name}
        return look.ask(cluster, machine, recorded.get(machine.name), others, reading.get(machine.name, {}))

    with ThreadPoolExecutor(max_workers=len(cluster.machines)) as threads:
        answers = dict(zip((each.name for each in cluster.machines), threads.map(asked, cluster.machines), strict=True))
    for path, first in hashing.items():
        _share_checksum(path, answers[first], [found for name, found in answers.items() if name != first])
    _learn(members, recorded, answers)
    # Where that machine did not answer, or its archive is damaged, another one reads it.
    others = [name for name, found in answers.items() if not isinstance(found, str) and name not in reading]
    for name, asks in _readers(recorded, members, others).items():
        questions = [*(f"hash {path}" for path in asks), *look.members_questions(asks)]
        lines = look.answer(cluster, cluster.machine(name), look.LOOK.read_text(), "\n".join([*questions, ""]))
        _learn(members, recorded, {name: lines if isinstance(lines, str) else look.parse(lines)})
    for name, found in answers.items():
        if isinstance(found, Found):
            programs = recorded[name].programs.values()
            found.members = {each.target: sha256 for each in programs if (sha256 := members.of(each))}
    return answers


def _readers(
    recorded: Mapping[str, Recorded], members: Members, machines: Iterable[str]
) -> dict[str, dict[str, set[str]]]:
    """Machine -> the archives that it is to read, with their members: each one that is not known, on one machine."""
    reading: dict[str, dict[str, set[str]]] = {}
    taken: set[str] = set()
    for name in machines:
        for sha256, path in archives.paths_of(recorded[name]).items() if name in recorded else ():
            if members.lacks(sha256) and sha256 not in taken:
                taken.add(sha256)
                reading.setdefault(name, {})[path] = members.wanted[sha256]
    return reading


def _learn(members: Members, recorded: Mapping[str, Recorded], answers: Mapping[str, Found | str]) -> None:
    """Take what machines have read of archives that have the pinned checksum."""
    for name, found in answers.items():
        if isinstance(found, str):
            continue
        for sha256, path in archives.paths_of(recorded[name]).items():
            read = {each: known for each in members.wanted[sha256] if (known := found.packed.get((path, each)))}
            if read and path in found.files and found.files[path].sha256 == sha256:
                members.learn(sha256, read)


def _first_users(cluster: Cluster, recorded: Mapping[str, Recorded]) -> dict[str, str]:
    """Artifact in the mirror -> the first machine that uses it."""
    first: dict[str, str] = {}
    for machine in cluster.machines:
        programs = recorded[machine.name].programs if machine.name in recorded else {}
        for path, program in programs.items():
            if program.mirrored:
                first.setdefault(program.source(path), machine.name)
    return first


def _share_checksum(path: str, first: Found | str, others: Sequence[Found | str]) -> None:
    """Give other machines the checksum of a file that the first one has computed; it must be the same file."""
    known = None if isinstance(first, str) else first.files.get(path)
    for found in others:
        entry = None if isinstance(found, str) else found.files.get(path)
        if entry and isinstance(found, Found):
            # Without an answer of the first one it is not known, and the machine is in the report.
            sha256 = None if isinstance(first, str) else known.sha256 if known and known.same == entry.same else ""
            found.files[path] = replace(entry, sha256=sha256)
