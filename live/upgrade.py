"""`./hardway upgrade`: other versions on a running lab, with a plan, a snapshot and a record.

The order of machines is that of every `up`: the turns of controllers (etcd.sh) and of workers (worker_turns.sh). This
command does one group of products after the other, each as an `up` of its own.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from config import settings_file, upgrade_record, version_changes
from config.machines import Role
from config.upgrade_record import UpgradeRecord
from config.versions import pins
from live import cluster, running_versions
from live import snapshot as snapshots
from live.bring_up import bring_up
from live.cluster import Cluster, LiveMachine
from live.lessons import record as lesson
from live.running_versions import Running
from live.status import check_health
from toolchain import operations, state
from toolchain import stack as stacks
from toolchain import version_changes as in_state
from toolchain.errors import ToolchainError
from toolchain.recovery import recorded
from toolchain.stack import Stack

GROUPS = (("etcd",), ("kubernetes",), ("containerd", "runc", "cni-plugins"))
"""Which products change together, in this order."""


@dataclass(frozen=True, kw_only=True)
class Change:
    """A line of the plan: what one machine gets.

    Args:
        machine: its name.
        product: what changes.
        before, after: the versions.
        restarts: the units that restart; or why none does.
    """

    machine: str
    product: str
    before: str
    after: str
    restarts: str


def upgrade(stack: Stack, words: Sequence[str], *, preview: bool) -> int:
    """Change a running lab to other versions.

    Args:
        stack: which lab.
        words: a version of Kubernetes, or PRODUCT=VERSION; empty for what the settings file says.
        preview: show the plan, and change nothing.

    Returns:
        The exit code of `up` if it fails, else 0.

    Raises:
        ToolchainError: nothing was changed: with every reason.
    """
    with operations.alone(stack, "./hardway upgrade"):
        if not preview:
            lesson.refuse(stack, "An upgrade")
        if record := upgrade_record.read(stack.name):
            raise ToolchainError(f"{_unfinished(stack, record)} Nothing was changed.\n{_advice(stack)}")
        wanted = wanted_versions(stack, words)
        deployment = {"deployment": recorded(state.directory(), stack)}
        known = in_state.running(deployment)
        check_change(known, wanted, stack)
        lab = cluster.find(stack)
        running = running_versions.ask(lab)
        before = versions_before(known, running)
        targets = {
            product: version for product, version in wanted.items() if before.get(product, {version}) != {version}
        }
        if not targets:
            print(f"The lab {stack.name} runs {_listed(wanted)} already. Nothing was changed.", flush=True)
            return 0
        check_change(before, targets, stack)
        in_state.check_joins(deployment, stack, kubernetes=targets.get("kubernetes", ""))
        show(plan(lab, running, targets))
        if preview:
            return 0
        check_health(lab, "A lab is upgraded")
        taken = snapshots.take(lab, None)
        oldest = {product: version_changes.oldest(before[product]) for product in targets}
        record = UpgradeRecord(before=oldest, after=targets, snapshot=str(taken))
        upgrade_record.write(stack.name, record)
        return _carry_out(stack, record)


def resume(stack: Stack, *, returning: bool, preview: bool) -> int:
    """Continue an upgrade that is not finished, or return to the versions that it began from. As `upgrade`.

    Args:
        stack: which lab.
        returning: roll back.
        preview: show where it stands, and change nothing.
    """
    with operations.alone(stack, "./hardway upgrade"):
        if not preview:
            lesson.refuse(stack, "An upgrade")
        record = upgrade_record.read(stack.name)
        if record is None:
            raise ToolchainError(f"No upgrade of the lab {stack.name} is unfinished. Nothing was changed.")
        record = UpgradeRecord(
            before=record.before, after=record.after, snapshot=record.snapshot, returning=returning or record.returning
        )
        print(_unfinished(stack, record), flush=True)
        lab = cluster.find(stack)
        running = running_versions.ask(lab)
        show(plan(lab, running, record.wanted))
        if preview:
            return 0
        upgrade_record.write(stack.name, record)
        return _carry_out(stack, record, newer_workers(running, record) if record.returning else ())


def wanted_versions(stack: Stack, words: Sequence[str]) -> dict[str, str]:
    """Product -> version, of the words of the command line; of the settings file where there are none.

    Raises:
        ToolchainError: with every word that is no version of a product that is pinned.
    """
    if stack.versions is None:
        raise ToolchainError(
            f"{stack.settings_file.name} has problems: `./hardway preview -s {stack.name}` shows them."
        )
    if not words:
        return dict(stack.versions)
    products = pins().products
    wanted, problems = {}, []
    for word in words:
        product, _, version = word.rpartition("=") if "=" in word else ("kubernetes", "", word)
        if product not in stack.versions:
            problems.append(f"{word}: {product} is no product of this lab: one of {', '.join(sorted(stack.versions))}")
        elif version not in products[product].versions:
            known = ", ".join(products[product].versions)
            problems.append(
                f"{word}: {version} is not in config/versions.yaml, which has {known}: ./hardway pins adds one"
            )
        elif product in wanted:
            problems.append(f"{word}: {product} is given twice")
        else:
            wanted[product] = version
    if problems:
        raise ToolchainError("\n".join(["Nothing was changed.", *problems]))
    return wanted


def check_change(before: Mapping[str, set[str]], wanted: Mapping[str, str], stack: Stack) -> None:
    """Raises:
    ToolchainError: a running lab cannot change like this: with a sentence for each product.
    """
    try:
        version_changes.check(before, wanted, stack.made_by or stack.bootstrap)
    except version_changes.VersionChangeError as error:
        raise ToolchainError(str(error)) from None


def versions_before(in_state: Mapping[str, set[str]], running: Sequence[Running]) -> dict[str, set[str]]:
    """Product -> the versions that the lab has: by its state, else by what its machines run."""
    return {**running_versions.by_product(running), **in_state}


def plan(lab: Cluster, running: Sequence[Running], wanted: Mapping[str, str]) -> list[Change]:
    """What each machine gets, in the order in which it is done."""
    in_groups = [list(_changes(lab, running, group, wanted)) for group in GROUPS]
    first = next((number for number, changes in enumerate(in_groups) if changes), None)
    if first is not None:
        # By the first `up` that the upgrade runs.
        in_groups[first] += _dns(lab)
    return [change for changes in in_groups for change in changes]


def _changes(
    lab: Cluster, running: Sequence[Running], group: Sequence[str], wanted: Mapping[str, str]
) -> Iterator[Change]:
    found: dict[tuple[str, str, str], list[Running]] = {}
    for each in running:
        if each.product in group and wanted.get(each.product, each.version) != each.version:
            found.setdefault((each.machine, each.product, each.version), []).append(each)
    for (machine, product, version), programs in found.items():
        units = ", ".join(each.program for each in programs if each.is_unit)
        if units and is_drained(lab, lab.machine(machine)):
            units = f"drain; {units}"
        restarts = units or "nothing: the next pods use it"
        yield Change(machine=machine, product=product, before=version, after=wanted[product], restarts=restarts)


def is_drained(lab: Cluster, machine: LiveMachine) -> bool:
    """Whether the pods of a machine go to others before its kubelet or containerd changes."""
    alike = [lab.with_role(role) for role in (Role.WORKER, Role.CONTROLLER)]
    return machine in lab.nodes and any(machine in each and len(each) > 1 for each in alike)


def _dns(lab: Cluster) -> Iterator[Change]:
    """CoreDNS, whose version all labs have in common: the next `up` changes it, after the control plane.

    Where kubeadm made the cluster it stays: kubeadm does not change one that is newer than its own.
    """
    if lab.by_kubeadm:
        return
    before, after = running_versions.coredns(lab), pins().images["coredns"].tag
    if before not in {after, running_versions.UNKNOWN}:
        restarts = "its pods, one after the other"
        yield Change(machine="(add-on)", product="coredns", before=before, after=after, restarts=restarts)


def show(changes: Sequence[Change]) -> None:
    """Print the plan."""
    if not changes:
        print("Every machine runs the wanted versions.", flush=True)
        return
    rows = [("machine", "product", "from", "to", "restarts")]
    rows += [(each.machine, each.product, each.before, each.after, each.restarts) for each in changes]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip(), flush=True)


def newer_workers(running: Sequence[Running], record: UpgradeRecord) -> list[str]:
    """The workers that return before the control plane does: no kubelet may be newer than the API server.

    One that does not say its version may be newer: it was just restarting when a run was killed.
    """
    wanted = record.before.get("kubernetes")
    return [
        each.machine
        for each in running
        if wanted
        and each.program == "kubelet"
        and (
            each.version == running_versions.UNKNOWN
            or version_changes.numbers(each.version) > version_changes.numbers(wanted)
        )
    ]


def _carry_out(stack: Stack, record: UpgradeRecord, workers_first: Sequence[str] = ()) -> int:
    started = time.monotonic()
    # Which groups were reached, a return need not know.
    groups: list[tuple[str, ...]] = (
        [tuple(record.wanted)] if record.returning else [group for group in GROUPS if set(group) & set(record.wanted)]
    )
    for done, group in enumerate(groups, start=1):
        # Those that come later keep the version that they have.
        now = {product for each in groups[:done] for product in each}
        settings = {product: (record.wanted if product in now else record.before)[product] for product in record.wanted}
        settings_file.write_versions(stack.settings_file, stack.project, settings)
        stack = stacks.read(stack.name)
        print(f"\n{_listed({product: settings[product] for product in group if product in settings})}", flush=True)
        try:
            code = 0
            if workers_first and "kubernetes" in group:
                code = bring_up(stack, options=[_target(each, stack) for each in workers_first]).code
            code = code or bring_up(stack).code
        except ToolchainError as error:
            raise ToolchainError(f"{error}\n\n{_unfinished(stack, record)}\n{_advice(stack)}") from None
        if code:
            return _stopped(stack, record, code)
    upgrade_record.remove(stack.name)
    before, after = (record.after, record.before) if record.returning else (record.before, record.after)
    what = "Returned" if record.returning else "Upgraded"
    print(f"{what}: {upgrade_record.said(before, after)}, in {time.monotonic() - started:.0f} s.", flush=True)
    return 0


def _target(node: str, stack: Stack) -> str:
    """The option by which only the step of a Node's kubelet runs."""
    name = f"kubeadm-upgrade-kubelet-{node}" if stack.bootstrap == "kubeadm" else f"{node}-node"
    return f"--target=**::{name}"


def _stopped(stack: Stack, record: UpgradeRecord, code: int) -> int:
    print(f"\n{_unfinished(stack, record)} These machines still change:", flush=True)
    lab = cluster.find(stack)
    show(plan(lab, running_versions.ask(lab), record.wanted))
    print(f"The snapshot from before is {record.snapshot}.\n{_advice(stack)}", flush=True)
    return code


def _unfinished(stack: Stack, record: UpgradeRecord) -> str:
    what = f"The upgrade of the lab {stack.name} ({record}) is not finished"
    return f"{what}, and is being rolled back." if record.returning else f"{what}."


def _advice(stack: Stack) -> str:
    return (
        f"`./hardway upgrade -s {stack.name} --continue` continues it, after you repaired what its output names; "
        "`--rollback` returns to the versions before. With --preview both only show where it stands."
    )


def _listed(versions: Mapping[str, str]) -> str:
    return ", ".join(f"{product} {version}" for product, version in versions.items())
