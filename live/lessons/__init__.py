"""Lessons: a fault in a running lab that a learner finds and repairs; docs/lessons.md.

Only one at a time. `start` breaks the lab, `check` says whether it is repaired, and `reset` makes it as it was: by the
machinery of `repair`, and by what the lesson itself undoes.
"""

import json
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime

from live import cluster as live_cluster
from live import status
from live.cluster import Cluster
from live.drift import run as drifts
from live.lessons import actions, record
from live.lessons.lesson import Action, Fix, Lesson, find, read_all
from live.lessons.record import Record
from live.waiting import still_missing
from toolchain import operations
from toolchain.errors import ToolchainError
from toolchain.stack import Stack

_HEALTHY_SECONDS = 60
_SYMPTOM_SECONDS = 120
_BACK_SECONDS = 120
_PASSED, _NOT_PASSED = 0, 1
_GONE = Action(where="controller", run="until_true 60 no_namespace")
"""Nothing of a lesson is left in the API: its objects are in one namespace."""
_START, _SOLVE, _RESET = "./hardway lesson start", "./hardway lesson solve", "./hardway lesson reset"


def list_all(stack: Stack, *, as_json: bool) -> None:
    """Print all lessons, and which one is started."""
    lessons, kept = read_all(), record.read(stack)
    state = {kept.lesson: kept.phase} if kept else {}
    rows = [
        {
            "name": each.name,
            "level": each.level,
            "chapter": each.chapter,
            "title": each.title,
            "needs": each.needs,
            "state": state.get(each.name, ""),
        }
        for each in lessons
    ]
    if as_json:
        print(json.dumps(rows, indent=2))
        return
    width = max(len(each.name) for each in lessons)
    for each in lessons:
        mark = f"  ({state[each.name]})" if each.name in state else ""
        print(f"{each.name:{width}}  {each.level:6}  chapter {each.chapter:2}  {each.title}{mark}")


def start(stack: Stack, name: str) -> None:
    """Break the lab, wait until that shows, and say what there is to see.

    Raises:
        ToolchainError: no such lesson, a lab that cannot have it or has one, or one that is not healthy: nothing was
            changed. Or a script failed: `reset` makes the lab as it was.
    """
    lesson = find(name, read_all())
    with operations.without_pulumi(stack, _START):
        kept = record.read(stack)
        cluster = live_cluster.find(stack)
        if kept and kept.phase == "resetting":
            print(f"Finishing the reset of {kept.lesson} first: it was interrupted.", flush=True)
            _reset(cluster, kept)
            kept = None
        _check_lab(cluster, lesson, kept)
        if kept is None:
            _check_healthy(cluster)
            kept = Record(lesson=name, phase="starting", since=f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}")
            record.write(stack, kept)
        print("Preparing the lesson ...", flush=True)
        try:
            actions.run(cluster, lesson.fault, command=_START)
            _wait_for_symptom(cluster, lesson)
        except ToolchainError as error:
            raise ToolchainError(f"{error}\nMake the lab as it was: {_RESET} -s {stack.name}") from error
        record.write(stack, replace(kept, phase="started"))
    print(f"\n{lesson.title} ({lesson.level}, chapter {lesson.chapter} of docs/chapters.md)\n")
    print(actions.shown(cluster, lesson.symptom))
    print("\nIt is solved when:")
    for condition in lesson.check.holds:
        print(f"  - {actions.shown(cluster, condition.says)}")
    print(f"\nThen: ./hardway lesson check -s {stack.name}. Other commands: hint, solve, reset.")


def hint(stack: Stack) -> None:
    """Show one more hint, and those before it."""
    with operations.alone(stack, "./hardway lesson hint"):
        kept, lesson = _started(stack)
        number = min(kept.hints + 1, len(lesson.hints))
        record.write(stack, replace(kept, hints=number))
    cluster = live_cluster.find(stack)
    for count, text in enumerate(lesson.hints[:number], 1):
        print(f"{count} of {len(lesson.hints)}: {actions.shown(cluster, text)}")
    if kept.hints == len(lesson.hints):
        print(f"There are no more hints. The solution: ./hardway lesson solve -s {stack.name}")


def check(stack: Stack, *, within: float | None = None) -> int:
    """Say whether the lesson is solved; changes nothing.

    Args:
        stack: whose lab.
        within: seconds to wait for what must hold; the lesson's own if not given.

    Returns:
        0 if all conditions hold at the same time within the deadline, else 1.
    """
    _, lesson = _started(stack)
    cluster = live_cluster.find(stack)
    seconds = lesson.check.within if within is None else within
    wrong = _still_wrong(cluster, lesson, seconds)
    for condition in lesson.check.holds:
        text = actions.shown(cluster, condition.says)
        print(f"{'no ' if text in wrong else 'yes'}  {text}")
    if wrong:
        print(f"Not solved, after {cluster.allowed(seconds):.0f} s.")
        return _NOT_PASSED
    print(f"Solved. Make the lab as it was: {_RESET} -s {stack.name}")
    return _PASSED


