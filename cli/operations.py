"""The commands for a running lab: status, certs, rotate, drift, repair, snapshot, restore, replace, drill ..."""

import contextlib
import json
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import click
from click.shell_completion import CompletionItem

from cli import stacks
from cli.lab import insist_by_variable, insist_option
from config.errors import UserError
from config.rotations import SUBJECTS
from toolchain.stack import Stack

if TYPE_CHECKING:
    from live.certs.run import Certificates
    from live.drift.run import Drift

# What each command needs is imported in it: the other commands start sooner, and load nothing that builds programs.
_json_file = click.option(
    "--json", "json_file", type=stacks.FILE, metavar="FILE", help="Also write all figures to this file."
)


@stacks.command()
@click.option("--json", "as_json", is_flag=True, help="As one JSON object: the dataclass Status in live/status/.")
def status(stack: Stack, *, as_json: bool) -> int:
    """Show whether the lab is healthy: etcd, leaders, API servers, nodes, certificates."""
    from live import cluster
    from live import status as health
    from live.status import table

    found = health.gather(cluster.find(stack, part_too=True))
    if as_json:
        print(found.json())
    else:
        table.show(found)
    return 0 if found.well else 1


@stacks.command()
@click.option("--json", "as_json", is_flag=True, help="As one JSON object: `Connectivity` in live/connectivity.py.")
def check_network(stack: Stack, *, as_json: bool) -> int:
    """Try every port of every machine from all others, and pods from pods. Changes nothing.

    Exit codes: 0 all ways are open, 1 one is not, 2 a machine could not be asked.
    """
    from live import cluster, connectivity

    found = connectivity.find(cluster.find(stack))
    print(found.json() if as_json else "\n".join(connectivity.lines(found)))
    return found.exit_code


_Found = TypeVar("_Found", bound="Drift | Certificates")


def _compare(
    ctx: click.Context,
    doing: str,
    find: Callable[[Stack], _Found],
    lines: Callable[[_Found], Sequence[str]],
    *,
    as_json: bool,
) -> int:
    """Compare a lab with its state while no other run is at work on it, and print what was found."""
    from live.drift.run import NOT_ASKED
    from toolchain import operations

    try:
        chosen = stacks.chosen(ctx)
        with operations.alone(chosen, doing):
            found = find(chosen)
    except (UserError, OSError) as error:
        # Not 1, which says that something differs.
        print(f"error: {error}", file=sys.stderr)
        return NOT_ASKED
    print(found.json() if as_json else "\n".join(lines(found)))
    return found.exit_code


@click.command(cls=stacks.LabCommand)
@stacks.option
@click.option("--json", "as_json", is_flag=True, help="As one JSON object: the dataclass Drift in live/drift/run.py.")
@click.pass_context
def drift(ctx: click.Context, *, as_json: bool) -> int:
    """Compare the machines and the API with the state. Changes nothing: docs/drift.md.

    Exit codes: 0 no drift, 1 drift, 2 a query failed.
    """
    from live.drift import run as drifts

    return _compare(ctx, "./hardway drift", drifts.find, drifts.lines, as_json=as_json)


@click.command(cls=stacks.LabCommand)
@stacks.option
@click.option("--json", "as_json", is_flag=True, help="As one JSON object: `Certificates` in live/certs/run.py.")
@click.pass_context
def certs(ctx: click.Context, *, as_json: bool) -> int:
    """List the certificates, by state and machines: docs/certificates.md.

    Exit codes: 0 all are as the state says, 1 one differs, has expired or is due for renewal, 2 a query failed.
    """
    from live.certs import run as certificates

    return _compare(ctx, "./hardway certs", certificates.find, certificates.lines, as_json=as_json)


@stacks.command()
@click.argument("subjects", nargs=-1, metavar="[KEY]...", type=click.Choice(SUBJECTS))
@click.option("--stage", "one_stage", is_flag=True, help="Do the next stage, and end.")
@click.option("--preview", is_flag=True, help="Show what the next stage would change, and change nothing.")
def rotate(stack: Stack, subjects: Sequence[str], *, one_stage: bool, preview: bool) -> int:
    """Replace keys without an interruption: docs/certificates.md.

    KEY is one or more of encryption-key, service-accounts, leaves, ca, etcd-ca, front-proxy-ca, ssh. Without a KEY it
    continues the rotation that is not finished.
    """
    from live import rotate as rotating

    if preview:
        return rotating.preview(stack, subjects)
    return rotating.rotate(stack, subjects, one_stage=one_stage)


@stacks.command()
@click.argument("versions", nargs=-1, metavar="[VERSION|PRODUCT=VERSION]...")
@click.option("--preview", is_flag=True, help="Show the plan, or where an unfinished upgrade stands. Changes nothing.")
@click.option("--continue", "resume", is_flag=True, help="Continue an upgrade that is not finished.")
@click.option("--rollback", is_flag=True, help="Return from an unfinished upgrade to the versions before.")
def upgrade(stack: Stack, versions: Sequence[str], *, preview: bool, resume: bool, rollback: bool) -> int:
    """Change the versions of a running lab: docs/upgrade-a-version.md.

    VERSION is one of Kubernetes; PRODUCT is kubernetes, etcd, containerd, runc or cni-plugins. Without both: to the
    versions of the settings file.
    """
    from live import upgrade as upgrading

    if resume and rollback:
        raise click.UsageError("--continue and --rollback exclude each other.")
    if resume or rollback:
        if versions:
            raise click.UsageError("--continue and --rollback take no version: the upgrade's own are in its record.")
        return upgrading.resume(stack, returning=rollback, preview=preview)
    return upgrading.upgrade(stack, versions, preview=preview)


