"""Seeded drills: faults that are chosen by chance, against clients whose history must be linearizable.

See docs/drills.md; plan.py says what a seed stands for.
"""

import json
import os
import shutil
import signal
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from itertools import groupby
from pathlib import Path

from config.machines import Role
from live import cluster as live_cluster
from live.cluster import Cluster
from live.drills.faults import check_packet_filter
from live.drills.run import undisturbed
from live.https_api import Api, ApiError
from live.lessons import record as lesson
from live.search import clients, plan
from live.search.checks import Checker
from live.search.plan import Planned
from live.search.run import Place, Verdict, await_healthy, inject, repair_what_is_left
from toolchain import operations
from toolchain.errors import ToolchainError
from toolchain.from_source import linearizability
from toolchain.progress import Report
from toolchain.stack import Stack

FAULTS = 20
_NAMESPACE_SECONDS = 90
_SHOWN = 10


def main(
    stack: Stack,
    seed: int,
    *,
    count: int | None = None,
    only: int | None = None,
    json_file: Path | None = None,
) -> int:
    """Inject the faults of a seed one after the other, judge each, and print a line for each.

    Args:
        stack: the lab's.
        seed: which faults.
        count: how many; FAULTS if not given.
        only: the number of the only one to be injected: it is the same as in a run of all.
        json_file: takes all verdicts, too.

    Returns:
        0; 1 where there was a violation, or a fault could not be done to its end.

    Raises:
        ToolchainError: a lab that is not up or has no high availability; nothing was changed then.
    """
    lesson.refuse(stack, "A search")
    cluster = live_cluster.find(stack)
    planned = choose(cluster, seed, count=count, only=only)
    filtered = {each.machine for each in planned if each.kind in ("loss", "one-way")}
    check_packet_filter(cluster, [machine for machine in cluster.machines if machine.name in filtered])
    # A signal ends this only after everything is repaired, as after Ctrl-C.
    for ending in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(ending, signal.default_int_handler)
    with Report() as report:
        checker = Checker(program=linearizability.ensure(report))
    for kind, lack in plan.lacking(cluster).items():
        print(f"{kind}: not applicable, and not done: it needs {lack}.")
    verdicts, trouble = _do(planned, cluster, checker)
    failed = [each for each in verdicts if not each.passed]
    print(f"\n{table(verdicts)}\n{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}.")
    for each in failed:
        number = each.planned.number
        print(f"Repeat fault {number}: hardway search -s {stack.name} --seed {seed} --only {number}")
    if trouble:
        print(f"\nerror: {trouble}", file=sys.stderr)
    passed = bool(verdicts) and not failed and not trouble
    if json_file is not None:
        json_file.write_text(
            json.dumps(document(stack, seed, verdicts, passed=passed, trouble=trouble), indent=2) + "\n"
        )
    return 0 if passed else 1


def choose(cluster: Cluster, seed: int, *, count: int | None, only: int | None) -> list[Planned]:
    """The faults to be injected.

    Raises:
        ToolchainError: with what the lab lacks, or what is wrong with the numbers.
    """
    problems = []
    if count is not None and only is not None:
        problems.append("--faults and --only: give one of them")
    problems += [
        f"{name} {number}: must be 1 or more"
        for name, number in (("--faults", count), ("--only", only))
        if number is not None and number < 1
    ]
    members, controllers = len(cluster.etcd_members), len(cluster.with_role(Role.CONTROLLER))
    if min(members, controllers) < 3:
        problems.append(
            "a seeded drill needs three controllers and three etcd members at least; "
            f"{cluster.stack.name} has {controllers} and {members}"
        )
    if problems:
        raise ToolchainError("Nothing was changed:\n" + "\n".join(f"  - {problem}" for problem in problems))
    if only is not None:
        return plan.plan(cluster, seed, only)[-1:]
    return plan.plan(cluster, seed, count or FAULTS)


