"""Kubeconfigs and configurations that are made of data: what stands in them."""

import base64
import json
import os
import re
import subprocess
from ipaddress import IPv4Network
from pathlib import Path
from typing import Any

import pytest
import yaml
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from hypothesis import given
from hypothesis import strategies as st

from components.encryption import encryption_configuration, named_keys
from components.kubeconfigs import render
from lab.shipped import lab_of
from unit.mocked_engine import Run, ed25519_pem, run_program, seed_of

CONTROLLER, WORKER = "control-plane-controller-0", "worker-0-node"
LOCAL = "https://127.0.0.1:6443"


# Step, file, user, certificate; whether it leads to the API server of its own machine.
KUBECONFIGS = [
    (CONTROLLER, "admin.conf", "admin", "admin", False),
    (
        CONTROLLER,
        "kube-controller-manager.kubeconfig",
        "system:kube-controller-manager",
        "kube-controller-manager",
        True,
    ),
    (CONTROLLER, "kube-scheduler.kubeconfig", "system:kube-scheduler", "kube-scheduler", True),
    (WORKER, "kubelet.kubeconfig", "system:node:worker-0", "kubelet-worker-0", False),
    (WORKER, "kube-proxy.kubeconfig", "system:kube-proxy", "kube-proxy", False),
]


def encoded(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def test_kubeconfig_has_its_users_certificate_and_the_right_server(hard_way: Run) -> None:
    for step, file, user, certificate, local in KUBECONFIGS:
        path = f"/etc/kubernetes/{file}"
        kubeconfig = yaml.safe_load(hard_way.secret_file(step, path))
        (cluster,), (context,) = kubeconfig["clusters"], kubeconfig["contexts"]
        assert cluster["cluster"] == {
            "server": LOCAL if local else hard_way.outputs["endpoint"],
            "certificate-authority-data": encoded("CERTIFICATE-pki-kubernetes-ca"),
        }, file
        assert kubeconfig["users"] == [
            {
                "name": user,
                "user": {
                    "client-certificate-data": encoded(f"CERTIFICATE-pki-{certificate}"),
                    "client-key-data": encoded(f"PRIVATE-KEY-pki-{certificate}"),
                },
            }
        ], file
        assert kubeconfig["current-context"] == context["name"], file
        assert context["context"] == {"cluster": cluster["name"], "user": user}, file
        assert hard_way.files(step)[path] == "0600", file


WORDS = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]), min_size=1, max_size=20)


@given(cluster=WORDS, user=WORDS, key=st.text(max_size=40))
def test_any_name_is_read_from_a_kubeconfig_as_it_was_written(cluster: str, user: str, key: str) -> None:
    document = yaml.safe_load(
        render(cluster=cluster, server="https://a:1", ca_certificate="x", user=user, certificate="y", key=key)
    )
    assert document["clusters"][0]["name"] == cluster
    assert document["users"][0]["name"] == user
    assert base64.b64decode(document["users"][0]["user"]["client-key-data"]).decode() == key


@pytest.mark.parametrize("provider", ["secretbox", "aescbc"])
def test_encryption_configuration_writes_with_the_newest_key_and_reads_with_the_others(provider: str) -> None:
    document = yaml.safe_load(encryption_configuration(provider, named_keys("newest\nolder\noldest\n")))
    (resource,) = document["resources"]
    assert resource["resources"] == ["secrets"]
    first, second, last = resource["providers"]
    # A key keeps its name when another comes.
    assert first[provider]["keys"] == [
        {"name": "key3", "secret": "newest"},
        {"name": "key2", "secret": "older"},
        {"name": "key1", "secret": "oldest"},
    ]
    # What was written before a change of provider.
    assert {*first, *second} == {"secretbox", "aescbc"}
    assert [*second.values()] == [*first.values()]
    assert last == {"identity": {}}


def test_encryption_key_is_32_random_bytes(hard_way: Run) -> None:
    document = yaml.safe_load(hard_way.secret_file(CONTROLLER, "/etc/kubernetes/config/encryption.yaml"))
    (provider,) = document["resources"][0]["providers"][0].values()
    (only,) = provider["keys"]
    assert only["name"] == "key1"
    key = base64.b64decode(only["secret"])
    assert key == seed_of("encryption-key")
    assert len(key) == 32
    assert load_pem_private_key(ed25519_pem("encryption-key").encode(), password=None).private_bytes_raw() == key  # type: ignore[union-attr]
    assert hard_way.named("encryption-key", "tls:index/privateKey:PrivateKey").inputs == {"algorithm": "ED25519"}


