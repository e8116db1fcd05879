"""`./hardway rotate`: new keys, stage by stage; each stage is a setting (config/rotations.py) and then an `up`."""

import json
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from config import settings_file
from config.rotations import SUBJECTS, Rotation, Rotations
from config.whole_file import write_whole
from live import cluster
from live.bring_up import bring_up
from live.lessons import record as lesson
from live.status import check_health
from toolchain import operations, prepare
from toolchain import stack as stacks
from toolchain.errors import ToolchainError
from toolchain.progress import Report
from toolchain.stack import Stack

_RECORD = "rotation.json"
"""Beside the kubeconfig, while the command works: subject -> the number of its rotations at the end.

The settings do not tell whether the last stage is done."""

_SETTLES_SECONDS = 60
"""What a stage restarts may not be ready at its end: a busy API server takes some seconds more."""


def rotate(stack: Stack, subjects: Sequence[str], *, one_stage: bool) -> int:
    """Rotate keys, or continue what an earlier run began.

    Args:
        stack: which lab.
        subjects: which keys; empty to continue.
        one_stage: end after the next stage.

    Returns:
        The exit code of `up` if it fails, else 0.

    Raises:
        ToolchainError: nothing was changed, or a stage was not done: with the reason.
    """
    with operations.alone(stack, "./hardway rotate"):
        lesson.refuse(stack, "A rotation")
        targets = begun(stack)
        settles = _SETTLES_SECONDS if targets else 0
        if targets:
            check_same(stack, subjects, targets)
            print(f"Continuing the rotation of {', '.join(targets)}.", flush=True)
            if code := _bring_up(stack, targets):
                return code
        else:
            targets = new_targets(stack, subjects)
        while pending := _pending(stack, targets):
            check_health(cluster.find(stack), "Keys are rotated", seconds=settles)
            _note(stack, targets)
            stack = advanced(stack, pending)
            print(f"\nStage: {_said(stack, pending)}", flush=True)
            started = time.monotonic()
            if code := _bring_up(stack, targets):
                return code
            print(f"Done in {time.monotonic() - started:.1f} s: {_said(stack, pending)}.", flush=True)
            settles = _SETTLES_SECONDS
            if one_stage and _pending(stack, targets):
                print(f"`./hardway rotate -s {stack.name}` continues.", flush=True)
                return 0
        (stack.directory / _RECORD).unlink(missing_ok=True)
    print(f"Rotated: {', '.join(targets)}. The keys before are not accepted any more.", flush=True)
    return 0


def preview(stack: Stack, subjects: Sequence[str]) -> int:
    """Show what the next stage would change. Changes nothing, the settings neither; returns and raises as `rotate`."""
    targets = begun(stack)
    if targets:
        check_same(stack, subjects, targets)
    else:
        targets = new_targets(stack, subjects)
    with Report() as report:
        workshop = prepare.for_preview(report, stack)
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory) / stack.settings_file.name
        write_whole(file, stack.settings_file.read_bytes(), mode=0o600)
        there = replace(stack, settings_file=file)
        if pending := _pending(stack, targets):
            there = advanced(there, pending, read=False)
            print(f"The next stage: {_said(there, pending)}", flush=True)
        return operations.preview(workshop, there)


def begun(stack: Stack) -> dict[str, int]:
    """Subject -> the number of its rotations at the end, of a rotation that is not finished; empty if there is none."""
    rotations = _rotations(stack)
    known = _noted(stack)
    return {
        subject: known.get(subject, rotations[subject].count)
        for subject in SUBJECTS
        if subject in known or rotations[subject].stage
    }


def check_same(stack: Stack, subjects: Sequence[str], targets: Mapping[str, int]) -> None:
    """Raises:
    ToolchainError: a rotation of other keys is not finished.
    """
    if subjects and set(subjects) != set(targets):
        raise ToolchainError(
            f"A rotation of {', '.join(targets)} is not finished; nothing was changed. "
            f"Finish it first: `./hardway rotate -s {stack.name}`."
        )


def new_targets(stack: Stack, subjects: Sequence[str]) -> dict[str, int]:
    """Subject -> the number of its rotations at the end of a new one.

    Raises:
        ToolchainError: there are none, or the lab has no keys that are rotated here.
    """
    if others := [subject for subject in SUBJECTS if subject in subjects and subject not in stack.rotates]:
        how = (
            "the Secrets in its etcd are not encrypted, so there is no such key"
            if others == ["encryption-key"]
            else "kubeadm issues its certificates; `kubeadm certs renew all` on each controller renews them, "
            "and its CAs stay: docs/kubeadm.md"
        )
        raise ToolchainError(
            f"The lab {stack.name} is made by kubeadm, and {', '.join(others)} cannot be rotated there; "
            f"nothing was changed.\nReason: {how}.\nHere rotate {', '.join(stack.rotates)} alone."
        )
    if "ssh" in subjects and not stack.traits.rotates_ssh:
        raise ToolchainError(
            f"The machines of the lab {stack.name} cannot get another SSH key; nothing was changed.\n"
            f"Its substrate, {stack.substrate}, cannot change the key of a machine that exists."
        )
    if not subjects:
        raise ToolchainError(f"No rotation is under way. Name what to rotate: {', '.join(stack.rotates)}.")
    rotations = _rotations(stack)
    return {subject: rotations[subject].count + 1 for subject in SUBJECTS if subject in subjects}


def advanced(stack: Stack, subjects: list[str], *, read: bool = True) -> Stack:
    """The stack with the next stage of these subjects in its settings file."""
    rotations = _rotations(stack).advanced(subjects)
    settings_file.write_rotations(stack.settings_file, stack.project, rotations)
    return stacks.read(stack.name) if read else replace(stack, rotations=rotations)


def _bring_up(stack: Stack, targets: Mapping[str, int]) -> int:
    """Have the lab as the settings are. What stops it also says how the rotation continues.

    Returns:
        The exit code of `up`.
    """
    rotations = _rotations(stack)
    stage = ", ".join(f"{subject}: {rotations[subject]}" for subject in targets)
    unfinished = (
        f"The rotation of {', '.join(targets)} is not finished ({stage}). Repair what the output above names, then "
        f"`./hardway rotate -s {stack.name}` continues it."
    )
    try:
        code = bring_up(stack).code
    except ToolchainError as error:
        raise ToolchainError(f"{error}\n\n{unfinished}") from None
    if code:
        print(f"\n{unfinished}", flush=True)
    return code


def _note(stack: Stack, targets: Mapping[str, int]) -> None:
    """Write the record, once: from the second stage on it is there."""
    if _noted(stack) != targets:
        write_whole(stack.directory / _RECORD, json.dumps(targets).encode(), mode=0o600)


def _noted(stack: Stack) -> dict[str, int]:
    try:
        noted: dict[str, int] = json.loads((stack.directory / _RECORD).read_text())
    except (OSError, ValueError):
        # A file that a full disk has cut short was written before anything was changed.
        return {}
    return noted


def _rotations(stack: Stack) -> Rotations:
    if stack.rotations is None:
        raise ToolchainError(f"The key rotations in {stack.settings_file.name} is wrong: `./hardway preview` says how.")
    return stack.rotations


def _pending(stack: Stack, targets: Mapping[str, int]) -> list[str]:
    rotations = _rotations(stack)
    return [subject for subject, count in targets.items() if rotations[subject] != Rotation(count)]


def _said(stack: Stack, subjects: Sequence[str]) -> str:
    rotations = _rotations(stack)
    return ", ".join(f"{subject} {rotations[subject].stage or 'without the old key'}" for subject in subjects)
