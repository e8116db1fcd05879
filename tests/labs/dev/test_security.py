"""The hardening that the API shows: who gets in, what is admitted, what is encrypted and what is written down."""

import base64
import json
import secrets
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from lab import tls
from lab.cluster import Cluster
from lab.polling import eventually
from lab.workload import NAMESPACE, Workload, image

_ISSUER = "https://kubernetes.default.svc.cluster.local"
_ACCOUNT = "/var/run/secrets/kubernetes.io/serviceaccount"


def test_health_is_served_to_those_without_certificates(cluster: Cluster) -> None:
    """Balancers and people with curl cannot see whether the API works: no anonymous health, no nginx, no HAProxy."""
    for machine in (cluster.balancer, cluster.controller):
        assert tls.fetch(f"http://{machine.address}/healthz") == (200, "ok")
        for path in ("/healthz", "/livez", "/readyz"):
            assert tls.fetch(f"https://{machine.address}:6443{path}", tls.anyone()) == (200, "ok")


@pytest.mark.parametrize(
    "path", ["/", "/api", "/apis", "/version", "/metrics", "/openid/v1/jwks", "/openapi/v2", "/healthz/etcd", "/livezx"]
)
def test_anonymous_requests_are_refused_on_every_other_path(cluster: Cluster, path: str) -> None:
    """Anonymous access that was opened for the balancer's probe and lets everybody look around."""
    assert tls.fetch(f"https://{cluster.balancer.address}:6443{path}", tls.anyone())[0] == 401


def test_nothing_but_health_is_served_over_plain_http(cluster: Cluster) -> None:
    """An nginx that passes on more than /healthz: the API without TLS."""
    for path in ("/api", "/version", "/healthz/"):
        assert tls.fetch(f"http://{cluster.controller.address}{path}")[0] == 404


def test_pod_security_refuses_what_is_not_baseline_and_warns_of_what_is_not_restricted(cluster: Cluster) -> None:
    """No Pod Security default: any user who may make pods has the node."""

    def run(name: str, **security: Any) -> tuple[int, str]:
        containers = [{"name": name, "image": image("busybox"), "securityContext": security}]
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": {"containers": containers}}
        done = cluster.try_kubectl(
            *("create", "--namespace", "default", "--dry-run=server", "-f", "-"), stdin=json.dumps(pod)
        )
        return done.returncode, done.stderr

    code, said = run("privileged", privileged=True)
    assert code != 0
    assert 'violates PodSecurity "baseline:latest"' in said
    code, said = run("plain")
    assert code == 0, said
    assert 'would violate PodSecurity "restricted:latest"' in said


def test_pods_get_a_seccomp_profile(workload: Workload) -> None:
    """seccompDefault off: pods that ask for nothing may make every system call."""
    status = workload.exec(workload.alone, "grep", "Seccomp:", "/proc/self/status")
    assert status.split() == ["Seccomp:", "2"]


@pytest.fixture(scope="module")
def secret(cluster: Cluster) -> tuple[str, str]:
    """A Secret: its name and its value."""
    name, value = "lab-secret", secrets.token_hex(16)
    document = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "stringData": {"password": value}}
    cluster.kubectl("apply", "--namespace", "default", "-f", "-", stdin=json.dumps(document))
    return name, value


def test_a_secret_is_encrypted_in_etcd(cluster: Cluster, secret: tuple[str, str]) -> None:
    """Secrets that a copy of etcd's disk shows."""
    name, value = secret
    read = f". /etc/etcd/etcdctl.env; etcdctl get --print-value-only /registry/secrets/default/{name} | base64 -w0"
    kept = base64.b64decode(cluster.ssh(cluster.controller.name, read))
    assert kept.startswith(b"k8s:enc:secretbox:v1:"), kept[:30]
    assert value.encode() not in kept
    shown = cluster.get("secret", name, "--namespace", "default")["data"]["password"]
    assert base64.b64decode(shown).decode() == value


