"""The command blocks of README.md and docs/: what they are, how they run, and whether their output is still true.

docs/testing.md describes the syntax. `make docs` (lab.record_documents) records the outputs again.
"""

import os
import re
import select
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from config import lab as config
from config import paths
from lab.commands import CHECKOUT
from lab.documents_server import CLIENT

DEFAULT_LAB, NO_LAB = "dev", "none"
NOT_COMMANDS = ("diff", "json", "mermaid", "python", "text", "yaml")
"""Languages of blocks without commands."""
_REPEATED_SECONDS = 30
_MARK = "end-of-a-command-of-a-page"

_FENCE = re.compile(r"^( *)(`{3,})(\S*)$")
_COMMENT = re.compile(r"^ *<!-- (not run|run by|lab|eventually|long|exercise)(?:: (.*?))? *-->$")

_PLACEHOLDERS: Mapping[str, str] = {
    "address": r"\d+\.\d+\.\d+\.\d+",
    "age": r"(?:\d+[smhdy])+",
    "boolean": r"(?:true|false)",
    "date": r"\d{4}-\d\d-\d\d(?:[T ]\d\d:\d\d(?::\d\d(?:\.\d+)?)?Z?)?",
    "duration": r"[\d.]+ ?(?:µs|ms|s|m)",
    "hash": r"[0-9a-f]{6,64}",
    "line": r"\d+",
    "number": r"\d+(?:\.\d+)?",
    "port": r"\d{2,5}",
    "random": r"[0-9A-Za-z]+",
    "size": r"[\d.]+ ?[KkMG]i?B",
    "uuid": r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}",
}
"""<age> in a recorded output -> what it stands for."""
# What set-up says on standard error: it depends on when it ran last.
_SET_UP = re.compile(r"\[ *\d+:\d\d\] .*: already there")
_VARIABLE = re.compile(rf"<({'|'.join(_PLACEHOLDERS)})>|\.\.\.")
# What is put in the place of new output: dates, names of pods of a Deployment, and ages.
_GENERAL = (
    (re.compile(r"\b\d{4}-\d\d-\d\d[T ]\d\d:\d\d(?::\d\d(?:\.\d+)?)?Z?"), "<date>"),
    (re.compile(r"\b[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\b"), "<uuid>"),
    (re.compile(r"(?<=[a-z]-)[0-9a-f]{8,10}-[a-z0-9]{5}\b"), "<hash>-<random>"),
    (re.compile(r"(?<=\s)(?:\d+[mhd])?\d+[smhd](?=\s|$)"), "<age>"),
    (re.compile(r"(?<=node:)[0-9a-f]{12}\b"), "<hash>"),
)

CHANGING = (
    "bench", "compare", "destroy", "drill", "free", "pins", "repair", "replace", "restore", "rewind", "rotate",
    "save", "search", "setup", "snapshot", "start", "stop", "trust", "up", "upgrade",
)  # fmt: skip
"""Commands of `hardway` that change a lab or the host: a page's block with one of them does not run by itself."""
_SUBCOMMAND = re.compile(r"(?:^|[\s;&(])(?:\./)?hardway((?: -s \S+)?) ([a-z]+)\b(?! --preview)", re.M)


@dataclass(frozen=True, kw_only=True)
class Recorded:
    """A command of a console block, and the lines that it printed when the page was recorded."""

    command: str
    output: Sequence[str]
    gap: int = 0
    """Empty lines behind the output, before the next command."""


@dataclass(frozen=True, kw_only=True)
class Block:
    """A fenced block of a page.

    Args:
        page: where.
        first: number of the fence's line, from 1.
        language: after the fence.
        lines: between the fences.
        lab: that its commands are for.
        marks: the comments directly before it: "not run", "run by", "eventually", "long", "exercise".
    """

    page: Path
    first: int
    language: str
    lines: Sequence[str]
    lab: str
    marks: Mapping[str, str] = field(default_factory=dict)

    @property
    def place(self) -> str:
        """For a report."""
        return f"{self.page.relative_to(CHECKOUT)}:{self.first}"

    @property
    def runs(self) -> bool:
        """Whether its commands run in a test of this machinery."""
        return self.language == "console" and not {"not run", "run by", "exercise"} & set(self.marks)

    @property
    def recorded(self) -> list[Recorded]:
        """Its commands: `$ command`, its further lines behind `> `, and their output."""
        found: list[Recorded] = []
        command: list[str] = []
        output: list[str] = []

        def close() -> None:
            if command:
                full = list(output)
                while full and not full[-1]:
                    full.pop()
                found.append(Recorded(command="\n".join(command), output=full, gap=len(output) - len(full)))

        for line in self.lines:
            if line.startswith("$ "):
                close()
                command, output = [line[2:]], []
            elif line.startswith("> ") and command and not output:
                command.append(line[2:])
            else:
                output.append(line)
        close()
        return found

    @property
    def subcommands(self) -> list[tuple[str, str]]:
        """(" -s NAME" or nothing, subcommand) of each `hardway` in it."""
        return _SUBCOMMAND.findall("\n".join(self.lines))


