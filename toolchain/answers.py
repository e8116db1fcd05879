"""Whether a lab answers, at the end of `make up`: the engine asks no machine where nothing has changed."""

import subprocess
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from config import health
from toolchain import access
from toolchain.errors import ToolchainError
from toolchain.stack import Stack

_CONNECT_SECONDS = 10
# An API server that has just been restarted, or a balancer that has just taken over, is waited for.
_API_SECONDS = 15
_PAUSE_SECONDS = 0.5


def check(stack: Stack, outputs: Mapping[str, Any]) -> None:
    """See that every machine and the API answer.

    Args:
        stack: whose lab; its files are there (`access.write`).
        outputs: the stack's.

    Raises:
        ToolchainError: one line with what does not answer, and what to run.
    """
    machines = [str(machine["name"]) for machine in outputs["machines"]]
    with ThreadPoolExecutor(max_workers=len(machines)) as threads:
        said = dict(zip(machines, threads.map(lambda machine: _machine_says(stack, machine), machines), strict=True))
    silent = [machine for machine, why in said.items() if why]
    api = _api_says(stack, seconds=0 if silent else _API_SECONDS)
    missing = [f"{machine} ({said[machine]})" for machine in silent]
    missing += [f"the API at {outputs['endpoint']} ({api})"] if api else []
    if missing:
        raise ToolchainError(f"The lab {stack.name} does not answer: {'; '.join(missing)}. {_advice(stack, silent)}")


def _machine_says(stack: Stack, machine: str) -> str:
    """Why a machine cannot be logged in to; empty where it can."""
    return _why([*access.ssh_command(stack), machine, "true"], _CONNECT_SECONDS * stack.timeout_factor)


def _api_says(stack: Stack, *, seconds: float) -> str:
    """Why the API does not become ready within so many seconds, times `timeout_factor`; empty where it does."""
    allowed = 5 * stack.timeout_factor
    ready = [*access.kubectl_command(stack), "get", "--raw", health.API_READY, f"--request-timeout={allowed}s"]
    deadline = time.monotonic() + seconds * stack.timeout_factor
    while why := _why(ready, 2 * allowed, access.kubectl_environment(stack)):
        if time.monotonic() >= deadline:
            return why
        time.sleep(_PAUSE_SECONDS)
    return ""


def _why(command: Sequence[str], seconds: float, environment: Mapping[str, str] | None = None) -> str:
    """The last line of a command that fails; empty where it succeeds."""
    try:
        done = subprocess.run(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=seconds,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"no answer within {seconds:.0f} s"
    if done.returncode == 0:
        return ""
    return (done.stderr.strip().splitlines() or [f"status {done.returncode}"])[-1].strip()


def _advice(stack: Stack, silent: Sequence[str]) -> str:
    at = f"STACK={stack.name}"
    if not silent:
        return f"Run `make status {at}`: it says what does not run."
    if stack.substrate == "machines":
        return f"Start {' and '.join(silent)}, then run `make status {at}`."
    return (
        f'Start what has stopped; machines that are gone: `make replace {at} MACHINE="{" ".join(silent)}"`. '
        f"`make status {at}` says more."
    )
