"""The `tls` stand-in: what it makes is right, has the shape that the SDK expects, and is recreated when it must be."""

import json
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import asyncssh
import pulumi_tls
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_pem_public_key
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from engine.project import Project, revealed

# Given to one operation only, and never kept.
_WRITE_ONLY = {"privateKeyPemWo", "privateKeyPemWoVersion", "caPrivateKeyPemWo", "caPrivateKeyPemWoVersion"}
# Which the bridge of the official plugin adds.
_BRIDGE = {"id", "__meta"}

_SUBJECT = {
    "common_name": "leaf",
    "organization": "system:nodes",
    "organizational_unit": "unit",
    "street_addresses": ["1 Long Street"],
    "locality": "Portland",
    "province": "Oregon",
    "country": "US",
    "postal_code": "97201",
    "serial_number": "7",
    "email_address": "leaf@example.org",
}

_AUTHORITY = """
import pulumi
import pulumi_tls as tls

ca_key = tls.PrivateKey("ca", algorithm="ECDSA", ecdsa_curve="P384")
ca = tls.SelfSignedCert(
    "ca",
    private_key_pem=ca_key.private_key_pem,
    subject={"common_name": "test authority", "organization": "tests"},
    is_ca_certificate=True,
    max_path_length=1,
    set_subject_key_id=True,
    set_authority_key_id=True,
    dns_names=["ca.example"],
    ip_addresses=["10.0.0.1"],
    uris=["https://ca.example"],
    allowed_uses=["cert_signing", "crl_signing"],
    validity_period_hours=240,
)
"""


def _leaf(subject: dict[str, Any] | None = None, **settings: Any) -> str:
    given = {"validity_period_hours": 48, "allowed_uses": ["digital_signature", "server_auth", "client_auth"]}
    return f"""
key = tls.PrivateKey("leaf", algorithm="ECDSA", ecdsa_curve="P256")
request = tls.CertRequest(
    "leaf",
    private_key_pem=key.private_key_pem,
    subject={subject or {"common_name": "leaf"}!r},
    dns_names=["a.example", "b.example"],
    ip_addresses=["10.0.0.2", "fd00::2"],
    uris=["spiffe://example/leaf"],
)
leaf = tls.LocallySignedCert(
    "leaf",
    ca_cert_pem=ca.cert_pem,
    ca_private_key_pem=ca_key.private_key_pem,
    cert_request_pem=request.cert_request_pem,
    **{given | settings!r},
)
pulumi.export("leaf", leaf.cert_pem)
pulumi.export("ca", ca.cert_pem)
"""


def test_keys_of_every_algorithm_in_every_format(project: Project) -> None:
    project.program(
        "import pulumi_tls as tls\n"
        "tls.PrivateKey('rsa', algorithm='RSA')\n"
        "tls.PrivateKey('ed', algorithm='ED25519')\n"
        "for curve in ('P224', 'P256', 'P384', 'P521'):\n"
        "    tls.PrivateKey(curve, algorithm='ECDSA', ecdsa_curve=curve)\n"
        "tls.PrivateKey('default', algorithm='ECDSA')\n"
    )
    project.up()

    keys = {name.split("::")[1]: found["outputs"] for name, found in project.resources().items() if "Key" in name}
    assert keys["default"]["ecdsaCurve"] == "P224" and keys["default"]["rsaBits"] == 2048
    for name, outputs in keys.items():
        _check_key(outputs, ssh=name not in ("P224", "default"))
    assert "PRIVATE KEY" not in project.state.read_text()


def _check_key(outputs: dict[str, Any], *, ssh: bool) -> None:
    shown = {name: revealed(value) for name, value in outputs.items()}
    assert set(shown) - _BRIDGE == _properties(pulumi_tls.PrivateKey)
    private = load_pem_private_key(shown["privateKeyPem"].encode(), None)
    kinds = {"RSA": rsa.RSAPrivateKey, "ECDSA": ec.EllipticCurvePrivateKey, "ED25519": ed25519.Ed25519PrivateKey}
    assert isinstance(private, kinds[shown["algorithm"]])
    assert shown["privateKeyPemPkcs8"].startswith("-----BEGIN PRIVATE KEY-----\n")
    public = load_pem_public_key(shown["publicKeyPem"].encode())
    assert public == private.public_key()
    assert load_pem_private_key(shown["privateKeyPemPkcs8"].encode(), None).public_key() == public
    if not ssh:
        assert shown["publicKeyOpenssh"] == shown["privateKeyOpenssh"] == shown["publicKeyFingerprintSha256"] == ""
        return
    key = asyncssh.import_private_key(shown["privateKeyOpenssh"])
    assert key.export_public_key().decode().split()[:2] == shown["publicKeyOpenssh"].split()
    assert key.get_fingerprint("sha256") == shown["publicKeyFingerprintSha256"]
    assert key.get_fingerprint("md5") == f"MD5:{shown['publicKeyFingerprintMd5']}"


