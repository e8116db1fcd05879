"""The machines of a lab compared with what a chapter would write there."""

import base64
import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from pathlib import Path

from config.chapters import Chapter
from live.by_hand import certificates, kubeconfigs
from live.cluster import Cluster, LiveMachine
from live.drift import compare as drifts
from live.drift import look
from live.drift.recorded import LIBRARY, File, Program, Recorded

SAME, MISSING, DIFFERENT = "same", "missing", "different"
_OWN = f"{Path(LIBRARY).parent}/"
"""The functions of the program's steps."""
NONE, FOUND, NOT_ASKED = 0, 1, 2
"""The exit codes of `diff`."""
_SECRET = re.compile(rb"PRIVATE KEY|(client-key-data|token|secret|password)[\"']?\s*[:=]", re.I)
"""What a file of a person's own may have that is not to be printed."""
_READ = """\
while read -r path; do printf '%s\\t%s\\n' "$path" "$(base64 -w 0 -- "$path")"; done
echo end"""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One thing that the program would write on a machine.

    Args:
        machine: where.
        kind, name: as `drift` has them.
        state: same, missing or different.
        remarks: what differs, or what else is to be said.
        lines: the differences of a text, in the unified form.
    """

    machine: str
    kind: str
    name: str
    state: str
    remarks: tuple[str, ...] = ()
    lines: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """A chapter, compared.

    Args:
        rows: by machines in the order of the lab.
        not_asked: machine -> why it could not be asked.
    """

    rows: Sequence[Row]
    not_asked: Mapping[str, str]

    @property
    def exit_code(self) -> int:
        """What is not known counts more than what differs."""
        if self.not_asked:
            return NOT_ASKED
        return FOUND if any(row.state != SAME for row in self.rows) else NONE


def of_chapter(chapter: Chapter, machine: Recorded) -> Recorded:
    """What a chapter is about, of all that the program would write on a machine."""
    if not chapter.files:
        files = {path: file for path, file in machine.files.items() if not path.startswith(_OWN)}
        return replace(machine, files=files)
    files = {path: file for path, file in machine.files.items() if is_about(chapter, path)}
    return Recorded(name=machine.name, files=files)


def is_about(chapter: Chapter, path: str) -> bool:
    """Whether a file is one of those of a chapter."""
    return any(fnmatch(path, each) for each in chapter.files)


def has_any(machine: Recorded) -> bool:
    """Whether there is anything to be compared."""
    return any(value for name, value in vars(machine).items() if name not in ("name", "library", "objects", "nodes"))


def compare(cluster: Cluster, planned: Mapping[str, Recorded]) -> Comparison:
    """Ask all machines of a plan at the same time; nothing is changed.

    Args:
        cluster: the lab.
        planned: machine -> what the program would write there.
    """
    machines = [each for each in cluster.machines if each.name in planned]
    if not machines:
        return Comparison(rows=[], not_asked={})
    with ThreadPoolExecutor(max_workers=len(machines)) as threads:
        answers = list(threads.map(lambda each: _machine(cluster, each, planned[each.name]), machines))
    named = list(zip((each.name for each in machines), answers, strict=True))
    return Comparison(
        rows=[row for _, rows in named if not isinstance(rows, str) for row in rows],
        not_asked={name: why for name, why in named if isinstance(why, str)},
    )


def _machine(cluster: Cluster, machine: LiveMachine, planned: Recorded) -> list[Row] | str:
    # Whether a step has started a unit says nothing of one that was started by hand.
    units = {name: replace(unit, by_step=False) for name, unit in planned.units.items()}
    planned = replace(planned, units=units)
    archives: dict[str, set[str]] = {}
    for each in planned.programs.values():
        if each.archive and each.member:
            archives.setdefault(each.archive, set()).add(each.member)
    asked = [*(f"hash {path}" for path in planned.programs), *look.members_questions(archives)]
    stdin = look.questions(planned) + "".join(f"{line}\n" for line in asked)
    lines = look.answer(cluster, machine, look.LOOK.read_text(), stdin)
    if isinstance(lines, str):
        return lines
    found = look.parse(lines)
    rows = list(_rows(planned, found))
    contents = _contents(cluster, machine, [row.name for row in rows if _is_text(row, planned)])
    return contents if isinstance(contents, str) else [_with_content(row, planned, contents) for row in rows]


def _rows(planned: Recorded, found: look.Found) -> Iterator[Row]:
    for kind, name, problems, _ in drifts.rows(planned, found):
        if kind == "program":
            problems = _program_problems(name, planned.programs[name], found)
        state = SAME if not problems else MISSING if problems.keys() & {"missing", "not-found"} else DIFFERENT
        remarks = tuple(problems.values()) if state == DIFFERENT else ()
        if kind == "file" and state != DIFFERENT:
            file = planned.files[name]
            remarks = (f"{file.mode} {file.owner}",)
            kind = "directory" if file.content is None else kind
        yield Row(machine=planned.name, kind=kind, name=name, state=state, remarks=remarks)


def _program_problems(path: str, program: Program, found: look.Found) -> dict[str, str]:
    """What is wrong with a program: it may be a link, as the program's steps make it, or a copy."""
    entry = found.files.get(path)
    if path not in found.links and entry is None:
        return {"missing": "missing"}
    if found.links.get(path) == program.target:
        return {}
    wanted = (
        found.packed.get((program.archive, program.member)) if program.archive and program.member else program.sha256
    )
    if entry is None or not entry.sha256:
        return {"content": f"leads to {found.links.get(path)}, which is no file"}
    if wanted is None:
        return {"content": "cannot be compared: the release is not on this machine"}
    if entry.sha256 != wanted:
        return {"content": "is not the program of the release"}
    # As the program's own.
    executable = bool(int(entry.mode, 8) & 0o111)
    return {} if executable else {"mode": f"mode {entry.mode}: it cannot be executed"}


