"""The lab's keys and certificates: three CAs, and a certificate for each client and server.

Made: the CAs kubernetes, etcd and front-proxy; the certificates in `Pki`; a key pair that signs service
account tokens.

Source: https://kubernetes.io/docs/setup/best-practices/certificates/
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import pulumi
import pulumi_tls as tls

from components.component import Component
from config.calico import CalicoSettings
from config.machines import MachineSpec
from config.rotations import NEVER, Rotation, Rotations
from config.settings import PkiSettings

CLIENT = ("client_auth",)
SERVER = ("server_auth",)
BOTH = ("client_auth", "server_auth")
_LOCALHOST = "127.0.0.1"


@dataclass(frozen=True, kw_only=True)
class KeyPair:
    """A private key (PEM, secret) and what belongs to it (PEM): a certificate, or the bare public key."""

    private_key: pulumi.Output[str]
    public: pulumi.Output[str]


@dataclass(frozen=True, kw_only=True)
class Certificate(KeyPair):
    """A signed certificate with its key."""

    name: str
    subject: str
    not_after: pulumi.Output[str]


@dataclass(frozen=True, kw_only=True)
class PkiArgs:
    """Args:
    settings: algorithm and validity.
    controllers, workers, etcd_members, load_balancers: the machines that need certificates or stand in them.
    api_address: where the API is reached: the load balancer's, or the one that two of them share.
    domain: a name of the API's.
    terminates: whether the load balancers need a certificate of that name.
    calico: whether Calico needs certificates, and for which datastore.
    api_service: the first service address.
    cluster_domain: the DNS domain of the cluster.
    rotations: how far those of the keys are.
    """

    settings: PkiSettings
    controllers: Sequence[MachineSpec]
    workers: Sequence[MachineSpec]
    etcd_members: Sequence[MachineSpec]
    load_balancers: Sequence[MachineSpec]
    api_address: pulumi.Input[str]
    domain: str | None
    terminates: bool
    calico: CalicoSettings | None
    api_service: str
    cluster_domain: str
    rotations: Rotations = field(default_factory=Rotations)


class CertificateAuthority:
    """A self-signed CA, which issues certificates. While it is rotated, a second one is trusted beside it.

    Attributes:
        key: of the CA that issues, PEM, secret.
        issuing_certificate: of the same.
        certificate: of all that are trusted, PEM; the one that issues first.
        is_rotating: whether these are two.
        not_before: when the newest begins to be valid.
        not_after: when the one that issues ends.
    """

    def __init__(
        self,
        name: str,
        common_name: str,
        settings: PkiSettings,
        opts: pulumi.ResourceOptions,
        *,
        rotation: Rotation = NEVER,
        leaves: int = 0,
    ) -> None:
        """Make a CA.

        Args:
            name: of its resources.
            common_name: its CN.
            settings: algorithm and validity.
            opts: of its resources.
            rotation: of its key.
            leaves: how often the keys of all leaves were rotated.
        """
        self._name = name
        self._settings = settings
        self._opts = opts
        # With another CA its leaves get other keys, too.
        self._leaves = leaves + rotation.active
        made = {number: self._made(rotated(name, number), common_name) for number in rotation.generations}
        self.subject = f"CN={common_name}"
        self.key, issuing = made[rotation.active]
        self.issuing_certificate = issuing.cert_pem
        self.certificate = bundle([certificate.cert_pem for _, certificate in made.values()])
        self.is_rotating = len(made) > 1
        self.not_before = made[rotation.count][1].validity_start_time
        self.not_after = issuing.validity_end_time

    def _made(self, name: str, common_name: str) -> tuple[pulumi.Output[str], tls.SelfSignedCert]:
        key = private_key(name, self._settings.algorithm, self._opts)
        certificate = tls.SelfSignedCert(
            name,
            private_key_pem=key.private_key_pem,
            is_ca_certificate=True,
            set_subject_key_id=True,
            subject=tls.SelfSignedCertSubjectArgs(
                common_name=common_name,
                organization="Kubernetes The Hard Way",
                **self._settings.subject.model_dump(exclude_none=True),
            ),
            allowed_uses=["cert_signing", "crl_signing", "digital_signature"],
            validity_period_hours=self._settings.ca_validity_hours,
            early_renewal_hours=min(self._settings.early_renewal_hours, self._settings.ca_validity_hours - 1),
            opts=self._opts,
        )
        return key.private_key_pem, certificate

    def issue(
        self,
        name: str,
        *,
        common_name: str,
        organization: str | None = None,
        uses: Sequence[str],
        dns_names: Sequence[str] = (),
        ip_addresses: Sequence[pulumi.Input[str]] = (),
    ) -> Certificate:
        """A certificate of this CA, with a key of its own."""
        key = private_key(rotated(name, self._leaves), self._settings.algorithm, self._opts)
        request = tls.CertRequest(
            name,
            private_key_pem=key.private_key_pem,
            subject=tls.CertRequestSubjectArgs(
                common_name=common_name,
                organization=organization,
                **self._settings.subject.model_dump(exclude_none=True),
            ),
            dns_names=list(dns_names) or None,
            ip_addresses=list(ip_addresses) or None,
            opts=self._opts,
        )
        signed = tls.LocallySignedCert(
            name,
            cert_request_pem=request.cert_request_pem,
            ca_private_key_pem=self.key,
            ca_cert_pem=self.issuing_certificate,
            allowed_uses=["digital_signature", "key_encipherment", *uses],
            set_subject_key_id=True,
            validity_period_hours=self._settings.validity_hours,
            early_renewal_hours=self._settings.early_renewal_hours,
            opts=self._opts,
        )
        return Certificate(
            name=name,
            subject=f"CN={common_name}" + (f",O={organization}" if organization else ""),
            private_key=key.private_key_pem,
            public=signed.cert_pem,
            not_after=signed.validity_end_time,
        )


@dataclass(frozen=True, kw_only=True)
class CalicoIdentities:
    """Calico's client certificates, and the CAs that it trusts.

    Args:
        ca_certificate, etcd_ca_certificate: certificates (PEM) of the API's CA and of etcd's.
        plugin: the CNI plugin towards the API.
        etcd_client: Calico towards etcd, where that is its datastore; else None.
    """

    ca_certificate: pulumi.Output[str]
    etcd_ca_certificate: pulumi.Output[str]
    plugin: Certificate
    etcd_client: Certificate | None

    @classmethod
    def issue(
        cls, name: str, settings: CalicoSettings, kubernetes: CertificateAuthority, etcd: CertificateAuthority
    ) -> "CalicoIdentities":
        """The certificates that Calico's datastore asks for; `name` is the PKI's."""
        in_etcd = settings.datastore == "etcd"
        return cls(
            ca_certificate=kubernetes.certificate,
            etcd_ca_certificate=etcd.certificate,
            plugin=kubernetes.issue(f"{name}-calico-cni", common_name="calico-cni", uses=CLIENT),
            etcd_client=etcd.issue(f"{name}-calico-etcd-client", common_name="calico-etcd-client", uses=CLIENT)
            if in_etcd
            else None,
        )

    @property
    def certificates(self) -> list[Certificate]:
        """All that were issued."""
        return [self.plugin, *([self.etcd_client] if self.etcd_client else [])]


class Pki(Component):
    """All CAs and certificates of a lab; the table of them stands in docs/architecture.md.

    Attributes:
        kubernetes, etcd, front_proxy: the CAs.
        admin, kube_proxy, kube_scheduler, kube_controller_manager, kube_apiserver, apiserver_kubelet_client,
        apiserver_etcd_client, front_proxy_client: one certificate each.
        kubelets, etcd_members: machine name -> certificate.
        calico: who Calico is, where it is the pod network; else None.
        load_balancer: the self-signed one of the lab's domain, where TLS is terminated; else None.
        service_accounts: the key that signs service account tokens, and the public keys that verify them.
        etcd_keys: how far the rotations of the keys are that etcd and its clients have.
    """

    def __init__(self, name: str, args: PkiArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("Pki", name, opts)
        leaves = args.rotations["leaves"].active
        self.etcd_keys = ", ".join(f"{subject} {args.rotations[subject]}" for subject in ("etcd-ca", "leaves"))
        self.kubernetes, self.etcd, self.front_proxy = authorities(name, args.settings, self.child(), args.rotations)

        self.admin = self.kubernetes.issue(
            f"{name}-admin", common_name="admin", organization="system:masters", uses=CLIENT
        )
        self.kube_proxy = self.kubernetes.issue(
            f"{name}-kube-proxy",
            common_name="system:kube-proxy",
            organization="system:node-proxier",
            uses=CLIENT,
        )
        self.kube_scheduler, self.kube_controller_manager = (
            # They serve /healthz and metrics on localhost with it, too.
            self.kubernetes.issue(
                f"{name}-{program}",
                common_name=f"system:{program}",
                organization=f"system:{program}",
                uses=BOTH,
                ip_addresses=[_LOCALHOST],
            )
            for program in ("kube-scheduler", "kube-controller-manager")
        )
        self.kubelets: Mapping[str, Certificate] = {
            worker.name: self.kubernetes.issue(
                f"{name}-kubelet-{worker.name}",
                # The Node authorizer knows a kubelet by exactly this name and group.
                common_name=f"system:node:{worker.name}",
                organization="system:nodes",
                uses=BOTH,
                dns_names=[worker.name, worker.fqdn],
                ip_addresses=[str(worker.address), _LOCALHOST],
            )
            for worker in args.workers
        }
        balancers = [str(balancer.address) for balancer in args.load_balancers]
        self.kube_apiserver = self.kubernetes.issue(
            f"{name}-kube-apiserver",
            common_name="kubernetes",
            uses=SERVER,
            dns_names=[
                "kubernetes",
                "kubernetes.default",
                "kubernetes.default.svc",
                f"kubernetes.default.svc.{args.cluster_domain}",
                "localhost",
                *(machine.fqdn for machine in (*args.controllers, *args.load_balancers)),
                *(machine.name for machine in (*args.controllers, *args.load_balancers)),
                *([args.domain] if args.domain else []),
            ],
            ip_addresses=[
                _LOCALHOST,
                args.api_service,
                *(str(controller.address) for controller in args.controllers),
                *balancers,
                # Where no machine has it: two balancers share it, or it is a cloud's.
                *([args.api_address] if args.api_address not in balancers else []),
            ],
        )
        # RBAC grants its permissions (see control_plane.py), not membership in system:masters.
        self.apiserver_kubelet_client = self.kubernetes.issue(
            f"{name}-apiserver-kubelet-client", common_name="kube-apiserver-kubelet-client", uses=CLIENT
        )
        self.apiserver_etcd_client = self.etcd.issue(
            f"{name}-apiserver-etcd-client", common_name="kube-apiserver-etcd-client", uses=CLIENT
        )
        self.etcd_members: Mapping[str, Certificate] = {
            member.name: self.etcd.issue(
                f"{name}-etcd-{member.name}",
                common_name=member.name,
                uses=BOTH,
                dns_names=[member.name, "localhost"],
                ip_addresses=[str(member.address), _LOCALHOST],
            )
            for member in args.etcd_members
        }
        self.front_proxy_client = self.front_proxy.issue(
            f"{name}-front-proxy-client", common_name="front-proxy-client", uses=CLIENT
        )
        self.calico = CalicoIdentities.issue(name, args.calico, self.kubernetes, self.etcd) if args.calico else None
        self.load_balancer = (
            self_signed(f"{name}-load-balancer", args.domain, args.settings, self.child(), leaves=leaves)
            if args.terminates and args.domain
            else None
        )
        self.service_accounts = service_account_keys(
            f"{name}-service-accounts", args.settings, self.child(), rotation=args.rotations["service-accounts"]
        )
        self.register_outputs({})

    def certificates(self) -> pulumi.Output[list[dict[str, str]]]:
        """Name, subject and end (RFC 3339) of every certificate."""
        cas = [self.kubernetes, self.etcd, self.front_proxy]
        leaves = [
            self.admin,
            self.kube_proxy,
            self.kube_scheduler,
            self.kube_controller_manager,
            *self.kubelets.values(),
            self.kube_apiserver,
            self.apiserver_kubelet_client,
            self.apiserver_etcd_client,
            *self.etcd_members.values(),
            self.front_proxy_client,
            *(self.calico.certificates if self.calico else []),
            *([self.load_balancer] if self.load_balancer else []),
        ]
        return certificate_rows(cas, leaves)


def certificate_rows(
    cas: Sequence[CertificateAuthority], leaves: Sequence[Certificate]
) -> pulumi.Output[list[dict[str, str]]]:
    """Name, subject and end (RFC 3339) of these certificates."""
    rows: list[pulumi.Input[dict[str, str]]] = [
        *(
            pulumi.Output.all(name=ca.subject.removeprefix("CN="), subject=ca.subject, not_after=ca.not_after)
            for ca in cas
        ),
        *(pulumi.Output.all(name=leaf.name, subject=leaf.subject, not_after=leaf.not_after) for leaf in leaves),
    ]
    return pulumi.Output.all(*rows).apply(list)


def rotated(name: str, number: int) -> str:
    """The name of a key's resource after so many rotations: another resource is another key."""
    return f"{name}-rotated-{number}" if number else name


