"""What the well-known guides get wrong, each with the test that would catch it here."""

from ipaddress import IPv4Network

import pytest

from lab.shipped import lab_of
from unit.mocked_engine import Run, run_program

CONTROLLER, WORKER = "control-plane-controller-0", "worker-0-node"
REQUEST = "tls:index/certRequest:CertRequest"


def test_service_range_is_the_same_in_all_programs_and_in_the_certificate(hard_way: Run) -> None:
    ranges = {
        hard_way.flags(CONTROLLER, program)["service-cluster-ip-range"]
        for program in ("kube-apiserver", "kube-controller-manager")
    }
    (services,) = ranges
    assert str(IPv4Network(services)[1]) in hard_way.named("pki-kube-apiserver", REQUEST).inputs["ipAddresses"]


def test_schedulers_certificate_has_one_organization(hard_way: Run) -> None:
    subject = hard_way.named("pki-kube-scheduler", REQUEST).inputs["subject"]
    assert (subject["commonName"], subject["organization"]) == ("system:kube-scheduler", "system:kube-scheduler")


def test_api_servers_certificate_has_the_name_that_pods_use(hard_way: Run) -> None:
    names = hard_way.named("pki-kube-apiserver", REQUEST).inputs["dnsNames"]
    assert "kubernetes.default.svc.cluster.local" in names
    assert "kubernetes.svc.cluster.local" not in names


def test_kubelets_certificate_has_the_address_that_the_api_server_connects_to(hard_way: Run) -> None:
    for machine in hard_way.outputs["machines"]:
        if machine.get("pod_cidr"):
            request = hard_way.named(f"pki-kubelet-{machine['name']}", REQUEST)
            assert machine["address"] in request.inputs["ipAddresses"]
            assert hard_way.flags(f"{machine['name']}-node", "kubelet")["node-ip"] == machine["address"]
    assert hard_way.flags(CONTROLLER, "kube-apiserver")["kubelet-preferred-address-types"].startswith("InternalIP")


def test_kubelet_configures_pods_with_the_clusters_dns_and_domain(hard_way: Run) -> None:
    kubelet = hard_way.yaml_file(WORKER, "/etc/kubernetes/config/kubelet.yaml")
    services = IPv4Network(hard_way.flags(CONTROLLER, "kube-apiserver")["service-cluster-ip-range"])
    assert kubelet["clusterDNS"] == [str(services[10])]
    assert kubelet["clusterDomain"] == "cluster.local"


def test_worker_accepts_110_pods(dev: Run) -> None:
    assert dev.yaml_file(WORKER, "/etc/kubernetes/config/kubelet.yaml")["maxPods"] == 110


def test_plugin_for_host_ports_is_configured_and_installed(hard_way: Run) -> None:
    calico = "calicoctl" in hard_way.outputs["versions"]
    step, network = ("calico-network", "calico") if calico else ("container-runtime", "bridge")
    assert "portmap" in hard_way.file(f"{step}-worker-0", f"/etc/cni/net.d/10-{network}.conflist")
    assert " portmap" in hard_way.script("container-runtime-worker-0")


def test_pods_do_not_inherit_the_machines_search_domains(hard_way: Run) -> None:
    kubelet = hard_way.yaml_file(WORKER, "/etc/kubernetes/config/kubelet.yaml")
    assert kubelet["resolvConf"] == "/etc/kubernetes/config/resolv.conf"
    unit = hard_way.file(WORKER, "/etc/systemd/system/kubelet.service")
    assert "ExecStartPre=" in unit
    assert ">/etc/kubernetes/config/resolv.conf" in unit


def test_sysctls_and_host_table_are_restored_at_boot_and_do_not_grow(hard_way: Run) -> None:
    for machine in hard_way.outputs["machines"]:
        assert "net.ipv4.ip_forward = 1" in hard_way.file(f"host-{machine['name']}", "/etc/sysctl.d/90-hardway.conf")
        step = f"neighbours-{machine['name']}"
        script = hard_way.script(step)
        assert "put_block /etc/hosts hardway </etc/hardway/hosts" in script
        # Nothing is ever appended to a file that a machine has already.
        assert ">>" not in script + hard_way.script(f"host-{machine['name']}")
        unit = hard_way.file(step, "/etc/systemd/system/hardway-hosts.service")
        assert "WantedBy=multi-user.target" in unit, "container engines write /etc/hosts again at every start"


