"""The load balancer: the one address that workers and people know the API by.

Made on its machine: HAProxy, in front of every API server (port 6443, TLS passes through untouched) and of the
controllers' /healthz (port 80, where it has a health page, too). Where it is to terminate TLS, it also answers at the
lab's domain on port 443: clients' certificates do not pass there, tokens do.

Source: https://docs.haproxy.org/2.6/configuration.html
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from string import Template

import pulumi

from components.component import Component
from components.machine import Machine
from components.pki import KeyPair
from components.step import File, Step, StepArgs, Unit
from components.tls_settings import CIPHERS
from config.machines import MachineSpec
from config.ports import API_PORT

MONITOR = "/balancer"
"""The path, on port 80, at which HAProxy reports its own health."""
HTTPS_PORT = 443
_TEMPLATES = Path(__file__).parents[1] / "config" / "templates"
_CONFIGURATION = "/etc/haproxy/haproxy.cfg"
_CERTIFICATE = "/etc/haproxy/domain.pem"
_CA_CERTIFICATE = "/etc/haproxy/kubernetes-ca.crt"
# The API servers answer for more than their health.
_ONLY_HEALTH = "\n    http-request deny deny_status 404 unless { path /healthz }"


@dataclass(frozen=True, kw_only=True)
class LoadBalancerArgs:
    """Args:
    machine: where HAProxy runs.
    controllers: the backends.
    ca_certificate: the CA certificate (PEM) that verifies the API servers; None if it does not
        exist yet. TLS passes through HAProxy, so clients verify the servers in both cases.
    certificate: of the lab's domain, with its key, where TLS is terminated.
    health_proxies: whether the controllers answer for their health over plain HTTP; else their API servers are asked.
    """

    machine: Machine
    controllers: Sequence[MachineSpec]
    ca_certificate: pulumi.Input[str] | None
    certificate: KeyPair | None = None
    health_proxies: bool = True


class LoadBalancer(Component):
    """HAProxy in front of the control plane."""

    def __init__(self, name: str, args: LoadBalancerArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("LoadBalancer", name, opts)
        files = [
            *([File(path=_CA_CERTIFICATE, content=args.ca_certificate)] if args.ca_certificate is not None else []),
            File(
                path=_CONFIGURATION,
                content=haproxy_configuration(
                    args.controllers,
                    terminates=args.certificate is not None,
                    verifies=args.ca_certificate is not None,
                    health_proxies=args.health_proxies,
                    timeout_factor=args.machine.timeout_factor,
                ),
            ),
        ]
        if args.certificate is not None:
            both = pulumi.Output.format("{0}{1}", args.certificate.public, args.certificate.private_key)
            files.append(File(path=_CERTIFICATE, content=both, mode="0600", secret=True))
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
            self.child(),
        )
        self.register_outputs({})


def haproxy_configuration(
    controllers: Sequence[MachineSpec],
    *,
    terminates: bool = False,
    verifies: bool = True,
    health_proxies: bool = True,
    timeout_factor: int = 1,
) -> str:
    """haproxy.cfg for these backends; `terminates` adds the way in whose TLS ends here.

    How long an API server may take to answer a check grows with `timeout_factor`, not how long a machine may.
    """
    verification = f"verify required ca-file {_CA_CERTIFICATE} verifyhost kubernetes" if verifies else "verify none"

    def servers(port: int) -> str:
        return "\n".join(f"    server {machine.name} {machine.address}:{port}" for machine in controllers)

    text = _template("haproxy.cfg").substitute(
        ciphers=CIPHERS,
        port=API_PORT,
        monitor=MONITOR,
        verification=verification,
        check_seconds=3 * timeout_factor,
        api_servers=servers(API_PORT),
        only_health="" if health_proxies else _ONLY_HEALTH,
        health_tls="" if health_proxies else f" ssl {verification}",
        health_servers=servers(80 if health_proxies else API_PORT),
    )
    if terminates:
        text += _template("haproxy-terminate.cfg").substitute(
            port=HTTPS_PORT, certificate=_CERTIFICATE, api_servers=servers(API_PORT)
        )
    return text


def _template(name: str) -> Template:
    return Template((_TEMPLATES / name).read_text())
