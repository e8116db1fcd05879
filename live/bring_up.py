"""An `up` from the set-up of the Pulumi host to a lab that answers: for the command line and each stage of rotate."""

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from config import told_outputs
from live import answers, cluster, last_questions, power
from toolchain import access, operations, prepare
from toolchain.errors import ToolchainError
from toolchain.program_host import ProgramHost
from toolchain.progress import Report
from toolchain.recovery import recorded
from toolchain.stack import Stack


@dataclass(frozen=True, kw_only=True)
class Ended:
    """How it ended.

    Args:
        code: the exit code of `pulumi up`; if it is not 0, nothing was done after it.
        outputs: the stack's outputs, secrets in clear; of no use if it failed.
        table: the Nodes, as kubectl prints them.
        seconds: how long the set-up took, `pulumi up`, and the rest.
    """

    code: int
    outputs: Mapping[str, Any] = field(default_factory=dict, repr=False)
    table: str = ""
    seconds: tuple[float, float, float]


def bring_up(
    stack: Stack, *, options: Sequence[str] = (), until: str = "", program: ProgramHost | None = None
) -> Ended:
    """Bring a lab up, or to other settings, and write the files by which it is reached. The stack's lock is held.

    Args:
        stack: which lab.
        options: of `pulumi up`.
        until: the last chapter; empty for the whole lab.
        program: what runs the program; started when it is needed, if not given.

    Raises:
        ToolchainError: a reason why nothing was changed, or what of the lab does not answer.
    """
    started = time.monotonic()
    operations.check_settings(stack, until=until)
    with Report() as report:
        workshop = prepare.everything(report, stack)
    power.start_for_up(stack)
    ready = time.monotonic()
    before = recorded(workshop.state.directory, stack)
    with ThreadPoolExecutor(max_workers=2) as beside:
        # Most runs change nothing. What the machines say meanwhile holds then: nobody waits for it afterwards.
        early = _ask(stack, beside, _problems) if before and _is_up(stack) else None
        told = access.room_for_outputs(stack)
        code = operations.up(workshop, stack, options=options, until=until, told=told, program=program)
        made = time.monotonic()
        outputs: Mapping[str, Any] = told_outputs.take(told) or {}
        table = ""
        if code == 0:
            # A language host that starts programs without our variables would leave them untold.
            outputs = outputs or operations.outputs(workshop, stack)
            access.write(stack, outputs)
            after = recorded(workshop.state.directory, stack)
            if early and access.modified(after) == access.modified(before) and not early[0].result():
                table = early[1].result()
            elif not outputs.get("until"):
                checked, nodes = _ask(stack, beside, _check)
                checked.result()
                table = nodes.result()
            else:
                _check(stack)
    seconds = (ready - started, made - ready, time.monotonic() - made)
    return Ended(code=code, outputs=outputs, table=table, seconds=seconds)


def _is_up(stack: Stack) -> bool:
    """Whether the whole lab is: a part of one has no Nodes to ask for."""
    try:
        return "until" not in access.read(stack)
    except ToolchainError:
        return False


def _ask(
    stack: Stack, beside: Executor, question: Callable[[Stack], list[str]]
) -> tuple[Future[list[str]], Future[str]]:
    """Ask the machines, and the API for the table of the Nodes; where it was not there yet, `show` asks again."""
    return beside.submit(question, stack), beside.submit(_table, stack)


def _table(stack: Stack) -> str:
    try:
        return last_questions.table_of_nodes(cluster.find(stack))
    except ToolchainError:
        return ""


def _problems(stack: Stack) -> list[str]:
    try:
        return answers.problems(cluster.find(stack, part_too=True))
    except ToolchainError as error:
        return [str(error)]


def _check(stack: Stack) -> list[str]:
    answers.check(cluster.find(stack, part_too=True))
    return []