def test_the_audit_log_names_the_secret_and_does_not_hold_it(cluster: Cluster, secret: tuple[str, str]) -> None:
    """No audit log, or one that everybody who reads logs learns the secrets from."""
    name, value = secret
    log = "/var/log/kubernetes/audit.log"
    account = f"audited-{secrets.token_hex(4)}"
    cluster.kubectl("--namespace", "default", "create", "serviceaccount", account)
    cluster.kubectl("--namespace", "default", "create", "token", account)

    def logged(resource: str, name: str) -> list[dict[str, Any]]:
        wanted = f'"resource":"{resource}","namespace":"default","name":"{name}"'
        found = cluster.try_ssh(cluster.controller.name, f"grep -F '{wanted}' {log}").stdout
        return [json.loads(line) for line in found.splitlines()]

    # What is not in the log yet cannot give anything away: an entry is written some time after its answer.
    eventually(
        "the token's entry in the audit log",
        lambda: any(entry["objectRef"].get("subresource") == "token" for entry in logged("serviceaccounts", account)),
        seconds=30,
    )
    eventually(
        "the secret's entries in the audit log",
        lambda: {"create", "get"} <= {entry["verb"] for entry in logged("secrets", name)},
        seconds=30,
        report=lambda: str(logged("secrets", name)),
    )
    entries = logged("secrets", name)
    cluster.kubectl("--namespace", "default", "delete", "serviceaccount", account)
    assert {entry["level"] for entry in entries} == {"Metadata"}
    for trace in (value, base64.b64encode(value.encode()).decode(), "eyJhbGciOi"):
        found = cluster.try_ssh(cluster.controller.name, f"grep -c -F -f - {log}", stdin=f"{trace}\n")
        assert found.stdout == "0\n", "the audit log holds what is secret"


def test_a_kubelet_may_change_its_own_node_and_no_other(cluster: Cluster, tmp_path: Path) -> None:
    """No NodeRestriction, or no Node authorizer: who has one worker has the cluster."""
    own, other = cluster.workers[0].name, cluster.workers[1].name
    kubeconfig = tmp_path / "kubelet.kubeconfig"
    kubeconfig.touch(mode=0o600)
    kubeconfig.write_text(cluster.ssh(own, "cat /etc/kubernetes/kubelet.kubeconfig"))
    as_kubelet = ("--kubeconfig", str(kubeconfig))
    cluster.kubectl(*as_kubelet, "label", "node", own, "lab-checks=own", "--overwrite")
    # Written without being read first: a kubelet may not even read another's Node.
    node = cluster.kubectl("get", "--raw", f"/api/v1/nodes/{other}")
    refused = cluster.try_kubectl(*as_kubelet, "replace", "--raw", f"/api/v1/nodes/{other}", "-f", "-", stdin=node)
    assert "is not allowed to modify node" in refused.stderr, refused
    refused = cluster.try_kubectl(*as_kubelet, "label", "node", own, "node-restriction.kubernetes.io/x=y")
    assert "is not allowed to modify labels" in refused.stderr, refused
    refused = cluster.try_kubectl(*as_kubelet, "get", "secrets", "--all-namespaces")
    assert "forbidden" in refused.stderr.lower()


def test_profiling_is_off(cluster: Cluster) -> None:
    """Profiles of the control plane: its memory, for who may ask."""
    assert "NotFound" in cluster.try_kubectl("get", "--raw", "/debug/pprof/").stderr
    token = cluster.kubectl("--namespace", "kube-system", "create", "token", "lab-checks", *_as_admin(cluster))
    header = f"Authorization: Bearer {token.strip()}"

    def status(port: int, path: str) -> str:
        # By standard input: a token does not belong on a command line.
        ask = f"curl -sk -o /dev/null -w '%{{http_code}}' -H @- https://127.0.0.1:{port}{path}"
        return cluster.ssh(cluster.controller.name, ask, stdin=header)

    for port in (10257, 10259):
        # It asks the API server, which gets a new binding some time after it has taken it; a "no" is kept for 10 s.
        eventually(
            f"metrics of port {port} for an administrator",
            lambda port=port: status(port, "/metrics") == "200",  # type: ignore[misc]
            seconds=60,
            report=lambda port=port: status(port, "/metrics"),  # type: ignore[misc]
        )
        assert status(port, "/debug/pprof/") == "404"


def test_in_cluster_clients_reach_the_api_with_their_identity(workload: Workload) -> None:
    """No service range on the API server, a wrong SAN, or a token that it does not accept."""
    pod = workload.web[0]
    ask = f'curl -sS --cacert {_ACCOUNT}/ca.crt -H "Authorization: Bearer $(cat {_ACCOUNT}/token)" '
    refused = json.loads(workload.exec(pod, "sh", "-c", f"{ask} https://kubernetes.default.svc/api/v1/nodes"))
    assert refused["code"] == 403
    assert f'"system:serviceaccount:{NAMESPACE}:default"' in refused["message"]


