"""The status of a lab as tables for people."""

import sys
from collections.abc import Iterable, Sequence

from rich.console import Console
from rich.table import Table

from config import chapters
from live.status import Status
from live.status.certificates import CertificateStatus

# Where there is no terminal, nothing is to be wrapped or cut.
_WIDTH_OF_A_FILE = 200


def show(status: Status) -> None:
    """Print it; the end says whether the lab is healthy, with a line for each problem."""
    console = Console(width=None if sys.stdout.isatty() else _WIDTH_OF_A_FILE, highlight=False, soft_wrap=False)
    for table in _tables(status):
        console.print(table)
        console.print()
    soon = [each for each in status.certificates if each.ends_soon]
    if _built(status, "certificates"):
        console.print(_certificates(status, soon), markup=False, soft_wrap=True)
    if status.nodes_not_listed:
        console.print(f"{status.nodes_not_listed} further Nodes belong to no machine of the lab", markup=False)
    for each in status.firewalls:
        if not each.read:
            whose = each.machine or "the host of the containers"
            console.print(f"firewall of {whose}: not read, {each.message}", markup=False, soft_wrap=True)
    # Each problem in a line of its own, so that a program that reads lines finds it.
    verdict = (
        [f"The lab is healthy, up to the chapter {status.until}." if status.until else "The lab is healthy."]
        if status.well
        else ["Not healthy:", *(f"  {problem}" for problem in status.problems)]
    )
    console.print("\n".join(verdict), markup=False, soft_wrap=True)


def _tables(status: Status) -> Iterable[Table]:
    yield _table(
        "machine",
        ("machine", "roles", "answers", "does not run"),
        [
            (each.name, ", ".join(each.roles), "yes" if each.reached else each.message, ", ".join(each.units_down))
            for each in status.machines
        ],
    )
    if _built(status, "etcd"):
        yield _table(
            "etcd",
            (
                *("etcd member", "id", "role", "healthy", "term", "revision"),
                *("raft index", "hash", "size", "in use", "alarms", "version"),
            ),
            [
                (
                    each.name or each.machine,
                    each.id,
                    each.role,
                    "yes" if each.healthy else each.message or "no",
                    each.term,
                    each.revision,
                    each.raft_index,
                    each.hash,
                    _mebibytes(each.db_size),
                    _mebibytes(each.db_size_in_use),
                    ", ".join(each.alarms) or "none",
                    each.version,
                )
                for each in status.etcd
            ],
        )
    if _built(status, "control-plane"):
        yield _table(
            "API servers",
            ("API server", "ready", "failing checks"),
            [
                (each.machine, "yes" if each.ready else "no", ", ".join(each.failing) or each.message)
                for each in status.api_servers
            ],
        )
        yield _table(
            "leases",
            ("lease", "held by", "renewed"),
            [
                (each.name, each.holder, "never" if each.age_seconds is None else f"{each.age_seconds} s ago")
                for each in status.leases
            ],
        )
    if _built(status, "load-balancer"):
        endpoint = status.endpoint
        yield _table(
            "endpoint",
            ("endpoint", "held by", "ready"),
            [(endpoint.url, ", ".join(endpoint.held_by) or "none", "yes" if endpoint.ready else endpoint.message)],
        )
        yield _table(
            "backends",
            ("balancer", "backend", "server", "status", "last check"),
            [(each.balancer, each.backend, each.server, each.status, each.check) for each in status.backends],
        )
    if _built(status, "workers"):
        yield _table(
            "nodes",
            ("node", "ready", "since", "new pods", "version"),
            [
                (
                    each.name,
                    "yes" if each.ready else each.message,
                    each.since,
                    "may come" if each.schedulable else "stay away",
                    each.version,
                )
                for each in status.nodes
            ],
        )
    if _built(status, "pod-network"):
        yield _table(
            "pod network",
            ("machine", "routes to pods", "pod that sends", "pods of DNS that answer it on"),
            [
                (
                    each.machine,
                    each.message
                    if not each.read
                    else f"missing: {', '.join(each.wrong_routes)}"
                    if each.wrong_routes
                    else "yes",
                    each.source,
                    ", ".join([*each.reached, *(f"not {node}" for node in each.lost)]),
                )
                for each in status.pod_network
            ],
        )


def _table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*("-" if cell in (None, "") else str(cell) for cell in row))
    if not rows:
        table.add_row(f"{title}: no machine could be asked")
    return table


def _built(status: Status, chapter: str) -> bool:
    return chapters.reaches(status.until or chapters.COMPLETE, chapter)


def _certificates(status: Status, soon: Sequence[CertificateStatus]) -> str:
    by = " or ".join(f"`{command}`" for command in dict.fromkeys(each.renewed_by for each in status.certificates))
    when = f"within {status.renewal_days:g} days, when {by} renews them"
    if not status.certificates:
        return "certificates: no machine reported any"
    if soon:
        lines = [
            f"  {each.name}{f' ({each.subject})' if each.subject else ''}: {each.not_after}, "
            f"{each.days_left} days left, `{each.renewed_by}`"
            for each in soon
        ]
        return "\n".join([f"certificates that end {when}:", *lines])
    first = min(status.certificates, key=lambda each: each.days_left)
    return f"certificates: none expires {when}; the first, {first.name}, expires in {first.days_left:.0f} days"


def _mebibytes(size: int | None) -> str | None:
    return None if size is None else f"{size / 2**20:.1f} MiB"