def test_a_replaced_encryption_key_still_reads_its_secrets(hard_way: Run) -> None:
    """`pulumi up --replace`, or a key that is gone from the state: the old one is kept."""
    keeper = hard_way.named("encryption-keys", "command:local:Command")
    assert keeper.secret == {"stdin"} and list(keeper.request.additionalSecretOutputs) == ["stdout"]
    assert keeper.inputs["logging"] == "none" and "update" not in keeper.inputs

    def printed(key: str, before: str = "") -> str:
        environment = {**os.environ, "PULUMI_COMMAND_STDOUT": before}
        return subprocess.run(
            ["/bin/sh", "-c", keeper.inputs["create"]],
            env=environment,
            input=f"{key}\n",
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()

    first = printed("old+key=")
    assert first == "old+key="
    assert printed("old+key=", first) == first
    assert printed("new/key=", first) == "new/key=\nold+key="
    # An update that is run again.
    assert printed("new/key=", "new/key=\nold+key=") == "new/key=\nold+key="


def test_every_controller_has_the_same_encryption_key(ha: Run) -> None:
    texts = {
        ha.secret_file(f"control-plane-controller-{number}", "/etc/kubernetes/config/encryption.yaml")
        for number in range(3)
    }
    assert len(texts) == 1


def network_of(hard_way: Run, worker: str) -> tuple[str, str]:
    """The step that writes the CNI configuration of a worker, and its path."""
    if "calicoctl" in hard_way.outputs["versions"]:
        return f"calico-network-{worker}", "/etc/cni/net.d/10-calico.conflist"
    return f"container-runtime-{worker}", "/etc/cni/net.d/10-bridge.conflist"


def test_bridge_has_the_pod_range_of_its_worker(hard_way: Run) -> None:
    for machine in hard_way.outputs["machines"] if "calicoctl" not in hard_way.outputs["versions"] else ():
        if not machine.get("pod_cidr"):
            continue
        step = f"container-runtime-{machine['name']}"
        document = json.loads(hard_way.file(step, "/etc/cni/net.d/10-bridge.conflist"))
        assert document["cniVersion"] == "1.0.0"
        bridge, portmap = document["plugins"]
        assert bridge["type"] == "bridge"
        assert bridge["isGateway"] is True
        assert bridge["hairpinMode"] is True
        assert bridge["ipam"]["ranges"] == [[{"subnet": machine["pod_cidr"]}]]
        assert portmap == {"type": "portmap", "capabilities": {"portMappings": True}}
        loopback = json.loads(hard_way.file(step, "/etc/cni/net.d/99-loopback.conf"))
        assert loopback["type"] == "loopback"


def test_every_configured_cni_plugin_is_installed(hard_way: Run) -> None:
    step = "container-runtime-worker-0"
    document = json.loads(hard_way.file(*network_of(hard_way, "worker-0")))
    named = {plugin["type"] for plugin in document["plugins"]} | {"loopback", document["plugins"][0]["ipam"]["type"]}
    (fetch,) = (line.split() for line in hard_way.script(step).splitlines() if "cni-plugins" in line)
    # Calico's own come out of its image.
    assert named <= {*fetch[4:], "calico", "calico-ipam"}
    assert fetch[3] == "/opt/cni/bin"


def test_kubelet_has_the_socket_of_containerd(hard_way: Run) -> None:
    kubelet = hard_way.yaml_file(WORKER, "/etc/kubernetes/config/kubelet.yaml")
    assert kubelet["containerRuntimeEndpoint"] == "unix:///run/containerd/containerd.sock"
    assert "ctr --address /run/containerd/containerd.sock" in hard_way.script("container-runtime-worker-0")


def imports(hard_way: Run, step: str, image: str) -> bool:
    """Whether a step imports an image; where machines get upstream's releases, images are pulled instead."""
    mirrored = "fetch https://" not in hard_way.script("container-runtime-worker-0")
    imported = f" {image}\n" in hard_way.script(step) + "\n"
    assert imported == mirrored
    return imported


def test_imported_pause_image_is_the_one_in_containerds_configuration(hard_way: Run) -> None:
    import tomllib

    document = tomllib.loads(hard_way.file("container-runtime-worker-0", "/etc/containerd/config.toml"))
    assert document["version"] == 3
    plugins: dict[str, Any] = document["plugins"]
    pause = plugins["io.containerd.cri.v1.images"]["pinned_images"]["sandbox"]
    assert imports(hard_way, "container-runtime-worker-0", pause) or pause.startswith("registry.k8s.io/pause:")
    runc = plugins["io.containerd.cri.v1.runtime"]["containerd"]["runtimes"]["runc"]["options"]
    assert runc["SystemdCgroup"] is True
    assert f" {runc['BinaryName']}\n" in hard_way.script("container-runtime-worker-0")


def test_kube_proxy_has_the_configured_mode_and_the_pod_range(hard_way: Run) -> None:
    document = hard_way.yaml_file(WORKER, "/etc/kubernetes/config/kube-proxy.yaml")
    assert document["mode"] == "nftables"
    pods = {machine["pod_cidr"] for machine in hard_way.outputs["machines"] if machine.get("pod_cidr")}
    assert all(IPv4Network(each).subnet_of(IPv4Network(document["clusterCIDR"])) for each in pods)


def test_kube_proxy_mode_of_the_settings_is_rendered() -> None:
    iptables = run_program("dev", {**lab_of("dev"), "network": {"kube_proxy_mode": "iptables"}})
    assert iptables.yaml_file(WORKER, "/etc/kubernetes/config/kube-proxy.yaml")["mode"] == "iptables"


def test_kube_proxy_sets_no_sysctl_of_a_shared_kernel(hard_way: Run) -> None:
    conntrack = hard_way.yaml_file(WORKER, "/etc/kubernetes/config/kube-proxy.yaml").get("conntrack")
    host = hard_way.script("host-worker-0")
    if "\nmodules " in host:
        # Its own: kube-proxy's defaults, and no swap.
        assert conntrack is None
        assert "hardway-no-swap.service" in host
    else:
        assert conntrack == {
            "maxPerCore": 0,
            "min": 0,
            "tcpEstablishedTimeout": "0s",
            "tcpCloseWaitTimeout": "0s",
        }


def documents(hard_way: Run, step: str) -> dict[str, Any]:
    """kind -> object, of the manifests that a step applies."""
    text = hard_way.file(step, f"/etc/kubernetes/manifests/{step}.yaml")
    return {document["kind"]: document for document in yaml.safe_load_all(text)}


def test_coredns_is_two_replicas_on_different_workers_at_the_tenth_address(hard_way: Run) -> None:
    objects = documents(hard_way, "dns")
    assert list(objects) == [
        "ServiceAccount",
        "ClusterRole",
        "ClusterRoleBinding",
        "ConfigMap",
        "Service",
        "Deployment",
    ]
    services = IPv4Network(hard_way.flags(CONTROLLER, "kube-apiserver")["service-cluster-ip-range"])
    assert objects["Service"]["spec"]["clusterIP"] == str(services[10])
    assert {(port["port"], port["protocol"]) for port in objects["Service"]["spec"]["ports"]} >= {
        (53, "UDP"),
        (53, "TCP"),
    }
    deployment = objects["Deployment"]["spec"]
    assert deployment["replicas"] == 2
    labels = deployment["template"]["metadata"]["labels"]
    assert deployment["selector"]["matchLabels"] == objects["Service"]["spec"]["selector"] == labels
    pod = deployment["template"]["spec"]
    (spread,) = pod["topologySpreadConstraints"]
    assert spread["topologyKey"] == "kubernetes.io/hostname"
    # Applied before there is a node: without a count of domains both would go to the first that registers.
    workers = [machine for machine in hard_way.outputs["machines"] if "worker" in machine["roles"]]
    assert (spread["whenUnsatisfiable"], spread["minDomains"]) == ("DoNotSchedule", min(2, len(workers)))
    assert pod["dnsPolicy"] == "Default", "CoreDNS must not ask itself"
    (container,) = pod["containers"]
    image = container["image"]
    assert imports(hard_way, "container-runtime-worker-0-images", image) or image.startswith("registry.k8s.io/coredns/")


def test_coredns_serves_the_clusters_domain_and_forwards_other_names(hard_way: Run) -> None:
    corefile = documents(hard_way, "dns")["ConfigMap"]["data"]["Corefile"]
    assert "kubernetes cluster.local in-addr.arpa ip6.arpa {" in corefile
    # Without it fully spelled names fail in a `search` lookup: a refusal ends the search.
    assert "forward . /etc/resolv.conf" in corefile
    assert corefile.count("{") == corefile.count("}")


def test_manifests_are_applied_server_side(hard_way: Run) -> None:
    for step in ("dns", "kubelet-access"):
        applied = f"apply --server-side --force-conflicts -f /etc/kubernetes/manifests/{step}.yaml"
        assert applied in hard_way.script(step)


@pytest.mark.parametrize(("stack", "member"), [("ha", "controller"), ("dedicated", "etcd")])
def test_machines_of_etcd_are_members_of_one_cluster(request: pytest.FixtureRequest, stack: str, member: str) -> None:
    run: Run = request.getfixturevalue(stack)
    addresses = {each["name"]: each["address"] for each in run.outputs["machines"]}
    members = {name: address for name, address in addresses.items() if name.startswith(f"{member}-")}
    assert len(members) == 3
    clients = ",".join(f"https://{address}:2379" for address in members.values())
    initial = ",".join(f"{name}=https://{address}:2380" for name, address in members.items())
    for name, address in members.items():
        flags = run.flags(f"etcd-{name}", "etcd")
        assert flags["name"] == name
        assert flags["advertise-client-urls"] == f"https://{address}:2379"
        assert flags["initial-advertise-peer-urls"] == f"https://{address}:2380"
        assert f"\njoin {name} https://{address}:2380 {initial}\n" in run.script(f"etcd-{name}")
    for number in range(2):
        apiserver = run.flags(f"control-plane-controller-{number}", "kube-apiserver")
        # Its own member alone, where it has one: requests to others would hang when their machines are lost.
        assert apiserver["etcd-servers"] == ("https://127.0.0.1:2379" if member == "controller" else clients)
        assert apiserver["advertise-address"] == addresses[f"controller-{number}"]


def test_change_of_other_members_restarts_no_member(ha: Run) -> None:
    # Its flags and what it is restarted for name no other member.
    script = ha.script("etcd-controller-0")
    unit = ha.file("etcd-controller-0", "/etc/systemd/system/etcd.service")
    assert "initial-cluster=" not in unit and "10.251.0.11" not in unit
    assert "\nEnvironmentFile=-/etc/etcd/join.env\n" in unit
    (watched,) = re.findall(r"^unit etcd\.service (.*)$", script, re.MULTILINE)
    assert {Path(path).suffix for path in watched.split()} == {".crt", ".key"}


def test_controller_without_a_member_has_etcdctl_and_its_certificate(dedicated: Run, ha: Run) -> None:
    script = dedicated.script("control-plane-controller-0")
    assert "ETCDCTL_CERT=/etc/kubernetes/pki/apiserver-etcd-client.crt" in script
    assert re.search(r"^fetch .*etcd-v.*/etcdctl'?$", script, re.MULTILINE)
    assert "ETCDCTL_CERT" not in ha.script("control-plane-controller-0")


def test_two_labs_have_different_cluster_tokens(dev: Run, ha: Run) -> None:
    tokens = {run.flags("etcd-controller-0", "etcd")["initial-cluster-token"] for run in (dev, ha)}
    assert len(tokens) == 2


def test_every_machine_has_the_host_table_of_the_whole_lab(hard_way: Run) -> None:
    expected = [f"{each['address']} {each['fqdn']} {each['name']}" for each in hard_way.outputs["machines"]]
    # The API's own domain, where it has one, stands behind the machines.
    requests = hard_way.of_type("tls:index/certRequest:CertRequest")
    (named,) = (each for each in requests if each.name == "pki-kube-apiserver")
    api = hard_way.outputs["endpoint"].removeprefix("https://").removesuffix(":6443")
    expected += [f"{api} {name}" for name in named.inputs["dnsNames"] if name.startswith("api.")]
    for machine in hard_way.outputs["machines"]:
        assert hard_way.file(f"neighbours-{machine['name']}", "/etc/hardway/hosts").splitlines() == expected


def test_readiness_checks_every_api_server_and_the_load_balancer(ha: Run) -> None:
    script = ha.script("readiness-cluster")
    for url in [*(f"https://10.251.0.{10 + number}:6443" for number in range(3)), ha.outputs["endpoint"]]:
        assert f"{url}/readyz" in script
    assert "etcdctl endpoint health --cluster" in script
    # By name, not by count: a worker that is about to be removed is still a node.
    assert "node/worker-0 node/worker-1 node/worker-2" in script
    assert "@10.43.0.10 kubernetes.default.svc.cluster.local" in ha.script("readiness-dns")
