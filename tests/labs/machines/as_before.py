"""Whether the user's hosts are what they were before a lab."""

from collections.abc import Mapping, Sequence

from lab.polling import eventually
from lab.session import Show
from labs.machines.own_hosts import OwnHost, OwnHosts, side_by_side
from labs.machines.traces import traces


def check_as_before(hosts: OwnHosts, before: Mapping[OwnHost, set[str]], of: Sequence[OwnHost], show: Show) -> None:
    """Assert that nothing of a lab is left, and that nothing was removed.

    Args:
        hosts: all of them.
        before: what was on each.
        of: those that are looked at.
        show: prints how much there is.
    """

    def is_as_it_was(host: OwnHost) -> None:
        # The kernel and systemd remove unused objects some time later.
        eventually(
            f"{host.name} as it was",
            lambda: not _left(host, hosts, before[host], show),
            seconds=60,
            report=lambda: "\n".join(_left(host, hosts, before[host], show)),
        )

    side_by_side(is_as_it_was, of)


def _left(host: OwnHost, hosts: OwnHosts, before: set[str], show: Show) -> list[str]:
    """What differs on a host, and has no known cause."""
    after = hosts.listing(host)
    mine = list(traces(before, after))
    show(f"\n{host.name}: {len(before)} things before, {len(after)} after, {len(before ^ after)} differ, ")
    show(f"{len(mine)} of them not by a known cause")
    return mine
