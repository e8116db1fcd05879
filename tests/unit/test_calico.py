"""Calico: who keeps its data, what it may do, whose addresses pods get, and what it is refused with."""

import json
import re
from typing import Any

import pytest
import yaml

from config import lab as config
from config.problems import ConfigError
from config.versions import pins
from unit.conftest import program
from unit.mocked_engine import Run

IN_API, IN_ETCD, UNENCAPSULATED = "calico-test", "droplets-test", "dedicated"
OBJECTS = "/etc/calico/objects.yaml"
POOLS = "/etc/calico/pools.yaml"
CONFLIST = "/etc/cni/net.d/10-calico.conflist"


@pytest.fixture(params=[IN_API, IN_ETCD, UNENCAPSULATED])
def calico(request: pytest.FixtureRequest, no_output_in_a_string: None) -> Run:
    """The program for every kind of lab with Calico."""
    return program(request.param)


def objects(run: Run) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(run.file("calico", OBJECTS)))


def container(run: Run, kind: str) -> dict[str, Any]:
    (found,) = (each for each in objects(run) if each["kind"] == kind)
    (only,) = found["spec"]["template"]["spec"]["containers"]
    return dict(only)


def environment(run: Run, kind: str) -> dict[str, str]:
    return {each["name"]: each.get("value", "") for each in container(run, kind)["env"]}


def workers(run: Run) -> dict[str, str]:
    return {each["name"]: each["pod_cidr"] for each in run.outputs["machines"] if each.get("pod_cidr")}


def test_each_worker_has_a_pool_that_is_its_own_range(calico: Run) -> None:
    """Routes of those that are no nodes of Calico's lead to these ranges."""
    pools = {each["spec"]["nodeSelector"]: each["spec"] for each in yaml.safe_load_all(calico.file("calico", POOLS))}
    assert {selector: pool["cidr"] for selector, pool in pools.items()} == {
        f"kubernetes.io/hostname == '{name}'": cidr for name, cidr in workers(calico).items()
    }
    encapsulated = calico is not program(UNENCAPSULATED)
    for pool in pools.values():
        assert pool["vxlanMode"] == ("Always" if encapsulated else "Never")
        assert pool["ipipMode"] == "Never" and pool["natOutgoing"] is True
        assert int(pool["cidr"].partition("/")[2]) <= pool["blockSize"] <= 32


def test_pools_come_before_the_pods_that_take_addresses_from_them(calico: Run) -> None:
    script = calico.script("calico")
    assert script.index("calicoctl apply -f") < script.index(f"-f {OBJECTS}")


def test_the_pools_of_workers_that_are_gone_go(calico: Run) -> None:
    (pattern,) = re.findall(r"grep -qxE '(.*?)'", calico.script("calico"))
    assert set(pattern.split("|")) == {f"hardway-{name}" for name in workers(calico)}


def test_the_datastore_is_told_to_everybody_alike(calico: Run) -> None:
    in_etcd = calico is program(IN_ETCD)
    for kind in ("DaemonSet", "Deployment"):
        told = environment(calico, kind)
        assert told["DATASTORE_TYPE"] == ("etcdv3" if in_etcd else "kubernetes")
        assert told.get("ETCD_ENDPOINTS", "").startswith("https://") == in_etcd
    configured = calico.yaml_file("calico", "/etc/calico/calicoctl.cfg")["spec"]
    assert configured["datastoreType"] == told["DATASTORE_TYPE"]
    for name in workers(calico):
        plugin = json.loads(calico.file(f"calico-network-{name}", CONFLIST))["plugins"][0]
        assert (plugin["type"], plugin["nodename"]) == ("calico", name)
        assert plugin["datastore_type"] == told["DATASTORE_TYPE"]
        assert plugin.get("etcd_endpoints") == told.get("ETCD_ENDPOINTS") == configured.get("etcdEndpoints")


def test_only_the_lab_with_etcd_has_a_client_certificate_for_it(calico: Run) -> None:
    key = "/etc/calico/pki/etcd-client.key"
    names = {each["name"] for each in calico.outputs["certificates"]}
    assert "pki-calico-cni" in names
    if calico is not program(IN_ETCD):
        assert "pki-calico-etcd-client" not in names
        assert not any(key in calico.files(f"calico-plugin-{name}") for name in workers(calico))
        return
    for step in ("calico", *(f"calico-plugin-{name}" for name in workers(calico))):
        assert calico.files(step)[key] == "0600"
        assert "pki-calico-etcd-client" in calico.secret_file(step, key)
    # Those that read it find it, and nothing of it passes through the API.
    assert {each["kind"] for each in objects(calico)}.isdisjoint({"Secret", "ConfigMap"})
    for kind in ("DaemonSet", "Deployment"):
        assert "/etc/calico/pki" in {mount["mountPath"] for mount in container(calico, kind)["volumeMounts"]}


def test_kinds_of_objects_are_there_where_the_api_keeps_them(calico: Run) -> None:
    script, in_etcd = calico.script("calico"), calico is program(IN_ETCD)
    assert ("crds.yaml" in script) != in_etcd
    groups = {
        group
        for each in objects(calico)
        if each["kind"] == "ClusterRole"
        for rule in each["rules"]
        for group in rule["apiGroups"]
    }
    assert ("crd.projectcalico.org" in groups) != in_etcd


