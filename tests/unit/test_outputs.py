"""What a lab tells about itself when it is made."""

import base64
import shutil
import subprocess
from pathlib import Path

import yaml

from unit.mocked_engine import FACTS, NOT_AFTER, Run


def test_all_outputs_exist_and_keys_are_secret(lab: Run) -> None:
    assert lab.outputs.keys() == {
        "kubeconfig",
        "endpoint",
        "ca_certificate",
        "machines",
        "ssh_config",
        "ssh_private_key",
        "versions",
        "certificates",
        "readiness",
    }
    assert lab.secret_outputs == {"kubeconfig", "ssh_private_key"}


def test_the_endpoint_is_the_load_balancer(dev: Run) -> None:
    (address,) = (each["address"] for each in dev.outputs["machines"] if each["roles"] == ["load-balancer"])
    assert dev.outputs["endpoint"] == f"https://{address}:6443"


def test_two_load_balancers_have_an_endpoint_of_their_own(shared: Run) -> None:
    assert shared.outputs["endpoint"] == "https://10.240.0.4:6443"
    assert "10.240.0.4" not in {each["address"] for each in shared.outputs["machines"]}


def test_the_kubeconfig_makes_an_administrator_of_the_user(trusted: Run) -> None:
    kubeconfig = yaml.safe_load(trusted.outputs["kubeconfig"])
    (cluster,), (user,), (context,) = (kubeconfig[key] for key in ("clusters", "users", "contexts"))
    assert kubeconfig["current-context"] == context["name"]
    assert context["context"] == {"cluster": cluster["name"], "user": user["name"]}
    assert cluster["cluster"]["server"] == trusted.outputs["endpoint"]
    assert base64.b64decode(user["user"]["client-certificate-data"]) == b"CERTIFICATE-pki-admin"
    assert base64.b64decode(user["user"]["client-key-data"]) == b"PRIVATE-KEY-pki-admin"
    assert base64.b64decode(cluster["cluster"]["certificate-authority-data"]) == b"CERTIFICATE-pki-kubernetes-ca"
    assert trusted.outputs["ca_certificate"] == "CERTIFICATE-pki-kubernetes-ca"


def test_every_machine_is_listed_with_its_roles_and_ranges(dev: Run) -> None:
    assert dev.outputs["machines"] == [
        {
            "name": name,
            "fqdn": f"{name}.dev.hardway.internal",
            "roles": [role],
            "address": address,
            "pod_cidr": pods,
            "user": "root",
        }
        for name, role, address, pods in [
            ("load-balancer-0", "load-balancer", "10.240.0.5", None),
            ("controller-0", "controller", "10.240.0.10", None),
            ("worker-0", "worker", "10.240.0.20", "10.200.0.0/24"),
            ("worker-1", "worker", "10.240.0.21", "10.200.1.0/24"),
        ]
    ]


def test_every_certificate_is_listed_with_its_expiry(trusted: Run) -> None:
    made = {each.name for each in trusted.of_type("tls:index/locallySignedCert:LocallySignedCert")}
    authorities = {"kubernetes-ca", "etcd-ca", "front-proxy-ca"}
    listed = {each["name"]: each for each in trusted.outputs["certificates"]}
    own = {each.name for each in trusted.of_type("tls:index/selfSignedCert:SelfSignedCert") if "-ca" not in each.name}
    assert listed.keys() == made | authorities | own
    assert {each["not_after"] for each in listed.values()} == {NOT_AFTER}
    assert listed["pki-admin"]["subject"] == "CN=admin,O=system:masters"


def test_versions_has_every_product(dev: Run) -> None:
    assert dev.outputs["versions"].keys() == {"kubernetes", "etcd", "containerd", "runc", "cni-plugins"}


def test_readiness_has_the_output_of_the_checks(lab: Run) -> None:
    assert lab.outputs["readiness"] == {"readiness-cluster": FACTS, "readiness-dns": FACTS}


def test_ssh_trusts_pinned_keys_only(lab: Run, tmp_path: Path) -> None:
    assert shutil.which("ssh"), "no ssh on this machine: apt-get install openssh-client"
    config = tmp_path / "ssh_config"
    config.write_text(lab.outputs["ssh_config"])
    for machine in lab.outputs["machines"]:
        said = subprocess.run(
            ["ssh", "-G", "-F", str(config), machine["name"]], capture_output=True, text=True, check=True
        ).stdout.splitlines()
        options = dict(line.split(" ", 1) for line in said)
        (reached,) = (host for host, each in lab.machines.items() if each.name == f"machines-{machine['name']}")
        assert options["hostname"] == reached
        assert options["stricthostkeychecking"] in ("true", "yes")
        assert options["userknownhostsfile"] == "/dev/null"
        assert options["user"] == machine["user"]
        key = f"ssh-ed25519 PUBLIC-machines-{machine['name']}-host-key"
        if lab.substrate == "Machines":
            key = "ssh-ed25519 not-trusted-yet"
        known_as = reached if options["port"] == "22" else f"[{reached}]:{options['port']}"
        assert options["knownhostscommand"] == f"/bin/echo {known_as} {key}"
        assert options["hostkeyalgorithms"] == "ssh-ed25519"
