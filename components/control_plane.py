"""The control plane: API server, controller manager and scheduler on every controller.

Made on each controller: the three programs and kubectl as systemd units with their certificates and configuration in
/etc/kubernetes, the administrator's kubeconfig for root, nginx in front of /healthz on port 80. Made in the API: the
API server's permission to use the kubelets' API.

Sources: https://kubernetes.io/docs/reference/command-line-tools-reference/ and the CIS Kubernetes Benchmark 1.12.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pulumi

from components.component import Component
from components.etcd import Etcd
from components.kubeconfigs import kubeconfig
from components.machine import Machine
from components.manifests import apply_manifests
from components.pki import Certificate, KeyPair, Pki
from components.step import File, Step, StepArgs, Unit, fetch_kubernetes
from components.systemd import Flags, systemd_unit
from components.tls_settings import CIPHER_SUITES, MIN_VERSION
from config import yaml_text
from config.artifacts import ArtifactSource
from config.machine_paths import ADMIN_KUBECONFIG, AUDIT_LOG, AUDIT_LOGS, KUBECTL_CACHE, USE_ETCD
from config.ports import API_PORT
from config.settings import Network

_PKI = "/etc/kubernetes/pki"
_CONFIG = "/etc/kubernetes/config"
_ISSUING_CA = "issuing-ca.crt"
_ADMIN_CONF = "/etc/kubernetes/admin.conf"
AUDIT_POLICY = f"{_CONFIG}/audit-policy.yaml"
AUDIT_FLAGS = {
    "audit-policy-file": AUDIT_POLICY,
    "audit-log-path": AUDIT_LOG,
    "audit-log-maxage": "30",
    "audit-log-maxbackup": "10",
    "audit-log-maxsize": "100",
}
"""Of the API server: what was done, for 30 days, in at most 11 files of 100 MB."""
_LINK_ADMIN = (
    f"own file {ADMIN_KUBECONFIG}\n"
    f'[ "$(readlink {ADMIN_KUBECONFIG})" = {_ADMIN_CONF} ] ||\n  ln -sfn {_ADMIN_CONF} {ADMIN_KUBECONFIG}'
)
_HEALTH_PROXY = Path(__file__).parents[1] / "config" / "templates" / "nginx.conf"
_PROGRAMS = ("kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubectl")
_HEALTH_PATHS = ("/livez", "/readyz", "/healthz")
# How often a program that would lead looks at the lease, which holds for 15 s after the last look that saw it renewed;
# a look is up to 2.2 times this apart from the next. At the default of 2 s the next leader may come after 24 s.
LEASE_RETRY = "1s"
_PAGES = "https://kubernetes.io/docs/reference/command-line-tools-reference"


@dataclass(frozen=True, kw_only=True)
class ControlPlaneArgs:
    """Args:
    controllers: the machines.
    pki: the certificates.
    encryption: the EncryptionConfiguration (YAML, secret).
    etcd: the cluster that it is kept in.
    endpoint: https://address:6443 of the load balancer.
    network: the address ranges.
    cluster: the name kubeconfigs give the cluster.
    artifacts: where the programs come from.
    extra_flags: program -> the user's flags for it.
    """

    controllers: Sequence[Machine]
    pki: Pki
    encryption: pulumi.Output[str]
    etcd: Etcd
    endpoint: pulumi.Input[str]
    network: Network
    cluster: str
    artifacts: ArtifactSource
    extra_flags: Mapping[str, Flags] = field(default_factory=dict)


class ControlPlane(Component):
    """The control plane on all controllers, side by side.

    Attributes:
        started: the steps after which the API servers of a new lab have been started, and those of a running lab serve
            with their new files.
    """

    def __init__(self, name: str, args: ControlPlaneArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("ControlPlane", name, opts)
        self.started: list[pulumi.Resource] = []
        for controller in args.controllers:
            step = self._controller(name, args, controller)
            self.started.append(step)
            # What comes next prepares its machines while the API server starts.
            Step(
                f"{name}-{controller.name}-serving",
                StepArgs(
                    machine=controller,
                    name="control-plane-serving",
                    run=pulumi.Output.format("# {0}\nstart_left control-plane", controller.identity),
                ),
                self.child(step, args.etcd),
            )
        self.register_outputs({})

    def _controller(self, name: str, args: ControlPlaneArgs, controller: Machine) -> Step:
        apiserver = _apiserver_files(args)
        manager = _client_files("kube-controller-manager", args.pki.kube_controller_manager, args)
        # The CA's key: the controller manager signs certificate requests with it.
        manager += [_key("ca.key", args.pki.kubernetes.key)]
        if args.pki.kubernetes.is_rotating:
            # ca.crt has two certificates then, and it must be given the one.
            manager += [_public(_ISSUING_CA, args.pki.kubernetes.issuing_certificate)]
        scheduler = _client_files("kube-scheduler", args.pki.kube_scheduler, args)
        scheduler += [File(path=f"{_CONFIG}/kube-scheduler.yaml", content=scheduler_configuration(), mode="0600")]
        # All three serve TLS, and read the CAs of their clients when they start.
        cas = [file for file in apiserver if file.path in (f"{_PKI}/ca.crt", f"{_PKI}/front-proxy-ca.crt")]
        health = File(path="/etc/nginx/nginx.conf", content=_HEALTH_PROXY.read_text())
        admin = File(
            path=_ADMIN_CONF,
            content=kubeconfig(
                cluster=args.cluster,
                server=args.endpoint,
                ca_certificate=args.pki.kubernetes.certificate,
                user="admin",
                certificate=args.pki.admin,
            ),
            mode="0600",
            secret=True,
        )
        etcd_programs, etcd_client = args.etcd.client_of(
            controller,
            ca_certificate=f"{_PKI}/etcd-ca.crt",
            certificate=f"{_PKI}/apiserver-etcd-client.crt",
            key=f"{_PKI}/apiserver-etcd-client.key",
        )
        restart_member, end_turn = args.etcd.restart_of(controller)
        return Step(
            f"{name}-{controller.name}",
            StepArgs(
                machine=controller,
                name="control-plane",
                prepare=f"data {AUDIT_LOGS} /usr/libexec/kubernetes {KUBECTL_CACHE}\ninstall -d -m 0700 {AUDIT_LOGS}",
                fetches=[*fetch_kubernetes(args.artifacts, controller.arch, *_PROGRAMS), *etcd_programs],
                files=[*apiserver, *manager, *scheduler, health, admin, *etcd_client],
                # Controllers restart one after the other.
                before_start="\n".join(filter(None, [_LINK_ADMIN, USE_ETCD, restart_member])),
                units=[
                    _unit(
                        "kube-apiserver",
                        {**apiserver_flags(controller, args), **args.extra_flags.get("kube-apiserver", {})},
                        apiserver,
                        port=API_PORT,
                        path="/readyz",
                        # It says READY to systemd once it serves; etcd's slow first answers are part of that.
                        service={"Type": "notify", "TimeoutStartSec": 120},
                    ),
                    _unit(
                        "kube-controller-manager",
                        {**controller_manager_flags(args), **args.extra_flags.get("kube-controller-manager", {})},
                        [
                            *manager,
                            *cas,
                            *(file for file in apiserver if file.path.endswith("service-accounts.key")),
                        ],
                        port=10257,
                        path="/healthz",
                        # Without an API server to ask, it would be seconds before they try again to lead.
                        stage=2,
                    ),
                    _unit(
                        "kube-scheduler",
                        {**scheduler_flags(), **args.extra_flags.get("kube-scheduler", {})},
                        [*scheduler, *cas],
                        port=10259,
                        path="/healthz",
                        stage=2,
                    ),
                    Unit(
                        name="nginx.service",
                        restarts_on=[health.path, f"{_PKI}/ca.crt"],
                        ready="curl -sf http://127.0.0.1/healthz",
                        ready_means="/healthz through nginx says ok",
                        stage=2,
                    ),
                ],
                run=end_turn,
                leaves_first_start=True,
            ),
            self.child(),
        )


class KubeletAccess(Component):
    """The RBAC objects of kubelets: the API server may use their API, and they may take turns (worker_turns.sh)."""

    def __init__(self, name: str, controller: Machine, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("KubeletAccess", name, opts)
        apply_manifests(name, controller, [*kubelet_access(), *worker_turns()], self.child())
        self.register_outputs({})


def apiserver_flags(controller: Machine, args: ControlPlaneArgs) -> Flags:
    """The flags of one kube-apiserver.

    Source: https://kubernetes.io/docs/reference/command-line-tools-reference/kube-apiserver/
    """
    issuer = f"https://kubernetes.default.svc.{args.network.cluster_domain}"
    return {
        "advertise-address": controller.address,
        "bind-address": "0.0.0.0",
        "secure-port": API_PORT,
        # kube-proxy and the like need privileged pods; Pod Security decides who may have them.
        "allow-privileged": True,
        "profiling": False,
        # Who is asking
        "client-ca-file": f"{_PKI}/ca.crt",
        "authentication-config": f"{_CONFIG}/authentication.yaml",
        "service-account-issuer": issuer,
        # Pods resolve this name, not the address that the API server would write by itself.
        "service-account-jwks-uri": f"{issuer}/openid/v1/jwks",
        "service-account-key-file": f"{_PKI}/service-accounts.pub",
        "service-account-signing-key-file": f"{_PKI}/service-accounts.key",
        "service-account-extend-token-expiration": False,
        # May they
        "authorization-mode": "Node,RBAC",
        "enable-admission-plugins": "NodeRestriction",
        "admission-control-config-file": f"{_CONFIG}/admission.yaml",
        # What they did
        **AUDIT_FLAGS,
        # Where it is kept
        "etcd-servers": ",".join(args.etcd.endpoints_for(controller)),
        "etcd-cafile": f"{_PKI}/etcd-ca.crt",
        "etcd-certfile": f"{_PKI}/apiserver-etcd-client.crt",
        "etcd-keyfile": f"{_PKI}/apiserver-etcd-client.key",
        "encryption-provider-config": f"{_CONFIG}/encryption.yaml",
        # Services: without the range in-cluster clients do not find the API.
        "service-cluster-ip-range": str(args.network.services),
        "service-node-port-range": "30000-32767",
        # Kubelets
        "kubelet-certificate-authority": f"{_PKI}/ca.crt",
        "kubelet-client-certificate": f"{_PKI}/apiserver-kubelet-client.crt",
        "kubelet-client-key": f"{_PKI}/apiserver-kubelet-client.key",
        # Addresses first: a node's name is known to the lab's host tables only.
        "kubelet-preferred-address-types": "InternalIP,Hostname",
        # Aggregated APIs accept the identity headers of a request only from this client certificate
        "requestheader-client-ca-file": f"{_PKI}/front-proxy-ca.crt",
        "requestheader-allowed-names": "front-proxy-client",
        "requestheader-username-headers": "X-Remote-User",
        "requestheader-group-headers": "X-Remote-Group",
        "requestheader-extra-headers-prefix": "X-Remote-Extra-",
        "proxy-client-cert-file": f"{_PKI}/front-proxy-client.crt",
        "proxy-client-key-file": f"{_PKI}/front-proxy-client.key",
        # kube-proxy does not run on controllers, so services are reached by their pods.
        "enable-aggregator-routing": True,
        # It serves so long after it was told to stop, and is not ready: the load balancer stops sending requests first.
        **({"shutdown-delay-duration": "3s"} if len(args.controllers) > 1 else {}),
        # Without a limit of its own for watches, which last for hours, a stop would wait a minute for them.
        "shutdown-watch-termination-grace-period": "2s",
        # Serving
        "tls-cert-file": f"{_PKI}/kube-apiserver.crt",
        "tls-private-key-file": f"{_PKI}/kube-apiserver.key",
        "tls-min-version": MIN_VERSION,
        "tls-cipher-suites": ",".join(CIPHER_SUITES),
    }


def controller_manager_flags(args: ControlPlaneArgs) -> Flags:
    """The flags of one kube-controller-manager.

    Source: https://kubernetes.io/docs/reference/command-line-tools-reference/kube-controller-manager/
    """
    return {
        **_client_flags("kube-controller-manager"),
        "leader-elect": True,
        "leader-elect-retry-period": LEASE_RETRY,
        "use-service-account-credentials": True,
        "service-account-private-key-file": f"{_PKI}/service-accounts.key",
        "root-ca-file": f"{_PKI}/ca.crt",
        "cluster-signing-cert-file": f"{_PKI}/{_ISSUING_CA if args.pki.kubernetes.is_rotating else 'ca.crt'}",
        "cluster-signing-key-file": f"{_PKI}/ca.key",
        "cluster-cidr": str(args.network.pods),
        "service-cluster-ip-range": str(args.network.services),
        # Each worker's pod range is the lab's decision (its routes and CNI configuration have it, too).
        "allocate-node-cidrs": False,
        "terminated-pod-gc-threshold": 1000,
        # At the default of 20 requests a second its controllers take 4.5 s longer to start.
        "kube-api-qps": 200,
        "kube-api-burst": 400,
    }


def scheduler_flags() -> Flags:
    """The flags of one kube-scheduler; the rest is in its configuration.

    Source: https://kubernetes.io/docs/reference/command-line-tools-reference/kube-scheduler/
    """
    flags = dict(_client_flags("kube-scheduler"))
    del flags["kubeconfig"]
    # Its configuration turns profiling off. The flag has no effect beside it, but the CIS Benchmark reads it (1.4.1).
    return {"config": f"{_CONFIG}/kube-scheduler.yaml", **flags}


def scheduler_configuration() -> str:
    """KubeSchedulerConfiguration, YAML.

    Source: https://kubernetes.io/docs/reference/config-api/kube-scheduler-config.v1/
    """
    return _yaml(
        {
            "apiVersion": "kubescheduler.config.k8s.io/v1",
            "kind": "KubeSchedulerConfiguration",
            "clientConnection": {"kubeconfig": "/etc/kubernetes/kube-scheduler.kubeconfig"},
            "leaderElection": {"leaderElect": True, "retryPeriod": LEASE_RETRY},
            "enableProfiling": False,
        }
    )


def authentication_configuration() -> str:
    """AuthenticationConfiguration, YAML: anonymous clients may ask for health, as load balancers do, and nothing else.

    Source: https://kubernetes.io/docs/reference/access-authn-authz/authentication/
    """
    return _yaml(
        {
            "apiVersion": "apiserver.config.k8s.io/v1",
            "kind": "AuthenticationConfiguration",
            "anonymous": {"enabled": True, "conditions": [{"path": path} for path in _HEALTH_PATHS]},
        }
    )


def admission_configuration() -> str:
    """AdmissionConfiguration, YAML: Pod Security enforces baseline and warns of what is not restricted.

    Source: https://kubernetes.io/docs/tasks/configure-pod-container/enforce-standards-admission-controller/
    """
    return _yaml(
        {
            "apiVersion": "apiserver.config.k8s.io/v1",
            "kind": "AdmissionConfiguration",
            "plugins": [
                {
                    "name": "PodSecurity",
                    "configuration": {
                        "apiVersion": "pod-security.admission.config.k8s.io/v1",
                        "kind": "PodSecurityConfiguration",
                        "defaults": {
                            "enforce": "baseline",
                            "enforce-version": "latest",
                            "warn": "restricted",
                            "warn-version": "latest",
                        },
                        # The cluster's own pods may need the node.
                        "exemptions": {"namespaces": ["kube-system"]},
                    },
                }
            ],
        }
    )


def audit_policy() -> str:
    """Audit policy, YAML: everything by its metadata, secrets never by their content, and no noise.

    Source: https://kubernetes.io/docs/tasks/debug/debug-cluster/audit/
    """
    return _yaml(
        {
            "apiVersion": "audit.k8s.io/v1",
            "kind": "Policy",
            "omitStages": ["RequestReceived"],
            "rules": [
                {"level": "None", "nonResourceURLs": [f"{path}*" for path in _HEALTH_PATHS]},
                {
                    "level": "None",
                    "resources": [{"group": "coordination.k8s.io", "resources": ["leases"]}],
                    "userGroups": ["system:nodes", "system:serviceaccounts"],
                },
                {
                    "level": "Metadata",
                    "resources": [
                        {"group": "", "resources": ["secrets", "configmaps", "serviceaccounts/token"]},
                        {"group": "authentication.k8s.io", "resources": ["tokenreviews"]},
                    ],
                },
                {
                    "level": "Request",
                    "verbs": ["create", "update", "patch", "delete", "deletecollection"],
                    "resources": [{"group": "rbac.authorization.k8s.io"}],
                },
                {"level": "Metadata"},
            ],
        }
    )


def kubelet_access() -> list[dict[str, Any]]:
    """ClusterRole and binding of the API server's own client certificate.

    Source: https://kubernetes.io/docs/reference/access-authn-authz/kubelet-authn-authz/
    """
    name = "system:kube-apiserver-to-kubelet"
    parts = ("proxy", "stats", "log", "spec", "metrics", "healthz", "configz", "pods")
    return [
        {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "ClusterRole",
            "metadata": {"name": name},
            "rules": [{"apiGroups": [""], "resources": [f"nodes/{part}" for part in parts], "verbs": ["*"]}],
        },
        {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "ClusterRoleBinding",
            "metadata": {"name": name},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": name},
            "subjects": [
                {"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "kube-apiserver-kubelet-client"}
            ],
        },
    ]


def worker_turns() -> list[dict[str, Any]]:
    """Role and binding of all kubelets for the ConfigMaps that are turns of workers (worker_turns.sh).

    They are where nothing but leases of Nodes is. An authorizer cannot restrict `create` to a name.
    """
    name, group = "hardway:worker-turns", "rbac.authorization.k8s.io"
    metadata = {"name": name, "namespace": "kube-node-lease"}
    verbs = ["create", "get", "patch", "delete"]
    return [
        {
            "apiVersion": f"{group}/v1",
            "kind": "Role",
            "metadata": metadata,
            "rules": [{"apiGroups": [""], "resources": ["configmaps"], "verbs": verbs}],
        },
        {
            "apiVersion": f"{group}/v1",
            "kind": "RoleBinding",
            "metadata": metadata,
            "roleRef": {"apiGroup": group, "kind": "Role", "name": name},
            "subjects": [{"apiGroup": group, "kind": "Group", "name": "system:nodes"}],
        },
    ]


def _unit(
    program: str,
    flags: Flags,
    files: Sequence[File],
    *,
    port: int,
    path: str,
    service: dict[str, str | int] | None = None,
    stage: int = 1,
) -> Unit:
    return Unit(
        name=f"{program}.service",
        content=systemd_unit(
            description=f"Kubernetes: {program}",
            documentation=f"{_PAGES}/{program}/",
            program=f"/usr/local/bin/{program}",
            flags=flags,
            service=service,
        ),
        restarts_on=[file.path for file in files],
        ready=f"curl -sf --cacert {_PKI}/ca.crt https://127.0.0.1:{port}{path}",
        ready_means=f"https://127.0.0.1:{port}{path} says ok",
        ready_seconds=120,
        stage=stage,
        # The controller manager and the scheduler ask the API server of their machine.
        follows="" if stage == 1 else "kube-apiserver.service",
    )


def _client_flags(program: str) -> Flags:
    """What the controller manager and the scheduler have in common."""
    return {
        "kubeconfig": f"/etc/kubernetes/{program}.kubeconfig",
        "authentication-kubeconfig": f"/etc/kubernetes/{program}.kubeconfig",
        "authorization-kubeconfig": f"/etc/kubernetes/{program}.kubeconfig",
        "bind-address": "127.0.0.1",
        "client-ca-file": f"{_PKI}/ca.crt",
        "requestheader-client-ca-file": f"{_PKI}/front-proxy-ca.crt",
        "tls-cert-file": f"{_PKI}/{program}.crt",
        "tls-private-key-file": f"{_PKI}/{program}.key",
        "tls-min-version": MIN_VERSION,
        "tls-cipher-suites": ",".join(CIPHER_SUITES),
        "profiling": False,
    }


def _apiserver_files(args: ControlPlaneArgs) -> list[File]:
    pki = args.pki
    return [
        _public("ca.crt", pki.kubernetes.certificate),
        _public("etcd-ca.crt", pki.etcd.certificate),
        _public("front-proxy-ca.crt", pki.front_proxy.certificate),
        *_pair("kube-apiserver", pki.kube_apiserver),
        *_pair("apiserver-kubelet-client", pki.apiserver_kubelet_client),
        *_pair("apiserver-etcd-client", pki.apiserver_etcd_client),
        *_pair("front-proxy-client", pki.front_proxy_client),
        *_pair("service-accounts", pki.service_accounts, public="pub"),
        File(path=f"{_CONFIG}/encryption.yaml", content=args.encryption, mode="0600", secret=True),
        File(path=f"{_CONFIG}/authentication.yaml", content=authentication_configuration(), mode="0600"),
        File(path=f"{_CONFIG}/admission.yaml", content=admission_configuration(), mode="0600"),
        File(path=AUDIT_POLICY, content=audit_policy(), mode="0600"),
    ]


def _client_files(program: str, certificate: Certificate, args: ControlPlaneArgs) -> list[File]:
    return [
        File(
            path=f"/etc/kubernetes/{program}.kubeconfig",
            content=kubeconfig(
                cluster=args.cluster,
                # Its own machine's API server: it must work when the balancer does not.
                server=f"https://127.0.0.1:{API_PORT}",
                ca_certificate=args.pki.kubernetes.certificate,
                user=f"system:{program}",
                certificate=certificate,
            ),
            mode="0600",
            secret=True,
        ),
        *_pair(program, certificate),
    ]


def _pair(name: str, pair: KeyPair, *, public: str = "crt") -> list[File]:
    return [_public(f"{name}.{public}", pair.public), _key(f"{name}.key", pair.private_key)]


def _public(name: str, content: pulumi.Input[str]) -> File:
    return File(path=f"{_PKI}/{name}", content=content)


def _key(name: str, content: pulumi.Input[str]) -> File:
    return File(path=f"{_PKI}/{name}", content=content, mode="0600", secret=True)


def _yaml(document: dict[str, Any]) -> str:
    return yaml_text.dump(document)