def test_nobody_may_do_everything(calico: Run) -> None:
    for each in objects(calico):
        for rule in each.get("rules", []):
            for key in ("apiGroups", "resources", "verbs"):
                assert "*" not in rule[key], each["metadata"]["name"]
        assert each.get("roleRef", {}).get("name") != "cluster-admin"


def test_the_plugin_is_who_its_certificate_says(calico: Run) -> None:
    (binding,) = (
        each
        for each in objects(calico)
        if each["kind"] == "ClusterRoleBinding" and each["roleRef"]["name"] == "calico-cni-plugin"
    )
    subjects = {each["name"]: each["subject"] for each in calico.outputs["certificates"]}
    assert [f"CN={subject['name']}" for subject in binding["subjects"]] == [subjects["pki-calico-cni"]]
    for name in workers(calico):
        kubeconfig = yaml.safe_load(calico.secret_file(f"calico-plugin-{name}", "/etc/calico/cni.kubeconfig"))
        # The first service address in brackets, as upstream's installer writes it, is no URL for today's Go.
        assert "[" not in kubeconfig["clusters"][0]["cluster"]["server"]


def test_a_worker_has_a_network_once_felix_is_ready(calico: Run) -> None:
    """No pod starts where nobody enforces its policies; and no other network is there for pods meanwhile."""
    for name in workers(calico):
        script = calico.script(f"calico-network-{name}")
        tunnel = "" if calico is program(UNENCAPSULATED) else "vxlan.calico"
        assert script.index(f'felix_ready 9099 "{tunnel}"\'') < script.index(f"file {CONFLIST}")
        step = calico.named(f"calico-network-{name}")
        assert {f"{name}-node", "calico"} <= calico.before(step)
        assert not any("/etc/cni/net.d" in path for path in calico.files(f"container-runtime-{name}"))
        assert f"calico-plugin-{name}" in calico.before(calico.named(f"{name}-node"))


def test_nothing_of_calicos_waits_for_the_control_plane_without_need(calico: Run) -> None:
    for name in workers(calico):
        for step in (f"calico-plugin-{name}", f"container-runtime-{name}-images"):
            assert not any(each.startswith("control-plane") for each in calico.before(calico.named(step)))
        if calico is not program(IN_ETCD):
            assert "calico" not in calico.before(calico.named(f"{name}-node"))


def test_images_are_imported_where_there_is_a_mirror(calico: Run) -> None:
    for name in workers(calico):
        script = calico.script(f"container-runtime-{name}-images")
        for image in ("calico-node", "calico-kube-controllers", "coredns"):
            assert pins().images[image].reference in script
        assert f"have_plugin {pins().images['calico-cni'].reference} file://" in calico.script(f"calico-plugin-{name}")


def test_images_are_pulled_where_there_is_none(no_output_in_a_string: None) -> None:
    run = program("gcp-classic")
    for name in workers(run):
        assert f"\nhave_plugin {pins().images['calico-cni'].reference}\n" in run.script(f"calico-plugin-{name}")


def test_readiness_knows_of_calico(calico: Run) -> None:
    script = calico.script("readiness-cluster")
    for word in ("daemonset/calico-node", "deployment/calico-kube-controllers", "condition=NetworkUnavailable=False"):
        assert word in script


def test_labs_without_calico_have_nothing_of_it(dev: Run) -> None:
    assert not any("calico" in each.name for each in dev.resources)
    assert not any("calico" in str(each.inputs.get("create", "")) for each in dev.resources)
    assert not any("calico" in product for product in dev.outputs["versions"])


def test_the_modules_that_it_needs_are_looked_for_first(calico: Run) -> None:
    wanted = ["ip_set"] if calico is program(UNENCAPSULATED) else ["ip_set", "vxlan"]
    asked = calico.named("machines-preflight", "command:local:Command").inputs["create"]
    if calico.substrate == "Machines":
        assert f'"modules":{json.dumps(wanted, separators=(",", ":"))}' in asked
    else:
        assert f"--modules {' '.join(wanted)}" in asked


@pytest.mark.parametrize(
    ("lab", "key", "says"),
    [
        ({"calico": {"datastore": "etcd"}}, "lab.calico", "pod_network is routes"),
        ({"network": {"pod_network": "calico"}, "calico": {"datastore": "redis"}}, "lab.calico.datastore", "redis"),
        (
            {"network": {"pod_network": "calico"}, "calico": {"encapsulation": "ipip"}},
            "lab.calico.encapsulation",
            "ipip",
        ),
        ({"network": {"pod_network": "flannel"}}, "lab.network.pod_network", "flannel"),
        ({"network": {"pod_network": "calico", "pods": "10.32.0.0/16"}}, "lab.network.services", "overlaps"),
    ],
)
def test_what_makes_no_sense_is_reported(lab: dict[str, Any], key: str, says: str) -> None:
    with pytest.raises(ConfigError) as refused:
        config.parse("toy", lab)
    assert any(key in problem.keys and says in f"{problem}" for problem in refused.value.problems), refused.value