def pages() -> list[Path]:
    """README.md, CONTRIBUTING.md, CHANGELOG.md, and all of docs/."""
    return sorted([*CHECKOUT.glob("*.md"), *(CHECKOUT / "docs").rglob("*.md")])


def blocks(page: Path) -> list[Block]:
    """The fenced blocks of a page, in order."""
    found: list[Block] = []
    lab, marks = DEFAULT_LAB, dict[str, str]()
    opened: tuple[int, str, str, str] | None = None
    inside: list[str] = []
    for number, line in enumerate(page.read_text().splitlines(), 1):
        fence = _FENCE.match(line)
        if opened is not None:
            first, indent, marker, language = opened
            if fence and fence[2] == marker and not fence[3]:
                own = marks.pop("lab", lab)
                found.append(
                    Block(page=page, first=first, language=language, lines=tuple(inside), lab=own, marks=marks)
                )
                opened, marks, inside = None, {}, []
            else:
                inside.append(line.removeprefix(indent))
        elif fence:
            opened = number, fence[1], fence[2], fence[3]
        elif comment := _COMMENT.match(line):
            marks[comment[1]] = comment[2] or ""
        elif line.strip():
            marks = {}
        elif "lab" in marks:
            # Followed by an empty line: for the page from here on, not for one block.
            lab = marks.pop("lab")
    return found


def pages_of(lab: str) -> list[Path]:
    """The pages that have commands for a lab which run."""
    return [page for page in pages() if any(block.runs and block.lab == lab for block in blocks(page))]


# --- comparison ---


def _pattern(line: str) -> re.Pattern[str]:
    line = _squeezed(line)
    at, parts = 0, []
    for variable in _VARIABLE.finditer(line):
        parts += [re.escape(line[at : variable.start()]), _PLACEHOLDERS[variable[1]] if variable[1] else ".*"]
        at = variable.end()
    return re.compile("".join([*parts, re.escape(line[at:])]))


def _squeezed(line: str) -> str:
    """Widths of columns depend on what stands in them: each run of blanks is one."""
    return re.sub(r"\s+", " ", line).strip()


def is_as_recorded(recorded: Sequence[str], printed: Sequence[str]) -> bool:
    """Whether an output is what a page shows; a line `...` stands for any lines, also none."""
    return _aligned([line for line in recorded if line.strip()], [line for line in printed if line.strip()])[0] == 0


def merged(recorded: Sequence[str], printed: Sequence[str]) -> list[str]:
    """The recorded lines with what is different now in its place: placeholders stay where they still match."""
    return _aligned(recorded, printed)[1]


def _aligned(recorded: Sequence[str], printed: Sequence[str]) -> tuple[int, list[str]]:
    """The cheapest alignment: how many lines are on one side only, and the lines of a new record."""
    patterns = [None if line.strip() == "..." else _pattern(line) for line in recorded]
    squeezed = [_squeezed(line) for line in printed]
    rows, columns = len(recorded), len(printed)
    cost = [[0] * (columns + 1) for _ in range(rows + 1)]
    # Each step: how many lines of either side it takes.
    step = [[(0, 0)] * (columns + 1) for _ in range(rows + 1)]
    for row in range(rows, -1, -1):
        for column in range(columns, -1, -1):
            choices: list[tuple[int, int, int]] = []
            pattern = patterns[row] if row < rows else None
            is_gap = row < rows and pattern is None
            if is_gap:
                choices.append((cost[row + 1][column], 1, 0))
                if column < columns:
                    choices.append((cost[row][column + 1], 0, 1))
            elif pattern is not None:
                if column < columns and pattern.fullmatch(squeezed[column]):
                    choices.append((cost[row + 1][column + 1], 1, 1))
                if column < columns:
                    choices.append((cost[row + 1][column + 1] + 1, 1, 1))
                choices.append((cost[row + 1][column] + 1, 1, 0))
            if column < columns and not is_gap:
                choices.append((cost[row][column + 1] + 1, 0, 1))
            if choices:
                best = min(choices, key=lambda choice: choice[0])
                cost[row][column], step[row][column] = best[0], best[1:]
    row = column = 0
    lines: list[str] = []
    while (row, column) != (rows, columns):
        down, right = step[row][column]
        pattern = patterns[row] if row < rows else None
        if down and (pattern is None or (right and pattern.fullmatch(squeezed[column]))):
            lines.append(recorded[row])
        elif right and (row == rows or pattern is not None):
            lines.append(_general(printed[column]))
        row, column = row + down, column + right
    return cost[0][0], lines


