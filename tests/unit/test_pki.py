"""The certificate table: who everybody is, by which names, for which uses, and by whose word."""

from dataclasses import dataclass

import pytest

from config.lab import parse
from lab.shipped import lab_of
from unit.conftest import program
from unit.mocked_engine import Run, run_program

REQUEST = "tls:index/certRequest:CertRequest"
SIGNED = "tls:index/locallySignedCert:LocallySignedCert"
AUTHORITY = "tls:index/selfSignedCert:SelfSignedCert"
KEY = "tls:index/privateKey:PrivateKey"

CLIENT, SERVER = {"client_auth"}, {"server_auth"}
CONTROLLERS = ["10.251.0.10", "10.251.0.11", "10.251.0.12"]


@dataclass(frozen=True, kw_only=True)
class Row:
    """One certificate as the table has it."""

    name: str
    common_name: str
    organization: str | None = None
    dns: frozenset[str] = frozenset()
    ip: frozenset[str] = frozenset()
    uses: set[str]
    ca: str = "kubernetes"


ROWS = [
    Row(name="admin", common_name="admin", organization="system:masters", uses=CLIENT),
    *(
        Row(
            name=f"kubelet-worker-{number}",
            common_name=f"system:node:worker-{number}",
            organization="system:nodes",
            dns=frozenset({f"worker-{number}", f"worker-{number}.ha.hardway.internal"}),
            ip=frozenset({f"10.251.0.2{number}", "127.0.0.1"}),
            uses=CLIENT | SERVER,
        )
        for number in range(3)
    ),
    Row(name="kube-proxy", common_name="system:kube-proxy", organization="system:node-proxier", uses=CLIENT),
    *(
        Row(
            name=name,
            common_name=f"system:{name}",
            organization=f"system:{name}",
            ip=frozenset({"127.0.0.1"}),
            uses=CLIENT | SERVER,
        )
        for name in ("kube-scheduler", "kube-controller-manager")
    ),
    Row(
        name="kube-apiserver",
        common_name="kubernetes",
        dns=frozenset(
            {
                "kubernetes",
                "kubernetes.default",
                "kubernetes.default.svc",
                "kubernetes.default.svc.cluster.local",
                "localhost",
                "load-balancer-0",
                "load-balancer-0.ha.hardway.internal",
                *(f"controller-{number}" for number in range(3)),
                *(f"controller-{number}.ha.hardway.internal" for number in range(3)),
            }
        ),
        ip=frozenset({"127.0.0.1", "10.43.0.1", "10.251.0.5", *CONTROLLERS}),
        uses=SERVER,
    ),
    Row(name="apiserver-kubelet-client", common_name="kube-apiserver-kubelet-client", uses=CLIENT),
    Row(name="apiserver-etcd-client", common_name="kube-apiserver-etcd-client", uses=CLIENT, ca="etcd"),
    *(
        Row(
            name=f"etcd-controller-{number}",
            common_name=f"controller-{number}",
            dns=frozenset({f"controller-{number}", "localhost"}),
            ip=frozenset({CONTROLLERS[number], "127.0.0.1"}),
            uses=CLIENT | SERVER,
            ca="etcd",
        )
        for number in range(3)
    ),
    Row(name="front-proxy-client", common_name="front-proxy-client", uses=CLIENT, ca="front-proxy"),
]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_a_certificate_is_as_the_table_has_it(ha: Run, row: Row) -> None:
    request = ha.named(f"pki-{row.name}", REQUEST).inputs
    assert request["subject"]["commonName"] == row.common_name
    assert request["subject"].get("organization") == row.organization
    assert set(request.get("dnsNames", [])) == row.dns
    assert set(request.get("ipAddresses", [])) == row.ip
    assert request["privateKeyPem"] == f"PRIVATE-KEY-pki-{row.name}"
    signed = ha.named(f"pki-{row.name}", SIGNED).inputs
    assert signed["certRequestPem"] == f"REQUEST-pki-{row.name}"
    assert set(signed["allowedUses"]) & (CLIENT | SERVER) == row.uses
    assert signed["caCertPem"] == f"CERTIFICATE-pki-{row.ca}-ca"
    assert signed["caPrivateKeyPem"] == f"PRIVATE-KEY-pki-{row.ca}-ca"
    assert not signed.get("isCaCertificate", False)


def test_the_table_is_complete(ha: Run) -> None:
    assert sorted(each.name for each in ha.of_type(SIGNED)) == sorted(f"pki-{row.name}" for row in ROWS)