def solve(stack: Stack, *, apply: bool) -> int:
    """Show what is broken and the reference solution, and run that if asked.

    Returns:
        0; with `apply` as `check` afterwards.
    """
    with operations.without_pulumi(stack, _SOLVE):
        kept, lesson = _started(stack)
        cluster = live_cluster.find(stack)
        record.write(stack, replace(kept, solution_shown=True))
        print(f"What is broken: {actions.shown(cluster, lesson.broken)}")
        print(f"\nSolution: {actions.shown(cluster, lesson.solution.says)}")
        for action in lesson.solution.actions:
            names = ", ".join(machine.name for machine in actions.machines_of(cluster, action.where))
            print(f"\n# on {names}\n{actions.shown(cluster, action.run)}")
        if not apply:
            return _PASSED
        apply_fix(cluster, lesson.solution)
    print()
    return check(stack)


def apply_fix(cluster: Cluster, fix: Fix) -> None:
    """Run the scripts of a fix."""
    actions.run(cluster, fix.actions, command=_SOLVE)


def reset(stack: Stack) -> None:
    """Make the lab as it was before the lesson, whatever the learner has changed that `drift` sees.

    Raises:
        ToolchainError: no lesson is started, or the lab is not as before: the next `reset` tries again.
    """
    with operations.without_pulumi(stack, _RESET):
        kept = record.read(stack)
        if kept is None:
            raise ToolchainError(f"The lab {stack.name} has no lesson. `./hardway lesson list` has all of them.")
        _reset(live_cluster.find(stack), kept)


def _reset(cluster: Cluster, kept: Record) -> None:
    stack, began = cluster.stack, time.monotonic()
    record.write(stack, replace(kept, phase="resetting"))
    undo = next((each.undo for each in read_all() if each.name == kept.lesson), [])
    with ThreadPoolExecutor(max_workers=1) as threads:
        deployment = threads.submit(drifts.state_of, stack)
        try:
            actions.run(cluster, undo, command=_RESET)
            again = False
        except ToolchainError:
            # What is broken may be what this needs, such as the API server.
            again = True
        left = drifts.put_back(cluster, deployment.result(), seconds=_BACK_SECONDS)
    if left.exit_code != drifts.NONE:
        raise ToolchainError(
            "\n".join(drifts.lines(left)) + f"\nThe lesson is not reset. Run this again: {_RESET} -s {stack.name}"
        )
    actions.run(cluster, [*(undo if again else []), *([_GONE] if undo else [])], command=_RESET)
    if wrong := still_missing(lambda: status.not_working(cluster), cluster.allowed(_BACK_SECONDS)):
        raise ToolchainError("After the reset the lab is not healthy: " + "; ".join(wrong))
    record.remove(stack)
    print(f"The lesson {kept.lesson} is reset: {time.monotonic() - began:.1f} s.", flush=True)


def _check_lab(cluster: Cluster, lesson: Lesson, kept: Record | None) -> None:
    stack = cluster.stack
    if kept and (kept.lesson != lesson.name or kept.phase != "starting"):
        raise ToolchainError(
            f"The lab {stack.name} has the lesson {kept.lesson} since {kept.since}; nothing was changed. "
            f"End it first: {_RESET} -s {stack.name}"
        )
    lacks = actions.lacking(cluster, lesson)
    if stack.traits.existing_hosts:
        lacks = ["machines that the lab has created: lessons break machines, and existing hosts are not the lab's own"]
    elif cluster.by_kubeadm:
        lacks = ["a cluster by the hard way (`bootstrap: hard-way`): lessons change its units and files"]
    if lacks:
        raise ToolchainError(
            f"The lab {stack.name} cannot have the lesson {lesson.name}, which needs {'; '.join(lacks)}. "
            "Nothing was changed."
        )
    for name, command in (("drill.json", "drill"), ("search.json", "search")):
        if (stack.directory / name).exists():
            raise ToolchainError(
                f"A killed `./hardway {command}` has left a fault in the lab {stack.name}; nothing was changed. "
                f"Run ./hardway {command} again: it repairs that first."
            )


def _check_healthy(cluster: Cluster) -> None:
    """Refuse a lab that has other problems: a learner could not tell them from the lesson's."""
    # After a change leases and Nodes may be late.
    if wrong := still_missing(lambda: status.gather(cluster).problems, cluster.allowed(_HEALTHY_SECONDS)):
        raise ToolchainError(
            "A lesson is started only on a healthy lab; nothing was changed.\n"
            + "".join(f"  {each}\n" for each in wrong)
            + f"Repair that (./hardway status -s {cluster.stack.name}), then run this again."
        )


def _wait_for_symptom(cluster: Cluster, lesson: Lesson) -> None:
    deadline = cluster.allowed(_SYMPTOM_SECONDS)
    if still_missing(lambda: not actions.failing(cluster, lesson.check.holds), deadline):
        raise ToolchainError(f"The fault of {lesson.name} has no effect within {deadline:.0f} s.")


def _still_wrong(cluster: Cluster, lesson: Lesson, seconds: float) -> list[str]:
    return still_missing(lambda: actions.failing(cluster, lesson.check.holds), cluster.allowed(seconds))


def _started(stack: Stack) -> tuple[Record, Lesson]:
    kept = record.read(stack)
    if kept is None:
        raise ToolchainError(
            f"The lab {stack.name} has no lesson. Start one: ./hardway lesson start -s {stack.name} NAME"
        )
    if kept.phase != "started":
        done = _START + f" -s {stack.name} {kept.lesson}" if kept.phase == "starting" else _RESET + f" -s {stack.name}"
        raise ToolchainError(f"The lesson {kept.lesson} was interrupted ({kept.phase}). Finish that: {done}")
    return kept, find(kept.lesson, read_all())
