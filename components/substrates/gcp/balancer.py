"""Google's load balancer before the API servers: TCP on port 6443 passes through it untouched.

Made, in one of two forms: `regional`, a backend service that asks each API server for /readyz by HTTPS, or `classic`, a
target pool that asks nginx on the controllers for /healthz by HTTP. Both let Google's health checkers in. HTTPS works
without a client certificate: anonymous clients may ask the API servers for their health (control_plane.py), and Google
looks at the answer, not at who has signed the server's certificate.

Sources: https://cloud.google.com/load-balancing/docs/network/networklb-backend-service,
https://cloud.google.com/load-balancing/docs/network/networklb-target-pools and
https://cloud.google.com/load-balancing/docs/health-check-concepts
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pulumi
from pulumi_gcp import compute

from config.lab import Lab
from config.machines import MachineSpec, Role
from config.ports import API_PORT

# From where Google asks whether a backend of a passthrough load balancer is healthy.
_HEALTH_CHECKERS = ("35.191.0.0/16", "209.85.152.0/22", "209.85.204.0/22")
_HEALTH_PORT = {"regional": API_PORT, "classic": 80}
# Seconds, and how many answers in a row: an API server that is gone gets no new connections after 6 s.
_INTERVAL, _TIMEOUT, _IN_A_ROW = 2, 2, 3


@dataclass(frozen=True, kw_only=True)
class GcpBalancerArgs:
    """Args:
    lab: whose API it is.
    prefix: what the names of all resources begin with.
    labels: of the forwarding rule.
    description: of what has no labels.
    network: the lab's network.
    address: where the API is to be reached.
    controllers: the backends, and the instances that they are.
    callers: the external addresses of all machines.
    """

    lab: Lab
    prefix: str
    labels: Mapping[str, pulumi.Input[str]]
    description: pulumi.Input[str]
    network: compute.Network
    address: compute.Address
    controllers: Sequence[tuple[MachineSpec, compute.Instance]]
    callers: Sequence[pulumi.Input[str]]


def described(opts: pulumi.ResourceOptions) -> pulumi.ResourceOptions:
    """For what says in its description whose it is: of most kinds another description would be another resource.

    So those of labs that run stay as they are; the state that has made them knows them.
    """
    return pulumi.ResourceOptions.merge(opts, pulumi.ResourceOptions(ignore_changes=["description"]))


class GcpBalancer(pulumi.ComponentResource):
    """A forwarding rule before the API servers, and what it forwards to."""

    def __init__(self, name: str, args: GcpBalancerArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("hardway:index:GcpBalancer", name, None, opts)
        self._name, self._args, self._region = name, args, args.lab.settings.gcp.region
        form = args.lab.settings.gcp.load_balancing
        self._firewall("health", _HEALTH_PORT[form], _HEALTH_CHECKERS)
        self._firewall("api", API_PORT, [pulumi.Output.format("{0}/32", caller) for caller in args.callers])
        if form == "classic":
            pool = self._pool()
            self._forwarding_rule(target=pool.self_link)
        else:
            service = self._backend_service()
            self._forwarding_rule(backend_service=service.id)
        self.register_outputs({})

    def _after(self, *resources: pulumi.Resource) -> pulumi.ResourceOptions:
        # Names are fixed: the old one has it until it is gone.
        return pulumi.ResourceOptions(parent=self, depends_on=list(resources), delete_before_replace=True)

    def _firewall(self, what: str, port: int, sources: Sequence[pulumi.Input[str]]) -> None:
        compute.Firewall(
            f"{self._name}-{what}",
            name=f"{self._args.prefix}-{what}",
            network=self._args.network.id,
            allows=[compute.FirewallAllowArgs(protocol="tcp", ports=[str(port)])],
            source_ranges=list(sources),
            target_tags=[Role.CONTROLLER.value],
            description=self._args.description,
            opts=described(self._after()),
        )

    def _forwarding_rule(
        self, *, target: pulumi.Input[str] | None = None, backend_service: pulumi.Input[str] | None = None
    ) -> None:
        compute.ForwardingRule(
            f"{self._name}-rule",
            name=f"{self._args.prefix}-api",
            region=self._region,
            load_balancing_scheme="EXTERNAL",
            ip_address=self._args.address.address,
            ip_protocol="TCP",
            port_range=str(API_PORT),
            target=target,
            backend_service=backend_service,
            labels=self._args.labels,
            opts=self._after(),
        )

    def _pool(self) -> compute.TargetPool:
        check = compute.HttpHealthCheck(
            f"{self._name}-check",
            name=f"{self._args.prefix}-api",
            port=_HEALTH_PORT["classic"],
            request_path="/healthz",
            check_interval_sec=_INTERVAL,
            timeout_sec=_TIMEOUT,
            healthy_threshold=1,
            unhealthy_threshold=_IN_A_ROW,
            description=self._args.description,
            opts=described(self._after()),
        )
        settings = self._args.lab.settings.gcp
        return compute.TargetPool(
            f"{self._name}-pool",
            name=f"{self._args.prefix}-api",
            region=self._region,
            health_checks=check.id,
            # By name: an instance that is recreated is in the pool again.
            instances=[
                f"{settings.zone_of(spec.address)}/{self._args.prefix}-{spec.name}"
                for spec, _ in self._args.controllers
            ],
            description=self._args.description,
            opts=described(self._after(*(instance for _, instance in self._args.controllers))),
        )

    def _backend_service(self) -> compute.RegionBackendService:
        check = compute.RegionHealthCheck(
            f"{self._name}-check",
            name=f"{self._args.prefix}-api",
            region=self._region,
            https_health_check=compute.RegionHealthCheckHttpsHealthCheckArgs(
                port=_HEALTH_PORT["regional"], request_path="/readyz"
            ),
            check_interval_sec=_INTERVAL,
            timeout_sec=_TIMEOUT,
            healthy_threshold=1,
            unhealthy_threshold=_IN_A_ROW,
            description=self._args.description,
            opts=described(self._after()),
        )
        zone_of = {spec: self._args.lab.settings.gcp.zone_of(spec.address) for spec, _ in self._args.controllers}
        groups = {
            zone: compute.InstanceGroup(
                f"{self._name}-{zone}",
                name=f"{self._args.prefix}-{zone}",
                zone=zone,
                network=self._args.network.id,
                description=self._args.description,
                opts=described(self._after()),
            )
            for zone in sorted(set(zone_of.values()))
        }
        members = [
            # One by one: an instance that goes leaves its group, and is put into it when it is recreated.
            compute.InstanceGroupMembership(
                f"{self._name}-{spec.name}",
                zone=zone_of[spec],
                instance_group=groups[zone_of[spec]].name,
                instance=instance.self_link,
                opts=self._after(),
            )
            for spec, instance in self._args.controllers
        ]
        return compute.RegionBackendService(
            f"{self._name}-service",
            name=f"{self._args.prefix}-api",
            region=self._region,
            load_balancing_scheme="EXTERNAL",
            protocol="TCP",
            health_checks=check.id,
            backends=[
                compute.RegionBackendServiceBackendArgs(group=group.self_link, balancing_mode="CONNECTION")
                for group in groups.values()
            ],
            description=self._args.description,
            opts=described(self._after(*members)),
        )
