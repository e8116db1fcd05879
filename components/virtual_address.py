"""The address that two load balancers share, so that the API is reached though one of them is lost.

Made on both: keepalived, which speaks VRRP with the other one. The one that has the address answers; where its machine
or its HAProxy fails, the other takes the address over. Connections through the one that failed are cut: clients make
new ones.

Source: https://keepalived.readthedocs.io/en/latest/configuration_synopsis.html, RFC 5798
"""

from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import Path
from string import Template

import pulumi

from components.component import Component
from components.load_balancer import MONITOR
from components.machine import Machine
from components.step import File, Step, StepArgs, Unit
from components.systemd import systemd_unit
from config.machines import MachineSpec

_TEMPLATE = Path(__file__).parents[1] / "config" / "templates" / "keepalived.conf"
_CONFIGURATION = "/etc/keepalived/keepalived.conf"
_HIGHEST_PRIORITY = 101


@dataclass(frozen=True, kw_only=True)
class VirtualAddressArgs:
    """Args:
    balancers: the two that share it; HAProxy runs on them.
    address: what they share; no machine's own.
    """

    balancers: Sequence[Machine]
    address: IPv4Address


class VirtualAddress(Component):
    """keepalived on two load balancers."""

    def __init__(self, name: str, args: VirtualAddressArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("VirtualAddress", name, opts)
        specs = [balancer.spec for balancer in args.balancers]
        for balancer in args.balancers:
            Step(
                f"{name}-{balancer.name}",
                StepArgs(
                    machine=balancer,
                    name="virtual-address",
                    files=[
                        File(
                            path=_CONFIGURATION,
                            content=keepalived_configuration(balancer, specs, args.address),
                        )
                    ],
                    units=[
                        Unit(
                            name="keepalived.service",
                            content=_UNIT,
                            reloads_on=[_CONFIGURATION],
                            valid=config_test(_CONFIGURATION),
                            # By either of the two: the address may be the other's.
                            ready=f"curl -sf -m {balancer.timeout_factor} -o /dev/null http://{args.address}{MONITOR}",
                            ready_means=f"a load balancer answering at {args.address}",
                        )
                    ],
                ),
                self.child(),
            )
        self.register_outputs({})


def config_test(path: str) -> str:
    """The shell command that succeeds if keepalived can read a configuration."""
    # As the first process of a PID namespace: 2.2.7 takes the shell that tests a configuration whose checks have a
    # user of their own for a parent that died, and ends itself.
    return f"unshare --fork --pid keepalived --config-test --use-file={path}"


# Not the package's unit, which is not started again after a crash.
_UNIT = systemd_unit(
    description="The address that two load balancers share",
    documentation="man:keepalived(8) man:keepalived.conf(5)",
    # --vrrp: without the kernel's own load balancer, which is not used here.
    program=f"/usr/sbin/keepalived --dont-fork --vrrp --use-file={_CONFIGURATION}",
    after=("network-online.target", "haproxy.service"),
    service={
        "Type": "notify",
        "ExecReload": "/bin/kill -HUP $MAINPID",
        # Its first process ends the others in their order: the address is handed over before.
        "KillMode": "mixed",
    },
)


def keepalived_configuration(balancer: Machine, balancers: Sequence[MachineSpec], address: IPv4Address) -> str:
    """keepalived.conf of one of two balancers.

    Args:
        balancer: whose.
        balancers: both, the preferred one first.
        address: what they share.
    """
    (peer,) = (other for other in balancers if other.name != balancer.name)
    return Template(_TEMPLATE.read_text()).substitute(
        name=balancer.name,
        monitor=MONITOR,
        priority=_HIGHEST_PRIORITY - list(balancers).index(balancer.spec),
        interface=balancer.interface,
        # Any number that both have: other senders are ignored.
        router=address.packed[-1],
        address=balancer.address,
        peer=peer.address,
        shared=address,
    )
