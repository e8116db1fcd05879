"""The first `up` of a lab that can be removed without a state: the state is saved once, when the run ends.

Where such a run is killed, what it created is in no state, and a mark says so (config/creation_mark.py). The next `up`
or `destroy` removes it and then goes on as with a lab that was never there. It removes nothing but what has, on the
host, exactly the identity of the killed run. That is the fingerprint of a key which the run itself has made: nothing
had it before, and no later lab gets it.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from config import creation_mark
from config.creation_mark import Creating
from config.substrates import SUBSTRATES
from config.whole_file import sync
from toolchain import halted, lab_key, orphans
from toolchain.command import ask
from toolchain.errors import ToolchainError
from toolchain.recovery import recorded, state_file
from toolchain.stack import Stack

_ROOT = "pulumi:pulumi:Stack"
_ON_HOST = "command:local:Command"


def is_next(directory: Path, stack: Stack, deployment: Mapping[str, Any], passphrase: Path | None) -> bool:
    """Whether the next `up` is such a run: the state has no resource, or that alone which a refused run leaves.

    Args:
        directory: of the backend of files.
        stack: whose.
        deployment: its state, as `pulumi stack export` has it.
        passphrase: the file with the one that was made here; None where it is the user's.
    """
    return (
        stack.traits.removes_unsaved
        # With a wrong one the engine would notice at its first save, which is its last: with all created.
        and passphrase is not None
        and passphrase.stat().st_ctime_ns <= state_file(directory, stack).stat().st_mtime_ns
        and all(each["type"] == _ROOT for each in _resources(deployment))
        # One that is still there belongs to a state in another backend, and has to stay.
        and creation_mark.read(stack.directory) is None
    )


def begin(directory: Path, stack: Stack) -> Mapping[str, str]:
    """Write the mark.

    Args:
        directory: of the backend of files.
        stack: whose.

    Returns:
        The variables of the environment by which the program is told of it.
    """
    mark = creation_mark.write(stack.directory, state_file(directory, stack), stack.substrate, halted.now())
    return {creation_mark.VARIABLE: str(mark)}


def ended(directory: Path, stack: Stack) -> None:
    """Remove the mark of a run that was not killed, unless it could not save what it has created."""
    if unsaved(directory, stack, {"deployment": recorded(directory, stack)}) is None:
        sync(state_file(directory, stack))
        creation_mark.remove(stack.directory)


def unsaved(directory: Path | None, stack: Stack, deployment: Mapping[str, Any]) -> Creating | None:
    """The first `up` that has begun to create something which the state does not have, if there is one.

    Args:
        directory: of the backend; None where it is no directory.
        stack: whose.
        deployment: its state, as `pulumi stack export` has it.
    """
    begun = _of_state(directory, stack)
    if begun is None or not begun.identity:
        return None
    is_saved = lab_key.output_of(_resources(deployment), lab_key.FINGERPRINT) == begun.identity
    return None if is_saved else begun


def remove_unsaved(directory: Path | None, stack: Stack, deployment: Mapping[str, Any]) -> None:
    """Remove what a killed first `up` has created and the state does not have, and then its mark.

    What the killed run has left at work must have been ended, but for the commands of its lab.

    Args:
        directory: of the backend; None where it is no directory.
        stack: whose.
        deployment: its state, as `pulumi stack export` has it.

    Raises:
        ToolchainError: something cannot be removed.
    """
    if begun := unsaved(directory, stack, deployment):
        orphans.end_commands(begun.identity)
        # The settings may name another substrate by now.
        operations = SUBSTRATES[begun.substrate].load_operations()
        if removals := operations.removals_of_unsaved(stack.name, begun.identity):
            print(f"{said(stack, begun)} Removing what it created.", flush=True)
        for removal in removals:
            _run(stack, removal.script, removal.stdin, removal.environment)
    if _of_state(directory, stack):
        creation_mark.remove(stack.directory)


def is_half_created(deployment: Mapping[str, Any]) -> bool:
    """Whether a run was killed while it created something on the Pulumi host, which the state does not have then.

    Args:
        deployment: the state with the operations that were under way, as `pulumi stack export` has it.
    """
    pending = (deployment.get("deployment") or {}).get("pending_operations") or []
    return any(each["type"] == "creating" and each["resource"]["type"] == _ON_HOST for each in pending)


def remove_saved(stack: Stack, deployment: Mapping[str, Any]) -> None:
    """Remove all of a lab from the host by the identity that the state has, before the engine's own deletions.

    The engine would leave what the state does not have, and its deletions succeed for what is gone.

    Raises:
        ToolchainError: something cannot be removed.
    """
    identity = lab_key.output_of(_resources(deployment), lab_key.FINGERPRINT)
    if identity and stack.traits.removes_unsaved:
        orphans.end_commands(identity)
        for removal in stack.traits.load_operations().removals_of_unsaved(stack.name, identity):
            _run(stack, removal.script, removal.stdin, removal.environment)


def said(stack: Stack, begun: Creating) -> str:
    """The sentence for a lab whose first `up` was killed."""
    return f"The first up of the lab {stack.name}, begun at {begun.since}, was killed."


def _run(stack: Stack, script: str, stdin: str, environment: Mapping[str, str]) -> None:
    done = ask("/bin/bash", "-c", script, stdin=stdin, env=os.environ | environment)
    if done.returncode != 0:
        raise ToolchainError(
            f"What a killed run of the lab {stack.name} created cannot be removed: "
            f"{script.partition(chr(10))[0].lstrip('# ')}: {done.stderr.strip()}\n"
            "When that is repaired, run this again."
        )


def _of_state(directory: Path | None, stack: Stack) -> Creating | None:
    """The mark, if the state that it is about is the one in use."""
    begun = creation_mark.read(stack.directory)
    if begun is None or directory is None or begun.state != str(state_file(directory, stack)):
        return None
    return begun


def _resources(deployment: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    found: Sequence[Mapping[str, Any]] = (deployment.get("deployment") or {}).get("resources") or []
    return found