def test_a_chain_verifies_and_says_what_was_asked_for(project: Project, tmp_path: Path) -> None:
    project.program(_AUTHORITY + _leaf(_SUBJECT, set_subject_key_id=True, max_path_length=-1))
    assert "4 to create" not in project.preview().output
    project.up()

    outputs = project.outputs()
    ca, leaf = (x509.load_pem_x509_certificate(outputs[name].encode()) for name in ("ca", "leaf"))
    leaf.verify_directly_issued_by(ca)
    (tmp_path / "ca.pem").write_text(outputs["ca"])
    (tmp_path / "leaf.pem").write_text(outputs["leaf"])
    verify = ["openssl", "verify", "-x509_strict", "-purpose", "sslserver", "-CAfile", "ca.pem", "leaf.pem"]
    verified = subprocess.run(verify, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert verified.returncode == 0, verified.stdout + verified.stderr

    _check_authority(ca)
    _check_leaf(leaf, ca)
    resources = project.resources()
    for kind in ("SelfSignedCert::ca", "CertRequest::leaf", "LocallySignedCert::leaf"):
        name = kind.split("::")[0]
        found = next(found for path, found in resources.items() if path.endswith(kind))
        assert set(found["outputs"]) - _BRIDGE == _properties(getattr(pulumi_tls, name)) - _WRITE_ONLY, kind
    certificate = resources["tls:index/locallySignedCert:LocallySignedCert::leaf"]
    assert certificate["id"] == str(leaf.serial_number)
    assert certificate["outputs"]["caKeyAlgorithm"] == "ECDSA"
    assert certificate["outputs"]["readyForRenewal"] is False
    start, end = (datetime.fromisoformat(certificate["outputs"][f"validity{edge}Time"]) for edge in ("Start", "End"))
    assert end - start == timedelta(hours=48)
    assert abs(start - datetime.now(UTC)) < timedelta(minutes=1)
    assert "PRIVATE KEY" not in project.state.read_text()

    second = project.up()
    assert "8 unchanged" not in second.output and "6 unchanged" in second.output, second.output


def _check_authority(ca: x509.Certificate) -> None:
    constraints = ca.extensions.get_extension_for_class(x509.BasicConstraints)
    assert constraints.critical and constraints.value == x509.BasicConstraints(ca=True, path_length=1)
    usage = ca.extensions.get_extension_for_class(x509.KeyUsage).value
    assert usage.key_cert_sign and usage.crl_sign and not usage.digital_signature
    own = ca.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    authority = ca.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value
    assert authority.key_identifier == own.digest
    assert ca.signature_hash_algorithm and ca.signature_hash_algorithm.name == "sha384"


def _check_leaf(leaf: x509.Certificate, ca: x509.Certificate) -> None:
    names = {attribute.oid: attribute.value for attribute in leaf.subject}
    assert names[NameOID.COMMON_NAME] == "leaf" and names[NameOID.ORGANIZATION_NAME] == "system:nodes"
    assert names[NameOID.COUNTRY_NAME] == "US" and names[NameOID.STREET_ADDRESS] == "1 Long Street"
    assert len(names) == len(_SUBJECT)
    found = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert found.get_values_for_type(x509.DNSName) == ["a.example", "b.example"]
    assert [str(address) for address in found.get_values_for_type(x509.IPAddress)] == ["10.0.0.2", "fd00::2"]
    assert found.get_values_for_type(x509.UniformResourceIdentifier) == ["spiffe://example/leaf"]
    extended = leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert set(extended) == {ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH}
    assert leaf.extensions.get_extension_for_class(x509.KeyUsage).critical
    issuer = leaf.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value
    assert issuer.key_identifier == ca.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest
    assert leaf.serial_number.bit_length() > 64


def test_what_changed_is_replaced_and_what_hangs_on_it(project: Project) -> None:
    project.program(_AUTHORITY + _leaf())
    project.up()
    before = project.outputs()

    project.program(_AUTHORITY + _leaf(early_renewal_hours=2))
    early = project.up()
    assert "~ 1 updated" in early.output and "replaced" not in early.output
    assert project.outputs() == before

    project.program(_AUTHORITY + _leaf({"common_name": "another"}, early_renewal_hours=2))
    preview = project.preview()
    assert "+-2 to replace" in preview.output
    project.up()
    after = project.outputs()
    assert after["ca"] == before["ca"] and after["leaf"] != before["leaf"]

    project.program(_AUTHORITY.replace("P384", "P521") + _leaf({"common_name": "another"}, early_renewal_hours=2))
    assert "+-3 replaced" in project.up().output
    leaf, ca = (x509.load_pem_x509_certificate(project.outputs()[name].encode()) for name in ("leaf", "ca"))
    leaf.verify_directly_issued_by(ca)


def test_a_plain_up_renews_a_certificate_early(project: Project) -> None:
    project.program(_AUTHORITY + _leaf(early_renewal_hours=2))
    project.up()
    before = project.outputs()

    _let_pass(project, minutes_left=121)
    assert "6 unchanged" in project.up().output

    _let_pass(project, minutes_left=119)
    assert "+-1 to replace" in project.preview().output
    assert "+-1 replaced" in project.up().output
    after = project.outputs()
    assert after["ca"] == before["ca"] and after["leaf"] != before["leaf"]


def _let_pass(project: Project, minutes_left: int) -> None:
    """Change the state to what it would be had time passed since the leaf was made."""
    state = json.loads(project.state.read_text())
    for resource in state["checkpoint"]["latest"]["resources"]:
        if resource["type"].endswith("LocallySignedCert"):
            end = datetime.now(UTC) + timedelta(minutes=minutes_left)
            resource["outputs"]["validityEndTime"] = end.isoformat().replace("+00:00", "Z")
    project.state.write_text(json.dumps(state))


def test_refresh_says_that_a_certificate_is_ready_for_renewal(project: Project) -> None:
    project.program(_AUTHORITY + _leaf(early_renewal_hours=2))
    project.up()
    _let_pass(project, 60)

    project.pulumi("refresh", "--yes", "--skip-preview", ok=True)

    leaf = project.resources()["tls:index/locallySignedCert:LocallySignedCert::leaf"]
    assert leaf["outputs"]["readyForRenewal"] is True


def test_wrong_inputs_are_refused_together_before_anything_is_made(project: Project) -> None:
    project.program(
        "import pulumi_tls as tls\n"
        "tls.SelfSignedCert('wrong', private_key_pem='unread', allowed_uses=['all'], validity_period_hours=-1,\n"
        "                   ip_addresses=['10.0.0.256'])\n"
    )
    output = project.preview(ok=False).output
    assert "server_auth" in output and "at least 0" in output and "'10.0.0.256' is not an IP address" in output

    project.program("import pulumi_tls as tls\ntls.PrivateKey('wrong', algorithm='DSA', ecdsa_curve='P255')\n")
    output = project.preview(ok=False).output
    assert "RSA, ECDSA, ED25519" in output and "P224, P256, P384, P521" in output


def test_what_the_program_makes_secret_stays_secret(project: Project) -> None:
    project.program(
        "import pulumi\nimport pulumi_tls as tls\n"
        "key = tls.PrivateKey('key', algorithm='ED25519')\n"
        "subject = {'organization': pulumi.Output.secret('hidden organization'), 'common_name': 'shown'}\n"
        "tls.CertRequest('it', private_key_pem=key.private_key_pem, subject=subject,\n"
        "                dns_names=pulumi.Output.secret(['hidden.example']))\n"
    )

    project.up()

    state = project.state.read_text()
    assert "shown" in state and "hidden" not in state


def test_a_key_that_cannot_be_read_is_not_shown(project: Project) -> None:
    project.program(
        "import pulumi_tls as tls\n"
        "tls.CertRequest('broken', private_key_pem='-----BEGIN PRIVATE KEY-----\\nc2VjcmV0IHRleHQ=\\n')\n"
    )

    output = project.up(ok=False).output

    assert "Failed to parse private key PEM" in output and "c2VjcmV0" not in output


def _properties(resource: type) -> set[str]:
    """The names that an SDK's class gives to its properties on the wire."""
    found = (
        getattr(member.fget, "_pulumi_name", None) for member in vars(resource).values() if hasattr(member, "fget")
    )
    return {name for name in found if name}
