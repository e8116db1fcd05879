"""`./hardway rewind`: a lab becomes what one of its saves is, machines, Pulumi's state, settings and files together.

Everything is checked before anything is changed. Then a mark is written (toolchain/halted.py), by which `up`, `preview`
and all others refuse the lab until a rewind is finished: in between, machines and state are of different times. Killed
anywhere, it does the same from the beginning.
"""

import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from config.whole_file import write_whole
from live import cluster, nodes, power
from live.containers import Container, Containers, check_engine
from live.saves import store, trees
from live.saves.save import RESERVE, ROOT, disk_problems, identity_of, lab_files, secrets_of
from live.saves.store import Save, Tree
from live.waiting import still_missing
from toolchain import halted, operations, prepare
from toolchain import stack as stacks
from toolchain.errors import ToolchainError
from toolchain.prepare import Workshop
from toolchain.progress import Report
from toolchain.stack import Stack

_COMMAND = "./hardway rewind"
_UNMOUNT_SECONDS = 20
_MOUNTS = Path("/proc/self/mounts")
SETTINGS_BEFORE = "settings-before-rewind.yaml"
"""Beside the kubeconfig: the settings file that a rewind has replaced, where it said something else."""
_Work = tuple[Tree, Path]


def rewind(stack: Stack, name: str) -> None:
    """Make a lab what a save is, and wait until it is healthy.

    Raises:
        ToolchainError: a check failed, and nothing was changed; or a rewind or a destroy is not finished; or what is
            not healthy.
    """
    check_engine(stack, "rewind")
    halted.check_destroyed(stack)
    began = time.monotonic()
    with operations.alone(stack, _COMMAND), Report() as report:
        with operations.pulumi_kept_out(stack, _COMMAND):
            with report.part("checks"):
                save = store.read(stack, name)
                lab = cluster.find(stack, halted_too=True)
                containers = Containers(lab)
                found = containers.find()
                workshop = prepare.for_preview(report, stack)
                problems, state = find_problems(workshop, stack, save, found)
                if problems:
                    raise ToolchainError(
                        f"The lab {stack.name} cannot be rewound to {name}. Nothing was changed.\n"
                        + "\n".join(f"  - {each}" for each in problems)
                    )
            halted.mark_rewinding(stack, name)
            with report.part("machines stop"):
                # Nothing that they would still write is kept.
                containers.stop(found, seconds=lambda _: 0)
                await_unmounted([each.upper for each in found], seconds=lab.allowed(_UNMOUNT_SECONDS))
            with report.part("disks"):
                put_back(stack, save, found)
        # The lab's own machines, as they are in the save: who has changed since, stands in neither.
        since = nodes.now()
        with report.part("machines start, state"), ThreadPoolExecutor(max_workers=1) as threads:
            imported = threads.submit(_restore_files, workshop, stack, name, state)
            power.boot(lab, containers, found, since=since)
            imported.result()
        containers.start_at_boot(True)
        halted.mark_started(stack)
        halted.mark_rewound(stack)
        # By the settings of the save.
        lab = cluster.find(stacks.read(stack.name))
        with report.part("the lab gets healthy"):
            missing = power.unhealthy(lab, since=since)
    if missing:
        raise ToolchainError(
            f"The lab {stack.name} is rewound to {name}, but not all is healthy:\n"
            + "".join(f"  - {each}\n" for each in missing)
            + f"Run `./hardway status -s {stack.name}` for details."
        )
    print(f"The lab {stack.name} is what it was at {save.time}, after {time.monotonic() - began:.1f} s.")


def find_problems(
    workshop: Workshop, stack: Stack, save: Save, found: Sequence[Container]
) -> tuple[list[str], Mapping[str, Any]]:
    """All that speaks against a rewind, and the lab's state as the CLI exports it.

    Args:
        workshop: of the lab.
        stack: which lab.
        save: to which.
        found: its containers.
    """
    with ThreadPoolExecutor(max_workers=1) as threads:
        exported = threads.submit(operations.read_state, workshop, stack)
        problems = [*_of_others(stack, save, found), *store.problems(stack, save.name)]
        state = exported.result()
    return [*problems, *_of_state(save, state), *(() if problems else _room(stack, save, found))], state


def _of_others(stack: Stack, save: Save, found: Sequence[Container]) -> Iterator[str]:
    """What has become another one since the save: the program, the lab, its machines."""
    if save.program != (program := store.program()):
        at = f", commit {save.commit[:12]}" if save.commit else ""
        yield (
            f"it is of another version of this program ({save.program}{at}; this one is {program}), which may write "
            "other files on the machines: check out that version, rewind, and then `./hardway up` with this one"
        )
    if save.stack != stack.name:
        yield f"it is of the lab {save.stack}"
    if save.engine != stack.engine:
        yield f"it is of a lab on {save.engine}, and this one is on {stack.engine}"
    yield from disk_problems(found)
    before = {machine.name: machine for machine in save.machines}
    for each in found:
        if each.machine not in before:
            yield f"{each.machine} was created after the save: remove it (settings and `./hardway up`), then rewind"
        elif each.id != before[each.machine].id or each.image != before[each.machine].image:
            yield (
                f"{each.machine} was recreated after the save: Pulumi's state in the save has another container, and "
                "that one is gone"
            )
        elif {ROOT, *each.volumes} != {tree.destination for tree in before[each.machine].trees}:
            yield f"{each.machine} has other volumes than in the save"
    names = {each.machine for each in found}
    yield from (f"{name} was removed after the save, with its disk" for name in before if name not in names)