@stacks.command()
@click.argument("machines", nargs=-1, metavar="[MACHINE]...", shell_complete=stacks.complete_machine)
def repair(stack: Stack, machines: Sequence[str]) -> int:
    """Restore what `drift` reports, and restart the units of restored files: docs/drift.md.

    Without a MACHINE: everywhere, and in the API. Exit codes as for `drift`, which is run again at the end.
    """
    from live.drift import run as drifts
    from toolchain import operations

    with operations.without_pulumi(stack, "./hardway repair"):
        return drifts.repair(stack, machines)


@stacks.command()
@click.argument("file", type=stacks.FILE, required=False)
@click.option("--json", "as_json", is_flag=True, help="Describe the snapshot as one JSON object.")
def snapshot(stack: Stack, file: Path | None, *, as_json: bool) -> None:
    """Save etcd, the content of the whole cluster, in a file on the Pulumi host.

    FILE must be new; without it the snapshot is a new file in .state/NAME/snapshots.
    """
    from live import cluster
    from live import snapshot as snapshots
    from live.snapshot_file import sidecar_of

    found = cluster.find(stack)
    with contextlib.redirect_stdout(sys.stderr if as_json else sys.stdout):
        taken = snapshots.take(found, file)
    if as_json:
        print(json.dumps({"file": str(taken), **json.loads(sidecar_of(taken).read_text())}, indent=2))


@stacks.command()
@click.argument("file", type=stacks.FILE)
def restore(stack: Stack, file: Path) -> None:
    """Restore the cluster from a snapshot.

    FILE is a file from `snapshot`, or a file of /var/lib/etcd-snapshots on a machine with etcd.
    """
    from live import cluster
    from live import restore as restoring

    restoring.restore(cluster.find(stack), file)


@stacks.command()
@insist_option
@click.argument("machines", nargs=-1, required=True, metavar="MACHINE...", shell_complete=stacks.complete_machine)
def replace(stack: Stack, machines: Sequence[str], *, insist: bool) -> int:
    """Recreate machines, also machines that do not answer."""
    from live import cluster
    from live import replace as replacing

    insists = insist_by_variable(insist)
    return replacing.replace(cluster.find(stack), machines, insist=insists)


def _complete_drill(_: click.Context, __: click.Parameter, incomplete: str) -> list[CompletionItem]:
    from live.drills.catalogue import DRILLS

    return [CompletionItem(each.name, help=each.does) for each in DRILLS if each.name.startswith(incomplete)]


@stacks.command()
@click.argument("names", nargs=-1, metavar="[DRILL]...", shell_complete=_complete_drill)
@_json_file
def drill(stack: Stack, names: Sequence[str], json_file: Path | None) -> int:
    """Inject faults, and measure their effect: docs/drills.md.

    Without a name: all drills. Names may also be separated by commas.
    """
    from live import drills

    words = [name for word in names for name in word.split(",") if name]
    return drills.main(stack, words, json_file)


@stacks.command()
@click.option("--seed", type=int, required=True, help="Number that determines the faults.")
@click.option("--faults", type=int, metavar="COUNT", help="How many.  [default: 20]")
@click.option("--only", type=int, metavar="NUMBER", help="Only the fault with this number.")
@_json_file
def search(stack: Stack, *, seed: int, faults: int | None, only: int | None, json_file: Path | None) -> int:
    """Inject random faults, and check the requests of clients for linearizability."""
    from live import search as searching

    return searching.main(stack, seed, count=faults, only=only, json_file=json_file)


@stacks.command()
@click.argument("checkout", type=stacks.FILE)
@click.option("--json", "as_json", is_flag=True, help="As one JSON object: the checks of each machine.")
def cis(stack: Stack, checkout: Path, *, as_json: bool) -> int:
    """Check the lab by the CIS Kubernetes Benchmark with kube-bench.

    CHECKOUT is a clone of kube-bench with the directory cfg/cis-1.12.
    """
    from live import cis as benchmark
    from live import cluster

    with contextlib.redirect_stdout(sys.stderr if as_json else sys.stdout):
        found = benchmark.check(cluster.find(stack), str(checkout))
    if as_json:
        print(json.dumps({name: [asdict(each) for each in checks] for name, checks in found.items()}, indent=2))
    else:
        benchmark.show(found)
    return 0 if benchmark.passes(found) else 1


@stacks.command()
@click.argument("sigs", metavar="[SIG]...", nargs=-1)
@click.option(
    "--processes", type=click.IntRange(min=1), help="Tests at the same time.  [default: two for each processor]"
)
@click.option("--again", is_flag=True, help="Discard the results that are there, and begin again.")
@click.option("--failed", is_flag=True, help="Run the tests again that failed, besides those without a result.")
@click.option("--json", "as_json", is_flag=True, help="As JSON: the lab, and the results of each group.")
def conformance(
    stack: Stack, sigs: Sequence[str], *, processes: int | None, again: bool, failed: bool, as_json: bool
) -> int:
    """Run Kubernetes' conformance tests on the lab, of all SIGs or of some (sig-apps, ...).

    The next call continues where an earlier one ended.
    """
    from live import cluster
    from live import conformance as tests

    lab = cluster.find(stack)
    with contextlib.redirect_stdout(sys.stderr if as_json else sys.stdout):
        found = tests.run(lab, sigs, processes=processes or 2 * (os.cpu_count() or 1), again=again, failed=failed)
    if as_json:
        print(tests.as_json(lab, found))
    else:
        tests.show(found, tests.directory_of(lab))
    return 0 if tests.passes(found) else 1
