"""After `destroy` every host is what it was: nothing of Calico's in the kernel, nothing of the lab's on disk."""

from lab.cluster import Cluster
from lab.commands import resources, toolchain
from lab.polling import eventually
from labs.droplets.conftest import HOSTS, STACK
from labs.machines.own_hosts import OwnHost, OwnHosts, side_by_side
from labs.machines.traces import traces

# Not on the disk: what is listed below /run is not looked at.
_KEPT = "/run/kept"


def test_every_host_is_what_it_was(cluster: Cluster, hosts: OwnHosts, before: dict[OwnHost, set[str]]) -> None:
    """Interfaces, routes, rules, sets of addresses and files that outlive Calico."""
    held = hosts.bash(HOSTS[1], "ip -o link; ipset list -n; nft list ruleset; ip route show table all proto 80")
    assert all(word in held for word in ("vxlan.calico", "cali40", "cali-FORWARD", "blackhole")), held
    # It goes with the lab; the sets would not.
    hosts.bash(
        HOSTS[1], f"install -d {_KEPT}; cp $(command -v ipset) $(ldd $(command -v ipset) | grep -o '/[^ ]*') {_KEPT}"
    )
    destroy = toolchain("destroy", stack=STACK)
    assert destroy.code == 0, destroy.output
    assert resources(stack=STACK) == []

    def is_as_it_was(host: OwnHost) -> None:
        # The kernel and systemd remove unused objects some time later.
        eventually(
            f"{host.name} as it was",
            lambda: not list(traces(before[host], hosts.listing(host))),
            seconds=60,
            report=lambda: "\n".join(traces(before[host], hosts.listing(host))),
        )

    side_by_side(is_as_it_was, HOSTS)
    sets = hosts.bash(HOSTS[1], f"LD_LIBRARY_PATH={_KEPT} {_KEPT}/ipset list -n")
    assert not sets.strip(), sets
