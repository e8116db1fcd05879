"""What lab 3 asks for, on hosts of a user's own."""

import json

from lab import policies
from lab.cluster import Cluster
from lab.commands import toolchain
from lab.flows import Flows
from lab.polling import eventually
from lab.workload import NAMESPACE, Workload, image

_ETCDCTL = ". /etc/etcd/etcdctl.env && etcdctl"
_KEPT = "/registry/secrets/default/kept"


def test_anonymous_clients_may_request_healthz_by_the_domain(cluster: Cluster) -> None:
    """`curl -k https://DOMAIN/healthz`."""
    domain = cluster.settings.settings.load_balancing.domain
    for machine in cluster.machines:
        assert cluster.ssh(machine.name, f"curl -ks --max-time 5 https://{domain}/healthz") == "ok"


def test_calico_keeps_its_data_in_etcd_under_a_name_of_its_own(cluster: Cluster) -> None:
    """A Calico on the Kubernetes API; one that uses the API server's certificate."""
    controller = cluster.controller.name
    keys = cluster.ssh(controller, f"{_ETCDCTL} get --prefix --keys-only /calico/").split()
    ours = f"/calico/resources/v3/projectcalico.org/ippools/hardway-{cluster.workers[0].name}"
    assert ours in keys, keys
    assert cluster.get("customresourcedefinitions")["items"] == []
    subject = cluster.ssh(cluster.workers[0].name, "openssl x509 -noout -subject -in /etc/calico/pki/etcd-client.crt")
    assert subject.replace(" ", "").strip().endswith("CN=calico-etcd-client")
    pools = json.loads(cluster.ssh(controller, "calicoctl get ippools -o json"))
    assert [pool["spec"]["cidr"] for pool in pools["items"]] == [str(worker.pod_cidr) for worker in cluster.workers]


def test_certificates_and_encryption_are_as_the_author_has_them(cluster: Cluster) -> None:
    """Settings of a stack that reach the files of the program, and not the machines."""
    controller = cluster.controller.name
    shown = cluster.ssh(controller, "openssl x509 -noout -text -in /etc/kubernetes/pki/kube-apiserver.crt")
    assert "Public-Key: (2048 bit)" in shown and "rsaEncryption" in shown
    for line in (each.strip() for each in shown.splitlines() if "Issuer:" in each or "Subject:" in each):
        said = line.replace(" ", "")
        assert all(f"{field}," in said for field in ("C=GB", "ST=England", "L=London", "OU=KubernetesTheHardWay")), line
    cluster.kubectl("create", "secret", "generic", "kept", "--from-literal=word=plain-text")
    try:
        stored = cluster.ssh(controller, f"{_ETCDCTL} get --print-value-only {_KEPT} | head -c 23")
    finally:
        cluster.kubectl("delete", "secret", "kept")
    assert stored.startswith("k8s:enc:aescbc:v1:key"), stored


def test_a_dnsutils_pod_looks_up_kubernetes(workload: Workload) -> None:
    """`kubectl exec -ti dnsutils -- nslookup kubernetes`."""
    cluster = workload.cluster
    container = {"name": "dnsutils", "image": image("agnhost"), "imagePullPolicy": "IfNotPresent", "args": ["pause"]}
    cluster.apply(
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": "dnsutils", "namespace": "default"},
            "spec": {"containers": [container], "terminationGracePeriodSeconds": 0},
        }
    )
    eventually(
        "dnsutils running",
        lambda: cluster.get("pod", "dnsutils")["status"]["phase"] == "Running",
        seconds=60,
        report=cluster.situation,
    )
    said = cluster.kubectl("exec", "dnsutils", "--", "nslookup", "kubernetes")
    network = cluster.settings.network
    assert f"Server:\t\t{network.dns_service}" in said and f"Address: {network.api_service}" in said, said
    cluster.kubectl("delete", "pod", "dnsutils")


def test_the_api_server_reaches_pods(workload: Workload) -> None:
    pod = workload.web[0]
    at = f"/api/v1/namespaces/{NAMESPACE}/pods/{pod.name}:8080/proxy/hostname"
    assert workload.cluster.raw(at) == pod.name


def test_policies_are_enforced(workload: Workload) -> None:
    """kube-controllers that do not bring policies to etcd, or Felix that does not get them."""
    flows = Flows(workload=workload)
    flows.are_open("web", "dns", "api")
    flows.apply(policies.default_deny())
    flows.are_closed("web", "dns", "api")
    flows.apply(policies.allow_dns(), *policies.allow_by_label())
    flows.are_open("dns")
    flows.are_closed("web", "api")
    flows.label()
    flows.are_open("web")
    workload.cluster.kubectl("delete", "networkpolicies", "--all", "--namespace", NAMESPACE)
    flows.are_open("web", "dns", "api")


def test_a_second_up_changes_nothing(cluster: Cluster) -> None:
    up = toolchain("up", stack=cluster.settings.name)
    assert up.code == 0, up.output
    assert up.summary.keys() == {"unchanged"}, up.output
