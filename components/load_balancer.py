"""The load balancer: the one address that workers and people know the API by.

Made on its machine: HAProxy, in front of every API server (port 6443, TLS passes through untouched) and of the
controllers' /healthz (port 80, where it also tells of itself).

Source: https://docs.haproxy.org/2.6/configuration.html
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from string import Template

import pulumi

from components.control_plane import API_PORT
from components.machine import Machine
from components.step import File, Step, StepArgs, Unit
from config.machines import MachineSpec

MONITOR = "/balancer"
"""The path, on port 80, at which HAProxy itself says that it is well."""
_TEMPLATE = Path(__file__).parents[1] / "config" / "templates" / "haproxy.cfg"
_CONFIGURATION = "/etc/haproxy/haproxy.cfg"


@dataclass(frozen=True, kw_only=True)
class LoadBalancerArgs:
    """Args:
    machine: where HAProxy runs.
    controllers: the backends.
    authority: the certificate (PEM) that the API servers' certificates are checked against.
    """

    machine: Machine
    controllers: Sequence[MachineSpec]
    authority: pulumi.Input[str]


class LoadBalancer(pulumi.ComponentResource):
    """HAProxy in front of the control plane."""

    def __init__(self, name: str, args: LoadBalancerArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("hardway:index:LoadBalancer", name, None, opts)
        files = [
            File(path="/etc/haproxy/kubernetes-ca.crt", content=args.authority),
            File(path=_CONFIGURATION, content=haproxy_configuration(args.controllers)),
        ]
        Step(
            name,
            StepArgs(
                machine=args.machine,
                name="load-balancer",
                files=files,
                units=[
                    Unit(
                        name="haproxy.service",
                        # Another controller must not cut the connections to those that are there.
                        reloads_on=[file.path for file in files],
                        valid=f"haproxy -c -f {_CONFIGURATION}",
                        ready=f"(exec 3<>/dev/tcp/127.0.0.1/{API_PORT})",
                        ready_means=f"listening on port {API_PORT}",
                    )
                ],
            ),
            pulumi.ResourceOptions(parent=self),
        )
        self.register_outputs({})


def haproxy_configuration(controllers: Sequence[MachineSpec]) -> str:
    """haproxy.cfg for these backends."""

    def servers(port: int) -> str:
        return "\n".join(f"    server {machine.name} {machine.address}:{port}" for machine in controllers)

    return Template(_TEMPLATE.read_text()).substitute(
        port=API_PORT, monitor=MONITOR, api_servers=servers(API_PORT), health_servers=servers(80)
    )