def document(stack: Stack, seed: int, verdicts: Sequence[Verdict], *, passed: bool, trouble: str) -> dict[str, object]:
    """All of it, for JSON."""
    return {
        "stack": stack.name,
        "seed": seed,
        "passed": passed,
        "trouble": trouble,
        "kinds": plan.kinds_of([each.planned for each in verdicts]),
        "faults": [{**asdict(each), "does": str(each.planned), "passed": each.passed} for each in verdicts],
    }


def _do(planned: Sequence[Planned], cluster: Cluster, checker: Checker) -> tuple[list[Verdict], str]:
    """Inject faults in their order, and remove all that was made for them.

    Returns:
        The verdicts on the faults that were injected, and why the others were not.
    """
    api, verdicts = Api(cluster), list[Verdict]()
    place = Place(cluster=cluster, api=api, checker=checker, directory=_empty(cluster.stack.directory / "search"))
    try:
        repair_what_is_left(cluster, print)
        with _kept_out(cluster.stack):
            await_healthy(place)
            clients.make_namespace(api, seconds=cluster.allowed(_NAMESPACE_SECONDS))
        for runs_pulumi, group in groupby(planned, key=lambda each: each.runs_pulumi):
            with nullcontext() if runs_pulumi else _kept_out(cluster.stack):
                for each in group:
                    verdicts.append(inject(each, place))
                    print(line_of(verdicts[-1], len(planned)), flush=True)
                    if verdicts[-1].failure:
                        return verdicts, f"Fault {each.number} could not be done to its end; the run ends here."
                    clients.remove_objects(api)
    except (ToolchainError, ApiError) as error:
        return verdicts, str(error)
    except KeyboardInterrupt:
        return verdicts, "Interrupted; what was broken is repaired."
    finally:
        with undisturbed():
            _remove_namespace(api)
            if all(verdict.passed for verdict in verdicts):
                # Of use only to a person who looks for the cause of a violation.
                shutil.rmtree(place.directory, ignore_errors=True)
    return verdicts, ""


def _kept_out(stack: Stack) -> AbstractContextManager[None]:
    return operations.without_pulumi(stack, "./hardway drill")


def line_of(verdict: Verdict, count: int) -> str:
    """A verdict for people."""
    seen, of = verdict.operations, "" if count == 1 else f" of {count}"
    said = (
        f"Fault {verdict.planned.number}{of}: {verdict.planned}; {verdict.seconds:.1f} s, "
        f"{sum(seen.values())} operations, {verdict.acknowledged} writes acknowledged, "
        f"{seen.get('unknown', 0)} with unknown outcome, {verdict.events} events"
    )
    problems = verdict.violations[:_SHOWN]
    if more := len(verdict.violations) - len(problems):
        problems.append(f"and {more} violations more; --json FILE has all of them")
    if verdict.failure:
        problems.append(verdict.failure)
    if not problems and not verdict.passed:
        problems = ["no write was acknowledged"]
    return "\n".join([f"{said}: {'ok' if verdict.passed else 'FAILED'}", *(f"  - {problem}" for problem in problems)])


def table(verdicts: Sequence[Verdict]) -> str:
    """What was done, by the kinds of the faults."""
    rows = [("kind", "faults", "seconds: mean", "longest", "writes acknowledged", "outcome unknown", "violations")]
    groups = {kind: [each for each in verdicts if each.planned.kind == kind] for kind in plan.KINDS}
    for name, group in {**groups, "all": list(verdicts)}.items():
        if group:
            seconds = [each.seconds for each in group]
            rows.append(
                (
                    name,
                    str(len(group)),
                    f"{sum(seconds) / len(seconds):.1f}",
                    f"{max(seconds):.1f}",
                    str(sum(each.acknowledged for each in group)),
                    str(sum(each.operations.get("unknown", 0) for each in group)),
                    str(sum(len(each.violations) for each in group)),
                )
            )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(
            [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        )
        for row in rows
    )


def _empty(directory: Path) -> Path:
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir()
    return directory


def _remove_namespace(api: Api) -> None:
    try:
        clients.remove_namespace(api)
    except ApiError as error:
        print(f"The drill's namespace stays for now, the next run removes it: {error}", file=sys.stderr)
