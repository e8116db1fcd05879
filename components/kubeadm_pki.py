"""The keys of a lab that kubeadm makes: the CAs it is given, the administrator's certificate, the join token.

kubeadm issues all other certificates itself, on the controllers, from the CAs' keys; with CAs of its own it is given
none. In its external CA mode it is given all certificates, and no key of a CA (kubeadm_external.py).

Source: https://kubernetes.io/docs/tasks/administer-cluster/kubeadm/kubeadm-certs/#custom-certificates
"""

import base64
import hashlib
from dataclasses import dataclass, field

import pulumi
import pulumi_tls as tls

from components.component import Component
from components.kubeadm_external import ExternalArgs, ExternalCertificates
from components.pki import (
    CLIENT,
    CalicoIdentities,
    Certificate,
    CertificateAuthority,
    KeyPair,
    authorities,
    certificate_rows,
    self_signed,
    service_account_keys,
)
from config.calico import CalicoSettings
from config.rotations import Rotations
from config.settings import PkiSettings


@dataclass(frozen=True, kw_only=True)
class KubeadmPkiArgs:
    """Args:
    settings: algorithm and validity.
    creates_cas: whether the stack makes them, and not kubeadm.
    external: what the stack issues in kubeadm's external CA mode; else None.
    rotations: of the keys, in the external CA mode.
    terminated_domain: the domain whose TLS ends at the load balancers, where it does.
    calico: Calico's settings, where it is the pod network.
    """

    settings: PkiSettings
    creates_cas: bool
    external: ExternalArgs | None = None
    rotations: Rotations = field(default_factory=Rotations)
    terminated_domain: str | None
    calico: CalicoSettings | None


@dataclass(frozen=True, kw_only=True)
class CertificateAuthorities:
    """What kubeadm finds in /etc/kubernetes/pki.

    Args:
        kubernetes, etcd, front_proxy: the CAs.
        service_accounts: the key that signs service account tokens, and the public keys that verify them.
        admin: the administrator, for the program's output.
        issued: the certificates and kubeconfigs of each machine, in the external CA mode; else None. With them no
            machine gets the key of a CA.
        rotations: of these keys.
    """

    kubernetes: CertificateAuthority
    etcd: CertificateAuthority
    front_proxy: CertificateAuthority
    service_accounts: KeyPair
    admin: Certificate
    issued: ExternalCertificates | None = None
    rotations: Rotations = field(default_factory=Rotations)


class KubeadmPki(Component):
    """What kubeadm is given.

    Attributes:
        cas: None where kubeadm makes its own.
        calico: who Calico is, where it is the pod network; else None.
        load_balancer: the self-signed certificate of the lab's domain, where TLS is terminated; else None.
        join_token: id and secret of the token that machines join with (secret). It is one while machines join: the API
            knows it for minutes, and for as long as one is missing.
    """

    def __init__(self, name: str, args: KubeadmPkiArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("KubeadmPki", name, opts)
        self.cas = self._cas(name, args) if args.creates_cas else None
        self.calico = (
            CalicoIdentities.issue(name, args.calico, self.cas.kubernetes, self.cas.etcd)
            if args.calico and self.cas
            else None
        )
        domain = args.terminated_domain
        self.load_balancer = (
            self_signed(
                f"{name}-load-balancer",
                domain,
                args.settings,
                self.child(),
                leaves=args.rotations["leaves"].active,
            )
            if domain is not None
            else None
        )
        # 32 bytes straight from the system's random source, as the key of the encryption at rest (encryption.py).
        seed = tls.PrivateKey(f"{name}-join-token", algorithm="ED25519", opts=self.child())
        self.join_token = seed.private_key_pem.apply(join_token)
        self.register_outputs({})

    def _cas(self, name: str, args: KubeadmPkiArgs) -> CertificateAuthorities:
        kubernetes, etcd, front_proxy = authorities(name, args.settings, self.child(), args.rotations)
        return CertificateAuthorities(
            kubernetes=kubernetes,
            etcd=etcd,
            front_proxy=front_proxy,
            service_accounts=service_account_keys(
                f"{name}-service-accounts", args.settings, self.child(), rotation=args.rotations["service-accounts"]
            ),
            admin=kubernetes.issue(f"{name}-admin", common_name="admin", organization="system:masters", uses=CLIENT),
            issued=ExternalCertificates(name, args.external, kubernetes, etcd, front_proxy) if args.external else None,
            rotations=args.rotations,
        )

    def certificates(self) -> pulumi.Output[list[dict[str, str]]]:
        """Name, subject and end (RFC 3339) of every certificate that the stack made."""
        found = self.cas
        return certificate_rows(
            [found.kubernetes, found.etcd, found.front_proxy] if found else [],
            [
                *([found.admin] if found else []),
                *(found.issued.all if found and found.issued else []),
                *(self.calico.certificates if self.calico else []),
                *([self.load_balancer] if self.load_balancer else []),
            ],
        )


def join_token(seed: str) -> str:
    """A bootstrap token, `[a-z0-9]{6}.[a-z0-9]{16}`, made of a random key.

    Source: https://kubernetes.io/docs/reference/access-authn-authz/bootstrap-tokens/#token-format
    """
    digest = hashlib.sha512(f"join token\n{seed}".encode()).digest()
    letters = base64.b32encode(digest).decode().lower()
    return f"{letters[:6]}.{letters[6:22]}"