def _general(line: str) -> str:
    for what, placeholder in _GENERAL:
        line = what.sub(placeholder, line)
    return line.rstrip()


# --- running ---


class Translation:
    """A page's commands on another lab of the same shape: its name and its ranges instead of the page's, and back.

    The tests of `dev` have a lab of their own, so that a user's `dev` can run on the same host meanwhile.
    """

    def __init__(self, of_page: config.Lab, running: config.Lab, *, home: Path) -> None:
        """Make one.

        Args:
            of_page: the lab that the page names.
            running: the lab on which the commands run.
            home: that the commands have as HOME; the page has /root.
        """
        self._there = _replacer(of_page, running)
        self._back = _replacer(running, of_page)
        self._home = str(home)

    def command(self, text: str) -> str:
        """The page's command, for the running lab."""
        return self._there(text)

    def output(self, text: str) -> str:
        """What it printed there, for the page."""
        return self._back(text).replace(self._home, "/root").replace(str(CHECKOUT), "/root/hardway")


# Where a lab's name stands, so that `dev eth0` and /dev stay what they are.
_NAMES = (
    r"(?<=hardway-)NAME\b",
    r"\bNAME(?=\.hardway\.internal)",
    r"(?<=\.state/)NAME\b",
    r"(?<=stacks/hardway/)NAME(?=\.json)",
    r"(?<=Pulumi\.)NAME(?=\.yaml)",
    r"(?<=urn:pulumi:)NAME(?=::)",
    r"(?<=[ .=]lab[ =])NAME\b",
    r"(?<=stack )NAME\b",
    r"(?<= -s )NAME\b",
)


def _replacer(one: config.Lab, other: config.Lab) -> Callable[[str], str]:
    if one.name == other.name:
        return lambda text: text
    ranges = dict(zip(_prefixes(one), _prefixes(other), strict=True))
    address = re.compile(rf"(?<![\d.])(?:{'|'.join(map(re.escape, ranges))})(?=[\d$])")
    names = re.compile("|".join(each.replace("NAME", re.escape(one.name)) for each in _NAMES))
    file, other_file = (str(paths.settings_file(lab.name).relative_to(CHECKOUT)) for lab in (one, other))

    def replaced(text: str) -> str:
        text = address.sub(lambda found: ranges[found[0]], text)
        return names.sub(other.name, text.replace(file, other_file))

    return replaced