def test_service_account_issuer_has_a_name_that_pods_can_resolve(hard_way: Run) -> None:
    flags = hard_way.flags(CONTROLLER, "kube-apiserver")
    assert flags["service-account-issuer"] == "https://kubernetes.default.svc.cluster.local"
    assert flags["service-account-jwks-uri"].startswith(flags["service-account-issuer"])


def test_all_urls_of_etcd_but_metrics_have_tls(hard_way: Run) -> None:
    flags = hard_way.flags(hard_way.etcd_step, "etcd")
    for name, value in flags.items():
        if name.endswith("-urls") and name != "listen-metrics-urls":
            assert all(url.startswith("https://") for url in value.split(",")), name
    assert flags["listen-metrics-urls"].startswith("http://127.0.0.1:")
    servers = hard_way.flags(CONTROLLER, "kube-apiserver")["etcd-servers"].split(",")
    assert all(url.startswith("https://") for url in servers)


AGGREGATION = {
    "requestheader-client-ca-file",
    "requestheader-allowed-names",
    "requestheader-username-headers",
    "requestheader-group-headers",
    "requestheader-extra-headers-prefix",
    "proxy-client-cert-file",
    "proxy-client-key-file",
    "enable-aggregator-routing",
}


def test_api_server_has_all_flags_of_the_aggregation_layer(hard_way: Run) -> None:
    flags = hard_way.flags(CONTROLLER, "kube-apiserver")
    assert {name for name in AGGREGATION if flags.get(name)} == AGGREGATION


def test_aggregated_apis_trust_the_front_proxys_ca_only(hard_way: Run) -> None:
    flags = hard_way.flags(CONTROLLER, "kube-apiserver")
    name = hard_way.named("pki-front-proxy-client", REQUEST).inputs["subject"]["commonName"]
    assert flags["requestheader-allowed-names"] == name
    assert flags["requestheader-client-ca-file"] != flags["client-ca-file"]


def test_workers_connect_to_the_load_balancer_only(ha: Run) -> None:
    controllers = [each["address"] for each in ha.outputs["machines"] if each["roles"] == ["controller"]]
    for machine in ha.outputs["machines"]:
        if machine["roles"] == ["worker"]:
            step = f"{machine['name']}-node"
            everything = ha.script(step) + "".join(
                ha.secret_file(step, f"/etc/kubernetes/{name}.kubeconfig") for name in ("kubelet", "kube-proxy")
            )
            assert not [address for address in controllers if address in everything]


def test_controllers_can_reach_pods_for_the_api_servers_proxies(hard_way: Run) -> None:
    pods = [each["pod_cidr"] for each in hard_way.outputs["machines"] if each.get("pod_cidr")]
    if of_network := hard_way.of_type("gcp:compute/route:Route"):
        assert {each.inputs["destRange"] for each in of_network} == set(pods)
        assert not any("tags" in each.inputs for each in of_network), "tags would leave machines out"
        return
    for each in hard_way.outputs["machines"]:
        if each["roles"] == ["controller"]:
            routes = hard_way.file(f"neighbours-{each['name']}", "/etc/hardway/pod-routes")
            assert all(f"route replace {cidr} via" in routes for cidr in pods)


@pytest.mark.parametrize(("node_prefix", "services"), [(22, "10.96.0.0/12"), (25, "172.20.0.0/28")])
def test_derived_addresses_agree_for_other_ranges(node_prefix: int, services: str) -> None:
    network = {"node_prefix": node_prefix, "services": services}
    run = run_program("dev", {**lab_of("dev"), "network": network})
    tenth = str(IPv4Network(services)[10])
    assert run.yaml_file(WORKER, "/etc/kubernetes/config/kubelet.yaml")["clusterDNS"] == [tenth]
    assert f"clusterIP: {tenth}\n" in run.script("dns")
    assert f"@{tenth} " in run.script("readiness-dns")
    assert str(IPv4Network(services)[1]) in run.named("pki-kube-apiserver", REQUEST).inputs["ipAddresses"]
