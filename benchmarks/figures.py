"""The figures of a run, and what becomes of several rounds: medians, ratios, and the bars beside them."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from statistics import median
from typing import Any


@dataclass(frozen=True, kw_only=True)
class ShellRound:
    """The lab by plain shell, once.

    Args:
        phases: phase -> seconds, in their order.
        memory: MiB of all its containers together.
    """

    phases: Mapping[str, float]
    memory: float

    @property
    def total(self) -> float:
        """Seconds, from nothing to an answer of the DNS."""
        return sum(self.phases.values())


@dataclass(frozen=True, kw_only=True)
class ProgramRound:
    """The lab by the program, once; each time is that of a whole command of the tool chain, in seconds.

    Args:
        up: the first `up`.
        second_up: the second, with nothing to change.
        changes: resources that the second one did not leave as they were.
        preview: of the standing lab.
        destroy: of all that stands in the end.
        memory: MiB of all its containers together.
        resources: as `pulumi up` counts them.
        remote_commands: those of them that are commands on a machine.
        one_more_worker: the `up` that adds a worker to the standing lab, where that is measured.
    """

    up: float
    second_up: float
    changes: int
    preview: float
    destroy: float
    memory: float
    resources: int
    remote_commands: int
    one_more_worker: float | None = None


@dataclass(frozen=True, kw_only=True)
class Round:
    """Both, one right after the other."""

    shell: ShellRound
    program: ProgramRound

    @property
    def ratio(self) -> float:
        """The program's `up` to plain shell doing the same work in the same round."""
        return self.program.up / self.shell.total


@dataclass(frozen=True, kw_only=True)
class Spread:
    """One figure over all rounds."""

    median: float
    least: float
    most: float


@dataclass(frozen=True, kw_only=True)
class Bar:
    """What a figure has to reach: at most this, or less than this."""

    limit: float
    inclusive: bool

    def met_by(self, value: float) -> bool:
        """Whether a value reaches it."""
        return value < self.limit or (self.inclusive and value == self.limit)


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of the result.

    Args:
        what: the figure.
        unit: s, MiB, or nothing for a bare number.
        shell: of plain shell, where it has such a figure.
        program: of the program, likewise.
        bar: for the program's median.
    """

    what: str
    unit: str = ""
    shell: Spread | None = None
    program: Spread | None = None
    bar: Bar | None = None

    @property
    def met(self) -> bool | None:
        """Whether the bar is reached; None where there is none."""
        return self.bar.met_by(self.program.median) if self.bar and self.program else None


def spread(values: Sequence[float]) -> Spread:
    """The median of at least one value, and how far the others are from it."""
    return Spread(median=median(values), least=min(values), most=max(values))


def rows(rounds: Sequence[Round], bars: Mapping[str, Bar]) -> Iterator[Row]:
    """The result of at least one round.

    Args:
        rounds: all of one lab.
        bars: figure -> what its median has to reach.
    """
    return (replace(row, bar=bars.get(row.what)) for row in _figures(rounds))


def _figures(rounds: Sequence[Round]) -> Iterator[Row]:
    shells, programs = [each.shell for each in rounds], [each.program for each in rounds]
    for phase in shells[0].phases:
        yield Row(what=f"  {phase}", unit="s", shell=spread([each.phases[phase] for each in shells]))
    yield Row(
        what="up",
        unit="s",
        shell=spread([each.total for each in shells]),
        program=spread([each.up for each in programs]),
    )
    yield Row(what="ratio to plain shell", program=spread([each.ratio for each in rounds]))
    yield Row(what="second up", unit="s", program=spread([each.second_up for each in programs]))
    yield Row(
        what="second up, changes",
        # One round with a change is one too many: no median hides it.
        program=spread([max(each.changes for each in programs)]),
    )
    yield Row(what="preview", unit="s", program=spread([each.preview for each in programs]))
    grown = [(each.one_more_worker, each.up) for each in programs if each.one_more_worker is not None]
    if grown:
        yield Row(what="one more worker", unit="s", program=spread([seconds for seconds, _ in grown]))
        yield Row(what="one more worker, of the first up", program=spread([seconds / up for seconds, up in grown]))
    yield Row(what="destroy", unit="s", program=spread([each.destroy for each in programs]))
    yield Row(
        what="memory",
        unit="MiB",
        shell=spread([each.memory for each in shells]),
        program=spread([each.memory for each in programs]),
    )
    yield Row(
        what="memory, of plain shell",
        program=spread([each.program.memory / each.shell.memory for each in rounds]),
    )
    yield Row(what="resources", program=spread([each.resources for each in programs]))
    yield Row(what="remote commands", program=spread([each.remote_commands for each in programs]))


def document(rounds: Sequence[Round], bars: Mapping[str, Bar]) -> dict[str, Any]:
    """All figures of all rounds, and the result, as JSON can hold them."""
    return {
        "rounds": [{**asdict(each), "ratio": each.ratio} for each in rounds],
        "rows": [{**asdict(row), "what": row.what.strip(), "met": row.met} for row in rows(rounds, bars)],
    }