def test_there_are_three_authorities_that_may_sign(ha: Run) -> None:
    authorities = ha.of_type(AUTHORITY)
    assert {each.name for each in authorities} == {f"pki-{name}-ca" for name in ("kubernetes", "etcd", "front-proxy")}
    for each in authorities:
        assert each.inputs["isCaCertificate"] is True
        assert "cert_signing" in each.inputs["allowedUses"]
    assert len({each.inputs["subject"]["commonName"] for each in authorities}) == 3


def test_every_certificate_has_a_key_of_its_own(ha: Run) -> None:
    keys = [each.inputs["privateKeyPem"] for each in ha.of_type(REQUEST, AUTHORITY)]
    assert len(set(keys)) == len(keys)


def test_the_api_server_is_known_by_the_shared_address_and_by_each_balancers_own(shared: Run) -> None:
    request = shared.named("pki-kube-apiserver", REQUEST).inputs
    shared_and_own = {"10.240.0.4", "10.240.0.5", "10.240.0.6"}
    assert shared_and_own | {"127.0.0.1", "10.32.0.1", "10.240.0.10"} <= set(request["ipAddresses"])
    assert {"load-balancer-0", "load-balancer-1", "load-balancer-1.shared.hardway.internal"} <= set(request["dnsNames"])


@pytest.mark.parametrize(
    ("algorithm", "expected"),
    [
        ("ECDSA-P256", {"algorithm": "ECDSA", "ecdsaCurve": "P256"}),
        ("ECDSA-P384", {"algorithm": "ECDSA", "ecdsaCurve": "P384"}),
        ("RSA-2048", {"algorithm": "RSA", "rsaBits": 2048}),
        ("RSA-4096", {"algorithm": "RSA", "rsaBits": 4096}),
    ],
)
def test_the_algorithm_is_the_configured_one_never_the_providers_p224(
    algorithm: str, expected: dict[str, object]
) -> None:
    run = run_program("dev", {"pki": {"algorithm": algorithm}})
    keys = [each for each in run.of_type(KEY) if each.name.startswith("pki-")]
    assert keys
    for key in keys:
        assert key.inputs == expected


def test_the_default_is_p256(dev: Run) -> None:
    assert dev.named("pki-admin", KEY).inputs == {"algorithm": "ECDSA", "ecdsaCurve": "P256"}


@pytest.fixture(scope="module")
def configured(no_output_in_a_string: None) -> Run:
    """A lab with other hours and domains."""
    pki = {"ca_validity_hours": 400, "validity_hours": 50, "early_renewal_hours": 7}
    network = {"domain": "lab.example", "cluster_domain": "k8s.example"}
    return run_program("dev", {**lab_of("dev"), "pki": pki, "network": network})


def test_validity_and_renewal_are_the_configured_hours(configured: Run) -> None:
    run = configured
    for leaf in run.of_type(SIGNED):
        assert (leaf.inputs["validityPeriodHours"], leaf.inputs["earlyRenewalHours"]) == (50, 7)
    for ca in run.of_type(AUTHORITY):
        assert (ca.inputs["validityPeriodHours"], ca.inputs["earlyRenewalHours"]) == (400, 7)


def test_the_names_follow_the_configured_domains(configured: Run) -> None:
    request = configured.named("pki-kube-apiserver", REQUEST).inputs
    assert {"kubernetes.default.svc.k8s.example", "load-balancer-0.dev.lab.example"} <= set(request["dnsNames"])


def test_no_common_name_is_longer_than_a_certificate_may_say() -> None:
    longest = {"name": "w" * 38 + "-0", "address": "10.240.0.20", "pod_cidr": "10.200.0.0/24"}
    parse("dev", {"workers": [longest]})
    request = run_program("dev", {"workers": [longest]}).named(f"pki-kubelet-{longest['name']}", REQUEST)
    assert len(request.inputs["subject"]["commonName"]) <= 64


def test_each_subject_has_the_fields_of_the_settings() -> None:
    """A CA, or the balancer's own certificate, without them; CN and O, by which Kubernetes knows users, changed."""
    made = program("droplets")
    fields = {"country": "GB", "province": "England", "locality": "London"}
    fields["organizationalUnit"] = "Kubernetes The Hard Way"
    subjects = [each.inputs["subject"] for each in made.of_type(REQUEST, AUTHORITY)]
    assert len(subjects) > 15
    assert all(fields.items() <= subject.items() for subject in subjects)
    kubelet = made.named("pki-kubelet-worker-0", REQUEST).inputs["subject"]
    assert kubelet == fields | {"commonName": "system:node:worker-0", "organization": "system:nodes"}