def _is_text(row: Row, planned: Recorded) -> bool:
    """Whether the content of a file is wanted: it differs, and it is no key."""
    return (
        row.kind == "file"
        and row.state == DIFFERENT
        and "content differs" in row.remarks
        and _may_show(planned, row.name)
    )


def _may_show(planned: Recorded, path: str) -> bool:
    file = planned.files[path]
    return file.content is not None and (not file.secret or kubeconfigs.is_kubeconfig(path))


def _contents(cluster: Cluster, machine: LiveMachine, paths: Sequence[str]) -> dict[str, bytes] | str:
    if not paths:
        return {}
    lines = look.answer(cluster, machine, _READ, "".join(f"{path}\n" for path in paths))
    if isinstance(lines, str):
        return lines
    return {path: base64.b64decode(text) for path, _, text in (line.partition("\t") for line in lines)}


def _with_content(row: Row, planned: Recorded, contents: Mapping[str, bytes]) -> Row:
    if row.name not in contents or row.kind != "file":
        return row
    return compare_content(row, planned.files[row.name], contents[row.name])


def compare_content(row: Row, file: File, found: bytes) -> Row:
    """A row of a file whose content differs, with how it differs.

    Args:
        row: what is known without the content.
        file: as the program would write it.
        found: what is on the machine.
    """
    expected = file.content or b""
    others = tuple(each for each in row.remarks if each != "content differs")
    if certificates.is_certificate(expected):
        said = certificates.differences(expected, found)
        if said:
            return replace(row, remarks=(*said, *others))
        note = "another certificate that says the same"
        return replace(row, state=DIFFERENT if others else SAME, remarks=(note, *others))
    if kubeconfigs.is_kubeconfig(row.name):
        said = kubeconfigs.differences(expected, found)
        if said:
            return replace(row, remarks=(*said, *others))
        note = "in another order, with the same content"
        return replace(row, state=DIFFERENT if others else SAME, remarks=(note, *others))
    known = set(expected.splitlines())
    if file.secret or any(_SECRET.search(line) for line in found.splitlines() if line not in known):
        return replace(row, remarks=("content differs, and is not shown: it may have secrets", *others))
    lines = difflib.unified_diff(
        expected.decode(errors="replace").splitlines(),
        found.decode(errors="replace").splitlines(),
        "the program's",
        f"on {row.machine}",
        lineterm="",
    )
    return replace(row, lines=tuple(lines))


def text(comparison: Comparison, chapter: Chapter, stack: str) -> list[str]:
    """The report for a person."""
    said = []
    rows = comparison.rows
    width = max((len(row.kind) for row in rows), default=0)
    for machine in dict.fromkeys(row.machine for row in rows):
        said.append(machine)
        for row in (each for each in rows if each.machine == machine):
            remarks = f"  ({'; '.join(row.remarks)})" if row.remarks else ""
            said.append(f"  {row.state:{len(DIFFERENT)}}  {row.kind:{width}}  {row.name}{remarks}")
            said += [f"    {line}" for line in row.lines]
    said += [f"{name} could not be asked: {why}" for name, why in comparison.not_asked.items()]
    counts = {state: sum(row.state == state for row in rows) for state in (SAME, MISSING, DIFFERENT)}
    total = ", ".join(f"{count} {state}" for state, count in counts.items() if count)
    said.append(f"The chapter {chapter.name}: {total or 'it writes nothing on machines'}.")
    if counts[MISSING] or counts[DIFFERENT]:
        said.append(f"`./hardway up -s {stack}` replaces what differs with the program's own.")
    return said
