"""`./hardway save`: the disks of all machines at one moment, with Pulumi's state, the settings and the lab's files.

All machines are paused while their disks are copied, so the copies fit together: no message arrives in one copy that
another one has not sent. etcd has written and synced each change before it acknowledged it.

The machines go on however the save ends, and it has its name only when it is complete.
"""

import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from live import answers, cluster
from live.cluster import Cluster
from live.containers import Container, Containers, check_engine
from live.lessons import record as lesson
from live.saves import store, trees
from live.saves.store import Save, SavedMachine, Tree
from toolchain import halted, lab_key, operations, prepare
from toolchain.errors import ToolchainError
from toolchain.progress import Report
from toolchain.recovery import pending_operations
from toolchain.stack import Stack

_COMMAND = "./hardway save"
RESERVE = 512 << 20
"""Bytes that stay free on a disk beside what is written."""
ROOT = "/"


def save(stack: Stack, name: str) -> Save:
    """Save a lab.

    Args:
        stack: which lab, running and healthy, or stopped.
        name: of the save; new.

    Raises:
        ToolchainError: with all that speaks against it; there is no such save then, and the machines run.
    """
    lesson.refuse(stack, "A save")
    check_engine(stack, "save")
    store.check_name(name)
    halted.check_state_fits(stack)
    if name in store.names(stack):
        raise ToolchainError(
            f"The lab {stack.name} has a save {name} already. Nothing was changed. Take another name, or remove it: "
            f"`./hardway saves -s {stack.name} --remove {name}`."
        )
    lab = cluster.find(stack, halted_too=True)
    with operations.without_pulumi(stack, _COMMAND), Report() as report:
        containers = Containers(lab)
        with report.part("checks"):
            found = containers.find()
            # What a killed save has left.
            if any(each.status == "paused" for each in found):
                containers.unpause(found)
                found = containers.find()
            workshop = prepare.for_preview(report, stack)
            state = operations.export_state(workshop, stack)
            draft = store.new_draft(stack)
            if problems := list(_problems(lab, found, json.loads(state), draft)):
                draft.rmdir()
                raise ToolchainError(
                    f"The lab {stack.name} cannot be saved. Nothing was changed.\n"
                    + "\n".join(f"  - {each}" for each in problems)
                )
        # What is in it is for root alone, from the first byte.
        mask = os.umask(0o077)
        try:
            made = _write(containers, found, name, state, draft, report)
            with report.part("checksums"):
                store.complete(stack, draft, name)
        except BaseException:
            shutil.rmtree(draft, ignore_errors=True)
            raise
        finally:
            os.umask(mask)
    return made


def _problems(lab: Cluster, found: Sequence[Container], deployment: Mapping[str, Any], draft: Path) -> Iterator[str]:
    """All that speaks against a save."""
    yield from disk_problems(found)
    statuses = {each.machine: each.status for each in found}
    running = [machine for machine, status in statuses.items() if status == "running"]
    if halted.stopped_since(lab.stack) and not running:
        pass
    elif len(running) < len(found):
        down = ", ".join(f"{machine} ({status})" for machine, status in statuses.items() if machine not in running)
        yield f"{down} does not run: start all machines (`./hardway start`), or stop all (`./hardway stop`)"
    else:
        # A rewind waits until the lab is healthy: to what is not, it would wait in vain.
        yield from answers.problems(lab)
    if pending := pending_operations(deployment):
        yield f"a run was killed while {', '.join(pending)}: `./hardway up` finishes it"
    needed = sum(trees.size_of(trees.look(place)) for _, _, place in _places(found))
    free = shutil.disk_usage(draft).free
    if free < needed + RESERVE:
        yield (
            f"no disk for a save: the machines' disks have {store.shown(needed)}, {store.shown(RESERVE)} are to stay "
            f"free, and {draft.parent} has {store.shown(free)}: remove a save (`./hardway saves --remove NAME`)"
        )