def _of_state(save: Save, exported: Mapping[str, Any]) -> Iterator[str]:
    if save.lab != identity_of(exported):
        yield "it is of another lab of this name, with another key: the lab was destroyed and created again since"
    if dict(save.secrets) != dict(secrets_of(exported)):
        yield "the state in it is encrypted with another passphrase or secrets provider than the lab's state now"


def _room(stack: Stack, save: Save, found: Sequence[Container]) -> Iterator[str]:
    """Whether there is room for what is put back, on each disk."""
    work: dict[int, list[_Work]] = {}
    for tree, place in _work(save, found):
        work.setdefault(place.stat().st_dev, []).append((tree, place))
    for each in work.values():
        place = each[0][1]
        free = shutil.disk_usage(place).free
        if free >= sum(tree.bytes for tree, _ in each) + RESERVE:
            # Enough for all files: it need not be known which of them differ.
            continue
        needed = sum(_changes(stack, save, tree, place).bytes for tree, place in each)
        if free < needed + RESERVE:
            yield (
                f"no disk for a rewind: up to {store.shown(needed)} are written, {store.shown(RESERVE)} are to "
                f"stay free, and the disk of {place} has {store.shown(free)}"
            )


def _work(save: Save, found: Sequence[Container]) -> list[_Work]:
    """What is put back where."""
    trees_of = {machine.name: {tree.destination: tree for tree in machine.trees} for machine in save.machines}
    return [
        (trees_of[each.machine][destination], Path(place))
        for each in found
        for destination, place in ((ROOT, each.upper), *each.volumes.items())
    ]


def _changes(stack: Stack, save: Save, tree: Tree, place: Path) -> trees.Changes:
    index = trees.read((store.directory(stack) / save.name / tree.index).read_text())
    return trees.changes(index, trees.look(place))


def same_state(saved: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
    """Whether two exported states are of one moment: no run has written the state in between.

    Each import encrypts the secrets again, so they are not compared. A run that changes a resource gives it another
    time, and the state too.
    """
    return _without_ciphertexts(saved["deployment"]) == _without_ciphertexts(now["deployment"])


def _without_ciphertexts(value: Any) -> object:
    if isinstance(value, Mapping):
        return {key: _without_ciphertexts(each) for key, each in value.items() if key != "ciphertext"}
    if isinstance(value, list):
        return [_without_ciphertexts(each) for each in value]
    return value


def put_back(stack: Stack, save: Save, found: Sequence[Container]) -> None:
    """Make the disks of all machines what they were.

    Raises:
        ToolchainError: with those that could not be; the lab stays stopped and marked.
    """

    def one(work: _Work) -> str:
        tree, place = work
        try:
            wanted = _changes(stack, save, tree, place)
            trees.put_back(place, store.directory(stack) / save.name / tree.archive, wanted)
        except (OSError, ToolchainError) as error:
            return f"{tree.archive}: {error}"
        return ""

    with ThreadPoolExecutor(max_workers=os.cpu_count()) as threads:
        failed = [each for each in threads.map(one, _work(save, found)) if each]
    if failed:
        raise ToolchainError(
            f"The rewind of the lab {stack.name} stopped; its machines are stopped:\n"
            + "".join(f"  - {each}\n" for each in failed)
            + f"Repair that, then run it again: `./hardway rewind -s {stack.name} {save.name}`."
        )


def await_unmounted(uppers: Sequence[str], *, seconds: float) -> None:
    """Wait until the container engine has unmounted the disks: they must not change below a mount.

    Raises:
        ToolchainError: it has not.
    """

    def mounted() -> list[str]:
        mounts = _MOUNTS.read_text()
        return [upper for upper in uppers if f"upperdir={upper}," in mounts or f"upperdir={upper} " in mounts]

    if left := still_missing(mounted, seconds, every=0.1):
        raise ToolchainError(f"Still mounted, although their containers are stopped: {', '.join(left)}")


def _restore_files(workshop: Workshop, stack: Stack, name: str, state: Mapping[str, Any]) -> None:
    """Put back Pulumi's state, if it is another one now, the settings and the lab's files."""
    place = store.directory(stack) / name
    saved = (place / store.STATE).read_text()
    if not same_state(json.loads(saved), state):
        operations.import_state(workshop, stack, saved)
    before, wanted = stack.settings_file.read_bytes(), (place / store.SETTINGS).read_bytes()
    if before != wanted:
        write_whole(stack.directory / SETTINGS_BEFORE, before)
        owner = stack.settings_file.stat()
        ids = (owner.st_uid, owner.st_gid)
        write_whole(stack.settings_file, wanted, mode=owner.st_mode & 0o777, owner=ids)
        print(f"{stack.settings_file.name} is as in the save; {stack.directory / SETTINGS_BEFORE} has what it was.")
    files = {file.name: file for file in (place / store.FILES).iterdir()}
    for file in lab_files(stack):
        if file.name not in files and file.name != SETTINGS_BEFORE:
            file.unlink()
    for found, file in files.items():
        if found == SETTINGS_BEFORE:
            continue
        write_whole(stack.directory / found, file.read_bytes())