def bundle(blocks: Sequence[pulumi.Output[str]]) -> pulumi.Output[str]:
    """PEM blocks one after the other; one as it is."""
    if len(blocks) == 1:
        return blocks[0]
    return pulumi.Output.all(*blocks).apply(lambda known: "".join(f"{each.rstrip()}\n" for each in known))


def authorities(
    name: str, settings: PkiSettings, opts: pulumi.ResourceOptions, rotations: Rotations
) -> tuple[CertificateAuthority, CertificateAuthority, CertificateAuthority]:
    """The CAs of the API, of etcd and of the front proxy."""

    def made(common_name: str, subject: str) -> CertificateAuthority:
        return CertificateAuthority(
            f"{name}-{common_name}",
            common_name,
            settings,
            opts,
            rotation=rotations[subject],
            leaves=rotations["leaves"].active,
        )

    return made("kubernetes-ca", "ca"), made("etcd-ca", "etcd-ca"), made("front-proxy-ca", "front-proxy-ca")


def service_account_keys(
    name: str, settings: PkiSettings, opts: pulumi.ResourceOptions, *, rotation: Rotation
) -> KeyPair:
    """The key that signs service account tokens, and the public keys that verify them."""
    pairs = [private_key(rotated(name, number), settings.algorithm, opts) for number in rotation.generations]
    # The first signs; the API server verifies with each key of the file.
    return KeyPair(private_key=pairs[0].private_key_pem, public=bundle([pair.public_key_pem for pair in pairs]))