def disk_problems(found: Sequence[Container]) -> Iterator[str]:
    """Machines whose disks are in no directory of the Pulumi host."""
    for each in found:
        if not each.upper or not Path(each.upper).is_dir():
            yield (
                f"the container engine keeps the disk of {each.machine} in no directory: saves need its storage driver "
                "overlay (podman) or overlay2 (Docker without the containerd image store)"
            )


def _places(found: Sequence[Container]) -> list[tuple[Container, str, Path]]:
    """Container, directory in the machine and directory on the Pulumi host, of all that is saved."""
    return [
        (each, destination, Path(place))
        for each in found
        for destination, place in ((ROOT, each.upper), *each.volumes.items())
        if place and Path(place).is_dir()
    ]


def _write(
    containers: Containers, found: Sequence[Container], name: str, state: str, draft: Path, report: Report
) -> Save:
    """Write all of a save into its draft."""
    stack = containers.stack
    places = _places(found)
    numbers = {machine.id: 0 for machine, _, _ in places}
    work: list[tuple[Container, Tree, Path]] = []
    for machine, destination, place in places:
        stem = f"{machine.machine}-{numbers[machine.id]}"
        numbers[machine.id] += 1
        tree = Tree(destination=destination, archive=f"{stem}.tar", index=f"{stem}.json", bytes=0)
        work.append((machine, tree, place))

    def copy(each: tuple[Container, Tree, Path]) -> tuple[Container, Tree]:
        machine, tree, place = each
        index = trees.look(place)
        trees.archive(place, draft / tree.archive)
        (draft / tree.index).write_text(trees.written(index))
        size = trees.size_of(index)
        return machine, Tree(destination=tree.destination, archive=tree.archive, index=tree.index, bytes=size)

    running = [each for each in found if each.status == "running"]
    with report.part("disks, with all machines paused" if running else "disks"):
        began = time.monotonic()
        taken = datetime.now(UTC)
        with containers.paused(running) if running else nullcontext(), ThreadPoolExecutor(os.cpu_count()) as threads:
            copied = list(threads.map(copy, work))
        paused = time.monotonic() - began if running else 0.0
    (draft / store.STATE).write_text(state)
    shutil.copyfile(stack.settings_file, draft / store.SETTINGS)
    files = draft / store.FILES
    files.mkdir()
    for file in lab_files(stack):
        shutil.copyfile(file, files / file.name)
    made = Save(
        name=name,
        stack=stack.name,
        time=f"{taken:%Y-%m-%dT%H:%M:%SZ}",
        lab=identity_of(json.loads(state)),
        engine=stack.engine,
        kubernetes=stack.kubernetes,
        program=store.program(),
        commit=store.commit(),
        secrets=secrets_of(json.loads(state)),
        paused_seconds=round(paused, 1),
        machines=[
            SavedMachine(
                name=each.machine,
                id=each.id,
                image=each.image,
                trees=[tree for machine, tree in copied if machine.id == each.id],
            )
            for each in found
        ],
        bytes=sum(file.stat().st_blocks * 512 for file in draft.rglob("*") if file.is_file()),
    )
    (draft / store.DESCRIPTION).write_text(made.json())
    return made


def lab_files(stack: Stack) -> list[Path]:
    """The files beside the kubeconfig that belong to the lab as it is: not its marks, snapshots and saves.

    Nor its kubectl, which is a copy of the mirror's.
    """
    return [
        file
        for file in sorted(stack.directory.iterdir())
        if file.is_file() and not file.name.startswith(".") and file.name not in (*halted.MARKS, "kubectl")
    ]


def identity_of(exported: Mapping[str, Any]) -> str:
    """Which lab a state is of: a rotation of its keys changes that as little as the save of another time."""
    return lab_key.output_of(exported["deployment"].get("resources") or [], lab_key.FINGERPRINT)


def secrets_of(exported: Mapping[str, Any]) -> Mapping[str, Any]:
    """What the secrets in a state are encrypted with."""
    found: Mapping[str, Any] = exported["deployment"].get("secrets_providers") or {}
    return found
