"""An `up` from the set-up of the Pulumi host to a lab that answers: for the command line and each stage of rotate."""

import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from live import answers, cluster, power
from toolchain import access, operations, prepare
from toolchain.progress import Report
from toolchain.recovery import recorded
from toolchain.stack import Stack


@dataclass(frozen=True, kw_only=True)
class Ended:
    """How it ended.

    Args:
        code: the exit code of `pulumi up`; if it is not 0, nothing was done after it.
        outputs: the stack's outputs, secrets in clear.
        table: the Nodes, as kubectl prints them.
        seconds: how long the set-up took, `pulumi up`, and the rest.
    """

    code: int
    outputs: Mapping[str, Any] = field(default_factory=dict, repr=False)
    table: str = ""
    seconds: tuple[float, float, float]


def bring_up(stack: Stack, *, options: Sequence[str] = (), until: str = "") -> Ended:
    """Bring a lab up, or to other settings, and write the files by which it is reached. The stack's lock is held.

    Args:
        stack: which lab.
        options: of `pulumi up`.
        until: the last chapter; empty for the whole lab.

    Raises:
        ToolchainError: a reason why nothing was changed, or what of the lab does not answer.
    """
    started = time.monotonic()
    operations.check_settings(stack, until=until)
    with Report() as report:
        workshop = prepare.everything(report, stack)
    power.start_for_up(stack)
    ready = time.monotonic()
    code = operations.up(workshop, stack, options=options, until=until)
    made = time.monotonic()
    outputs: Mapping[str, Any] = {}
    table = ""
    if code == 0:
        deployment = recorded(workshop.state.directory, stack)
        outputs = access.unchanged(stack, deployment) or operations.outputs(workshop, stack)
        access.write(stack, outputs, deployment)
        with ThreadPoolExecutor(max_workers=1) as beside:
            # Asked meanwhile. Where the API was not there yet, `show` asks again.
            asked = beside.submit(access.nodes, stack, quiet=True) if not outputs.get("until") else None
            answers.check(cluster.find(stack, part_too=True))
            table = asked.result() if asked else ""
    seconds = (ready - started, made - ready, time.monotonic() - made)
    return Ended(code=code, outputs=outputs, table=table, seconds=seconds)
