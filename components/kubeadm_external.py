"""kubeadm's external CA mode: the stack issues every certificate and kubeconfig, and no machine has the key of a CA.

Made for each controller: what `kubeadm init` and `kubeadm join` would issue there, with the names that kubeadm gives;
for each worker the kubelet's kubeconfig, since nobody in the cluster can sign its certificate request, and the CA of
its clients, which `kubeadm join` would write once and never change.

Sources: https://kubernetes.io/docs/tasks/administer-cluster/kubeadm/kubeadm-certs/#external-ca-mode and
https://kubernetes.io/docs/setup/best-practices/certificates/
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from ipaddress import ip_address

import pulumi

from components.kubeconfigs import kubeconfig
from components.pki import BOTH, CLIENT, SERVER, Certificate, CertificateAuthority, KeyPair
from components.step import File
from config.machines import MachineSpec
from config.ports import API_PORT
from config.settings import Network

_KUBERNETES = "/etc/kubernetes"
_PKI = f"{_KUBERNETES}/pki"
KUBELET_KUBECONFIG = f"{_KUBERNETES}/kubelet.conf"
# kubeadm binds it to cluster-admin, by the certificate in super-admin.conf.
_ADMINS = "kubeadm:cluster-admins"


@dataclass(frozen=True, kw_only=True)
class ExternalArgs:
    """Args:
    controllers, workers: the machines.
    endpoint: https://address:6443 of the load balancer.
    domains: further names of the API's.
    network: the address ranges.
    """

    controllers: Sequence[MachineSpec]
    workers: Sequence[MachineSpec]
    endpoint: pulumi.Output[str]
    domains: Sequence[str]
    network: Network


class ExternalCertificates:
    """What each machine is given.

    Attributes:
        all: every certificate that was issued.
        files: machine name -> its files beside the certificates of the CAs.
        kubelets: machine name -> the certificate in its kubelet's kubeconfig.
    """

    def __init__(
        self,
        name: str,
        args: ExternalArgs,
        kubernetes: CertificateAuthority,
        etcd: CertificateAuthority,
        front_proxy: CertificateAuthority,
    ) -> None:
        self._name, self._args = name, args
        self._kubernetes, self._etcd, self._front_proxy = kubernetes, etcd, front_proxy
        self.all: list[Certificate] = []
        self.kubelets: dict[str, Certificate] = {}
        shared = self._shared()
        clients_ca = File(path=f"{_PKI}/ca.crt", content=kubernetes.certificate)
        self.files: Mapping[str, Sequence[File]] = {
            **{each.name: [*shared, *self._controller(each), self._kubelet(each)] for each in args.controllers},
            **{each.name: [self._kubelet(each), clients_ca] for each in args.workers},
        }

    def _shared(self) -> list[File]:
        """What all controllers have: clients that differ in nothing but the machine."""
        clients = [
            *_pair("apiserver-kubelet-client", self._issue("kube-apiserver-kubelet-client", _ADMINS)),
            *_pair("apiserver-etcd-client", self._issue("kube-apiserver-etcd-client", ca=self._etcd)),
            *_pair("etcd/healthcheck-client", self._issue("kube-etcd-healthcheck-client", ca=self._etcd)),
            *_pair("front-proxy-client", self._issue("front-proxy-client", ca=self._front_proxy)),
        ]
        endpoint = self._args.endpoint
        return [
            *clients,
            self._kubeconfig("admin", endpoint, self._issue("kubernetes-admin", _ADMINS)),
            self._kubeconfig("super-admin", endpoint, self._issue("kubernetes-super-admin", "system:masters")),
        ]

    def _controller(self, machine: MachineSpec) -> list[File]:
        network, address = self._args.network, str(machine.address)
        local = f"https://{address}:{API_PORT}"
        host = self._args.endpoint.apply(lambda known: known.removeprefix("https://").rpartition(":")[0])
        server = self._keep(
            self._kubernetes.issue(
                f"{self._name}-apiserver-{machine.name}",
                common_name="kube-apiserver",
                uses=SERVER,
                dns_names=[
                    machine.name,
                    "kubernetes",
                    "kubernetes.default",
                    "kubernetes.default.svc",
                    f"kubernetes.default.svc.{network.cluster_domain}",
                    "localhost",
                    *self._args.domains,
                ],
                ip_addresses=[str(network.api_service), address, "127.0.0.1", host.apply(_address)],
            )
        )
        member = {
            what: self._keep(
                self._etcd.issue(
                    f"{self._name}-etcd-{what}-{machine.name}",
                    common_name=machine.name,
                    uses=BOTH,
                    dns_names=[machine.name, "localhost"],
                    ip_addresses=[address, "127.0.0.1", "::1"],
                )
            )
            for what in ("server", "peer")
        }
        return [
            *_pair("apiserver", server),
            *_pair("etcd/server", member["server"]),
            *_pair("etcd/peer", member["peer"]),
            *(
                self._kubeconfig(program, local, self._issue(f"system:kube-{program}", machine=machine.name))
                for program in ("controller-manager", "scheduler")
            ),
        ]

    def _kubelet(self, machine: MachineSpec) -> File:
        # The Node authorizer knows a kubelet by exactly this name and group.
        certificate = self.kubelets[machine.name] = self._issue(f"system:node:{machine.name}", "system:nodes")
        return self._kubeconfig("kubelet", self._args.endpoint, certificate)

    def _issue(
        self, user: str, group: str | None = None, *, ca: CertificateAuthority | None = None, machine: str = ""
    ) -> Certificate:
        name = "-".join([self._name, user.replace(":", "-"), *([machine] if machine else [])])
        issuer = ca or self._kubernetes
        return self._keep(issuer.issue(name, common_name=user, organization=group, uses=CLIENT))

    def _keep(self, certificate: Certificate) -> Certificate:
        self.all.append(certificate)
        return certificate

    def _kubeconfig(self, name: str, server: pulumi.Input[str], certificate: Certificate) -> File:
        content = kubeconfig(
            cluster="kubernetes",
            server=server,
            ca_certificate=self._kubernetes.certificate,
            user=certificate.subject.partition(",")[0].removeprefix("CN="),
            certificate=certificate,
        )
        return File(path=f"{_KUBERNETES}/{name}.conf", content=content, mode="0600", secret=True)


def _pair(name: str, pair: KeyPair) -> list[File]:
    return [
        File(path=f"{_PKI}/{name}.crt", content=pair.public),
        File(path=f"{_PKI}/{name}.key", content=pair.private_key, mode="0600", secret=True),
    ]


def _address(host: str) -> str:
    """The host of the endpoint, which is an address on every substrate that kubeadm runs on."""
    return str(ip_address(host))
