"""The lab that kubeadm made: its Nodes, its token, its CAs, and what it refuses."""

import base64
import json

from components.kubeadm_pki import join_token
from config.machines import Role
from lab import secrets_of
from lab.cluster import Cluster
from lab.commands import exported, pulumi, resources, toolchain
from lab.process_watch import command_lines
from lab.settings_file import lab_settings
from labs.kubeadm.conftest import STACK, live

OLD_BOOTSTRAP = "lab.bootstrap is hard-way, and the lab was made with kubeadm"


def test_all_machines_are_nodes_with_the_ranges_that_are_routed_to_them(cluster: Cluster) -> None:
    """A machine that did not join; a range that kubeadm's controllers gave it."""
    nodes = {node["metadata"]["name"]: node for node in cluster.get("nodes")["items"]}
    expected = {machine.name: str(machine.pod_cidr) for machine in cluster.machines if machine.pod_cidr}
    assert {name: node["spec"]["podCIDR"] for name, node in nodes.items()} == expected
    controllers = {machine.name for machine in cluster.settings.with_role(Role.CONTROLLER)}
    label = "node-role.kubernetes.io/control-plane"
    assert {name for name, node in nodes.items() if label in node["metadata"]["labels"]} == controllers
    assert (len(nodes), len(controllers)) == (5, 3)


def test_the_control_plane_is_static_pods(cluster: Cluster) -> None:
    """A lab that was made the other way."""
    manifests = cluster.ssh(cluster.controller.name, "ls /etc/kubernetes/manifests").split()
    programs = ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler")
    assert manifests == [f"{program}.yaml" for program in programs]
    units = cluster.ssh(
        cluster.controller.name, "systemctl list-units --plain --no-legend 'kube*' 'etcd*' | cut -d' ' -f1"
    )
    assert "kubelet.service" in units.split()
    assert not {f"{program}.service" for program in programs} & set(units.split())


def test_certificates_are_signed_by_the_cas_of_the_stack(cluster: Cluster) -> None:
    """Authorities that kubeadm made beside those it was given; a request of a kubelet that nobody signed."""
    ours = cluster.outputs["ca_certificate"].strip()
    assert cluster.ssh(cluster.controller.name, "cat /etc/kubernetes/pki/ca.crt").strip() == ours
    for worker in cluster.workers:
        ok = cluster.ssh(
            worker.name,
            "openssl verify -CAfile /etc/kubernetes/pki/ca.crt /var/lib/kubelet/pki/kubelet-client-current.pem",
        )
        assert ok.strip().endswith("OK")
    requests = cluster.get("certificatesigningrequests")["items"]
    signed = {
        request["spec"]["username"].partition(":")[2] for request in requests if request["status"].get("certificate")
    }
    assert any(name.startswith("bootstrap:") for name in signed)


def test_no_bootstrap_token_is_left(cluster: Cluster) -> None:
    """A token that the API knows, or that lies on a machine, once all have joined."""
    secrets = cluster.get("secrets", "--namespace", "kube-system")["items"]
    assert [secret["metadata"]["name"] for secret in secrets if secret["type"].startswith("bootstrap")] == []
    token = _token()
    for machine in cluster.machines:
        said = cluster.ssh(
            machine.name,
            "grep -rlsF -f /dev/stdin /etc /var/lib/hardway /var/lib/kubelet /var/log --exclude-dir=journal || true",
            stdin=f"{token}\n{base64.b64encode(token.encode()).decode()}\n",
        )
        assert said == "", f"{machine.name}: {said}"


def test_bootstrap_token_is_in_no_output_or_state(cluster: Cluster) -> None:
    """A token in the plain state, in what `up` prints, or on a command line."""
    token = _token()
    forms = [token, token.partition(".")[2], base64.b64encode(token.encode()).decode()]
    lines = cluster.command_lines | command_lines()
    assert any("kubeadm join" in line for line in lines), "kubeadm was not seen: this test shows nothing"
    for form in forms:
        assert form not in exported(stack=STACK)
        assert form not in cluster.up.output
        assert not [line[:60] for line in lines if form in line]


def test_a_second_up_changes_nothing(cluster: Cluster) -> None:
    """Steps that run again; a token that is made again."""
    up = toolchain("up", stack=STACK)
    assert up.code == 0 and up.summary.keys() == {"unchanged"}, up.output


def test_lab_is_healthy(cluster: Cluster) -> None:
    """A status that looks for units where there are pods."""
    status = live("status", "--json")
    assert status.code == 0, status.output
    said = json.loads(status.output)
    assert said["problems"] == []
    assert [member["machine"] for member in said["etcd"]] == [member.name for member in cluster.settings.etcd_members]
    assert len(said["nodes"]) == 5
    issued = {each["name"] for each in said["certificates"]}
    assert {f"apiserver of {controller.name}" for controller in cluster.controllers} <= issued


def test_missing_static_pod_is_reported(cluster: Cluster) -> None:
    """A status that calls everything well because the kubelet runs."""
    manifest = "/etc/kubernetes/manifests/kube-scheduler.yaml"
    cluster.ssh(
        cluster.controller.name,
        f"mv {manifest} /root/; for try in $(seq 100); do "
        "curl -skfo /dev/null https://127.0.0.1:10259/healthz || exit 0; sleep 0.2; done; exit 1",
    )
    try:
        status = live("status")
    finally:
        cluster.ssh(
            cluster.controller.name,
            f"mv /root/kube-scheduler.yaml {manifest}; for try in $(seq 150); do "
            "curl -skfo /dev/null https://127.0.0.1:10259/healthz && exit 0; sleep 0.2; done; exit 1",
        )
    assert status.code == 1
    assert f"the pod kube-scheduler on {cluster.controller.name} does not run" in status.output


def test_another_bootstrap_is_refused_while_the_lab_is_up(cluster: Cluster) -> None:
    """A lab that is half of the one and half of the other."""
    before = _steps()
    with lab_settings(STACK, bootstrap="hard-way"):
        for command in ("up", "preview"):
            refused = toolchain(command, stack=STACK)
            assert refused.code == 1
            assert OLD_BOOTSTRAP in refused.output and "./hardway destroy -s kubeadm-test" in refused.output
        plain = pulumi("up", "--yes", "--skip-preview", stack=STACK)
    assert plain.code != 0
    assert "Refused, and nothing was changed" in plain.output and '"bootstrap": "kubeadm"' in plain.output
    assert _steps() == before


def _steps() -> dict[str, list[str]]:
    """What the state says that the machines and the host were told."""
    found = [each for each in resources(stack=STACK) if each["type"].startswith(("command:", "hardway:index:Script"))]
    told = {each["urn"]: [each["inputs"].get(name) for name in ("create", "stdin", "script")] for each in found}
    assert any(script for *_, script in told.values()), "no script is in the state"
    # Where it is secret, its script is in a resource of its own. The guard of the quorum tells no machine anything: its
    # script compares, and has the settings that are wanted.
    return {
        urn: [text for text in texts if isinstance(text, str)]
        for urn, texts in told.items()
        if not urn.endswith("::machines-quorum")
    }


def _token() -> str:
    """The join token, out of the encrypted state."""
    keys = [
        resource["outputs"]["privateKeyPem"]
        for resource in json.loads(exported(secrets=True, stack=STACK))["deployment"]["resources"]
        if resource["urn"].endswith("::pki-join-token")
    ]
    (pem,) = (found for key in keys for found in secrets_of.private_keys(json.dumps(key)))
    return join_token(pem)
