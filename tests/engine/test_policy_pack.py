"""The policy pack by the real engine: on a state as `pulumi stack export` writes it, and before an update."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from engine import recorded_labs
from engine.project import Project

_CHECKOUT = Path(__file__).parents[2]
_PACK = _CHECKOUT / "policy"
_FIREWALL = {
    "urn": "urn:pulumi:before-dev::hardway::gcp:compute/firewall:Firewall::open",
    "custom": True,
    "id": "open",
    "type": "gcp:compute/firewall:Firewall",
    "inputs": {"allows": [{"protocol": "tcp", "ports": ["22"]}], "sourceRanges": ["0.0.0.0/0"]},
}
_EXISTING = {
    "urn": "urn:pulumi:before-dev::hardway::hardway:index:Machines::existing",
    "custom": False,
    "type": "hardway:index:Machines",
}


@pytest.fixture(scope="module", autouse=True)
def pack_environment() -> None:
    subprocess.run([_CHECKOUT / "toolchain" / "bootstrap.sh", "policy"], check=True)


def without_host_key(connection: dict[str, Any]) -> dict[str, Any]:
    told = json.loads(connection["plaintext"])
    del told["hostKey"]
    return {**connection, "plaintext": json.dumps(told)}


# Rule, resource, and what is changed of the resource's inputs.
_BROKEN: list[tuple[str, str, str, Callable[[Any], Any]]] = [
    ("leaf-validity", "LocallySignedCert::pki-admin", "validityPeriodHours", lambda _: 10 * 365 * 24),
    ("private-keys-are-secret", "CertRequest::pki-admin", "privateKeyPem", lambda key: json.loads(key["plaintext"])),
    ("host-keys-are-pinned", "Command::former-workers", "connection", without_host_key),
    (
        "etcd-by-tls",
        "Command::kubelet-access",
        "stdin",
        lambda text: f"{text}\n--etcd-servers=http://10.131.0.10:2379\n",
    ),
    ("images-are-pinned", "Command::dns", "stdin", lambda text: text.replace("coredns:v", "another:v")),
]


def analyze(pulumi: str, home: Path, state: dict[str, Any]) -> tuple[int, set[tuple[str, str]]]:
    """The CLI's exit status, and each violation as rule and resource."""
    file = home / "state.json"
    file.write_text(json.dumps(state))
    ran = Project(pulumi, home)
    ran.directory.mkdir()
    done = ran.pulumi("policy", "analyze", "--json", f"--policy-pack={_PACK}", f"--file={file}")
    events = [json.loads(line) for line in done.output.splitlines() if line.startswith("{")]
    assert any("summaryEvent" in event for event in events), done.output
    found = [event["policyEvent"] for event in events if "policyEvent" in event]
    return done.code, {
        (each["policyName"], each["resourceUrn"].partition("$")[2] or each["resourceUrn"]) for each in found
    }


def test_the_lab_breaks_no_rule(pulumi: str, tmp_path: Path) -> None:
    assert analyze(pulumi, tmp_path, recorded_labs.read("dev").state) == (0, set())


def test_each_rule_names_what_breaks_it(pulumi: str, tmp_path: Path) -> None:
    state = recorded_labs.read("dev").state
    resources = state["deployment"]["resources"]
    for _, name, key, change in _BROKEN:
        (broken,) = [each for each in resources if each["urn"].endswith(name)]
        # Rules of one resource see inputs, rules of the stack see outputs.
        broken["inputs"][key] = change(broken["inputs"][key])
        broken["outputs"][key] = broken["inputs"][key]
    resources += [_FIREWALL, _EXISTING]
    code, found = analyze(pulumi, tmp_path, state)
    assert code != 0
    for rule, name, _, _ in _BROKEN:
        assert [urn for each, urn in found if each == rule and urn.endswith(name)], (rule, found)
        assert len([urn for each, urn in found if each == rule]) == 1, (rule, found)
    assert ("not-open-to-the-world", _FIREWALL["urn"]) in found
    unmarked = {urn for each, urn in found if each == "existing-hosts-are-marked"}
    remote = [each for each in resources if each["type"].startswith("command:remote:")]
    assert len(unmarked) == len(remote) > 0


def test_outputs_of_a_state_whose_secrets_are_redacted(pulumi: str, tmp_path: Path) -> None:
    state = recorded_labs.read("dev").state
    key = next(each for each in state["deployment"]["resources"] if each["urn"].endswith("PrivateKey::pki-admin"))
    key["outputs"]["privateKeyPem"] = json.loads(key["outputs"]["privateKeyPem"]["plaintext"])
    text = json.dumps(state).replace('"plaintext":', '"ciphertext":')
    code, found = analyze(pulumi, tmp_path, json.loads(text))
    assert code != 0
    assert {(rule, urn.rpartition("::")[2]) for rule, urn in found} == {
        ("private-keys-in-outputs-are-secret", "pki-admin")
    }


@pytest.mark.parametrize(
    ("hours", "organization", "rule"),
    [
        (90000, "key.public_key_pem", "leaf-validity"),
        (24, "pulumi.Output.unsecret(key.private_key_pem)", "private-keys-are-secret"),
        (24, "key.private_key_pem", None),
    ],
)
def test_an_update_stops_before_the_resource_is_made(
    hours: int, organization: str, rule: str | None, project: Project
) -> None:
    project.program(
        f"""
import pulumi, pulumi_tls as tls
key = tls.PrivateKey("key", algorithm="ED25519")
subject = {{"common_name": "x"}}
ca = tls.SelfSignedCert("ca", private_key_pem=key.private_key_pem, is_ca_certificate=True, validity_period_hours=90000,
    allowed_uses=["cert_signing"], subject=subject)
request = tls.CertRequest("leaf", private_key_pem=key.private_key_pem, subject={{"organization": {organization}}})
tls.LocallySignedCert("leaf", ca_cert_pem=ca.cert_pem, ca_private_key_pem=key.private_key_pem,
    cert_request_pem=request.cert_request_pem, validity_period_hours={hours}, allowed_uses=["server_auth"])
"""
    )
    ran = project.pulumi("up", "--yes", "--skip-preview", f"--policy-pack={_PACK}", ok=rule is None)
    made = {name.partition("::")[0].rpartition("/")[2].rpartition(":")[2] for name in project.resources()}
    assert "PrivateKey" in made
    assert ("LocallySignedCert" in made) == (rule is None)
    assert rule is None or f"[mandatory]  {rule}" in ran.output