def test_tokens_can_be_verified_from_inside_the_cluster(workload: Workload) -> None:
    """An issuer or key set that pods cannot resolve; a key set that lacks the key which signs."""
    pod = workload.web[0]
    ask = f'curl -sS --fail --cacert {_ACCOUNT}/ca.crt -H "Authorization: Bearer $(cat {_ACCOUNT}/token)"'
    discovery = json.loads(workload.exec(pod, "sh", "-c", f"{ask} {_ISSUER}/.well-known/openid-configuration"))
    assert discovery["issuer"] == _ISSUER
    assert discovery["jwks_uri"] == f"{_ISSUER}/openid/v1/jwks"
    keys = json.loads(workload.exec(pod, "sh", "-c", f"{ask} {discovery['jwks_uri']}"))["keys"]
    token = workload.exec(pod, "cat", f"{_ACCOUNT}/token").strip()
    assert _verified(token, keys)["iss"] == _ISSUER


def test_aggregated_apis_get_the_front_proxy_ca(cluster: Cluster) -> None:
    """No --requestheader-* flags: an extension API server cannot tell the API server from anybody else."""
    data = cluster.get("configmap", "extension-apiserver-authentication", "--namespace", "kube-system")["data"]
    assert data["requestheader-allowed-names"] == '["front-proxy-client"]'
    assert data["requestheader-username-headers"] == '["X-Remote-User"]'
    assert data["requestheader-group-headers"] == '["X-Remote-Group"]'
    front_proxy = cluster.ssh(cluster.controller.name, "cat /etc/kubernetes/pki/front-proxy-ca.crt")
    assert data["requestheader-client-ca-file"].strip() == front_proxy.strip()


def test_registered_api_shows_why_it_is_unavailable(cluster: Cluster) -> None:
    """An API server without aggregation: the APIService is no kind it knows, or its path is just not found."""
    group = "checks.hardway.example"
    service = {"name": "nobody", "namespace": "default", "port": 443}
    spec = {"group": group, "version": "v1", "groupPriorityMinimum": 100, "versionPriority": 10}

    def asked() -> str:
        return cluster.try_kubectl("get", "--raw", f"/apis/{group}/v1").stderr

    cluster.apply(
        {
            "apiVersion": "apiregistration.k8s.io/v1",
            "kind": "APIService",
            "metadata": {"name": f"v1.{group}"},
            "spec": {**spec, "insecureSkipTLSVerify": True, "service": service},
        }
    )
    try:
        condition = eventually(
            "a condition of the APIService",
            lambda: cluster.get("apiservice", f"v1.{group}").get("status", {}).get("conditions", []),
            seconds=30,
        )[0]
        assert (condition["type"], condition["status"], condition["reason"]) == (
            "Available",
            "False",
            "ServiceNotFound",
        )
        # Another controller than the one that says so adds its path.
        eventually(
            "the path of the APIService",
            lambda: "currently unable to handle the request" in asked(),
            seconds=30,
            report=asked,
        )
    finally:
        cluster.kubectl("delete", "apiservice", f"v1.{group}")


def _as_admin(cluster: Cluster) -> tuple[str, ...]:
    """A service account that may read everything, and how long its token lives."""
    account = {"kind": "ServiceAccount", "name": "lab-checks", "namespace": "kube-system"}
    role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"}
    cluster.apply(
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "lab-checks", "namespace": "kube-system"}},
        {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "ClusterRoleBinding",
            "metadata": {"name": "lab-checks"},
            "roleRef": role,
            "subjects": [account],
        },
    )
    return ("--duration", "10m")


def _verified(token: str, keys: list[dict[str, str]]) -> dict[str, Any]:
    """The claims of a token (JWT, ES256) that one of the keys has signed.

    Raises:
        InvalidSignature: it was another.
    """
    header, claims, signature = token.split(".")
    key = next(key for key in keys if key["kid"] == json.loads(_decoded(header))["kid"])
    x, y = (int.from_bytes(_decoded(key[part])) for part in ("x", "y"))
    r, s = (int.from_bytes(part) for part in (_decoded(signature)[:32], _decoded(signature)[32:]))
    public = ec.EllipticCurvePublicNumbers(x, y, ec.SECP256R1()).public_key()
    public.verify(encode_dss_signature(r, s), f"{header}.{claims}".encode(), ec.ECDSA(hashes.SHA256()))
    found: dict[str, Any] = json.loads(_decoded(claims))
    return found


def _decoded(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