def _prefixes(lab: config.Lab) -> list[str]:
    """The part of the addresses of each range that is the same in all of them: `10.240.0.`."""
    networks = (lab.network.nodes, lab.network.pods, lab.network.services)
    return [".".join(str(each.network_address).split(".")[: each.prefixlen // 8]) + "." for each in networks]


class Session:
    """A bash with the commands of one page: its variables and directory stay from one block to the next."""

    def __init__(self, stack: str, home: Path, server: Path) -> None:
        """Start it.

        Args:
            stack: what `./hardway` is for.
            home: HOME, so that nothing of the user's is changed.
            server: the socket of `documents_server`.
        """
        environment = os.environ | {"HOME": str(home), "STACK": stack, "LC_ALL": "C.UTF-8", "COLUMNS": "120"}
        # By default it is below HOME.
        environment["HARDWAY_CACHE"] = str(paths.cache())
        for unwanted in ("KUBECONFIG", "INSIST"):
            environment.pop(unwanted, None)
        self._bash = subprocess.Popen(
            ["bash", "--norc", "-s"],
            cwd=CHECKOUT,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        client = " ".join([*CLIENT, str(server)])
        for name in ("./hardway", "hardway"):
            self.run(f'{name}() {{ {client} "$@"; }}')

    def __enter__(self) -> "Session":
        return self

    def __exit__(self, *_: object) -> None:
        assert self._bash.stdin is not None
        self._bash.stdin.close()
        try:
            self._bash.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self._bash.kill()
            self._bash.wait()

    def run(self, command: str, *, seconds: float = 120) -> tuple[int, str]:
        """The exit code and the output, standard error included.

        Raises:
            AssertionError: it has not ended in time, or has ended the shell.
        """
        assert self._bash.stdin is not None and self._bash.stdout is not None
        self._bash.stdin.write(f"{{ {command}\n}} </dev/null\nprintf '\\n{_MARK} %s\\n' $?\n".encode())
        self._bash.stdin.flush()
        said = b""
        deadline = time.monotonic() + seconds
        while (end := re.search(rf"\n{_MARK} (\d+)\n".encode(), said)) is None:
            left = deadline - time.monotonic()
            ready = left > 0 and select.select([self._bash.stdout], [], [], left)[0]
            more = os.read(self._bash.stdout.fileno(), 65536) if ready else b""
            if not more:
                self._bash.kill()
                raise AssertionError(f"no end of {command!r} within {seconds} s:\n{said.decode(errors='replace')}")
            said += more
        return int(end[1]), said[: end.start()].decode(errors="replace")


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a command of a page went."""

    block: Block
    number: int
    recorded: Recorded
    code: int
    printed: Sequence[str]

    @property
    def problem(self) -> str | None:
        """What is different from the page, or None."""
        shown = "\n".join([f"{self.block.place}: $ {self.recorded.command}", *(f"  + {line}" for line in self.printed)])
        if not is_as_recorded(self.recorded.output, self.printed):
            return "\n".join([shown, "recorded:", *(f"  - {line}" for line in self.recorded.output)])
        if self.code and not _says_failure(self.printed):
            return f"{shown}\nends with {self.code} and says nothing of a failure"
        return None


def _says_failure(lines: Sequence[str]) -> bool:
    return re.search(r"error|fail|refused|denied|forbidden|unable|no such|not ", "\n".join(lines), re.I) is not None


def run_page(
    page: Path, lab: str, session: Session, translation: Translation | None, *, long: bool
) -> Iterator[Outcome]:
    """Run the page's commands for a lab, in order.

    Args:
        page: which.
        lab: that the blocks name.
        session: where.
        translation: to the lab that is running; None where none is needed.
        long: whether the blocks with `long` run, too.
    """
    for block in blocks(page):
        if not block.runs or block.lab != lab or ("long" in block.marks and not long):
            continue
        for number, recorded in enumerate(block.recorded):
            # What is not recorded yet is not waited for.
            repeats = "eventually" in block.marks and recorded.output
            deadline = time.monotonic() + (_REPEATED_SECONDS if repeats else 0)
            while True:
                outcome = run_command(block, number, session, translation)
                if outcome.problem is None or time.monotonic() > deadline:
                    break
                time.sleep(0.2)
            yield outcome


def run_command(block: Block, number: int, session: Session, translation: Translation | None) -> Outcome:
    """Run one command of a block, once."""
    recorded = block.recorded[number]
    code, said = session.run(translation.command(recorded.command) if translation else recorded.command)
    lines = (translation.output(said) if translation else said).splitlines()
    printed = [line for line in lines if not _SET_UP.fullmatch(line)]
    return Outcome(block=block, number=number, recorded=recorded, code=code, printed=printed)


def record(page: Path, outcomes: Sequence[Outcome]) -> int:
    """Write what is different now into the page; returns how many commands these are."""
    lines = page.read_text().splitlines()
    changed = [outcome for outcome in outcomes if outcome.problem is not None]
    for block in reversed(blocks(page)):
        of_block = {each.number: each for each in changed if each.block.first == block.first}
        if not of_block:
            continue
        indent = lines[block.first - 1].partition("`")[0]
        new: list[str] = []
        for number, recorded in enumerate(block.recorded):
            first, *more = recorded.command.splitlines()
            output = merged(recorded.output, of_block[number].printed) if number in of_block else recorded.output
            while output and not output[-1].strip():
                output = output[:-1]
            new += [f"$ {first}", *(f"> {line}" for line in more), *output, *[""] * recorded.gap]
        while new and not new[-1]:
            new.pop()
        lines[block.first : block.first + len(block.lines)] = [(indent + line).rstrip() for line in new]
    page.write_text("\n".join(lines) + "\n")
    return len(changed)