def self_signed(
    name: str, domain: str, settings: PkiSettings, opts: pulumi.ResourceOptions, *, leaves: int = 0
) -> Certificate:
    """A self-signed server certificate: clients must trust the certificate itself."""
    key = private_key(rotated(name, leaves), settings.algorithm, opts)
    certificate = tls.SelfSignedCert(
        name,
        private_key_pem=key.private_key_pem,
        subject=tls.SelfSignedCertSubjectArgs(common_name=domain, **settings.subject.model_dump(exclude_none=True)),
        dns_names=[domain],
        allowed_uses=["digital_signature", "key_encipherment", *SERVER],
        set_subject_key_id=True,
        validity_period_hours=settings.validity_hours,
        early_renewal_hours=settings.early_renewal_hours,
        opts=opts,
    )
    return Certificate(
        name=name,
        subject=f"CN={domain}",
        private_key=key.private_key_pem,
        public=certificate.cert_pem,
        not_after=certificate.validity_end_time,
    )


def private_key(name: str, algorithm: str, opts: pulumi.ResourceOptions) -> tls.PrivateKey:
    """A private key of an algorithm as `PkiSettings` names it: ECDSA with its curve, or RSA with its bits."""
    kind, _, size = algorithm.partition("-")
    if kind == "RSA":
        return tls.PrivateKey(name, algorithm="RSA", rsa_bits=int(size), opts=opts)
    # The provider's own default would be P224.
    return tls.PrivateKey(name, algorithm="ECDSA", ecdsa_curve=size, opts=opts)
