"""Lab 2 on Google Cloud: every argument of every resource, both forms of load balancing, and what is refused."""

import hashlib
import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pulumi
import pytest

from components.substrates.gcp.identity import mark_of
from config.artifacts import UPSTREAM
from config.lab import load, parse
from config.problems import ConfigError, Problem
from lab.shipped import lab_of
from unit.conftest import program
from unit.mocked_engine import Registered, Run, external_address, run, run_program
from unit.node_tools import NodeTools

HEALTH_CHECKERS = ["35.191.0.0/16", "209.85.152.0/22", "209.85.204.0/22"]
IDENTITY = hashlib.sha256(b"machines-ssh").hexdigest()[:40]
LABELS = {"hardway-lab": "gcp", "hardway-key": IDENTITY}
DISK_LABELS = {"hardway-lab": "gcp"}
DESCRIPTION = f"hardway-lab=gcp hardway-key={IDENTITY}"
DESCRIBED = (
    *("Network", "Subnetwork", "Firewall", "Route", "Account", "RegionHealthCheck", "InstanceGroup"),
    *("RegionBackendService", "HttpHealthCheck", "TargetPool"),
)
"""Kinds that have no labels."""
STARTUP = Path(__file__).parents[2] / "components" / "substrates" / "gcp" / "startup.sh"


@pytest.fixture
def gcp(no_output_in_a_string: None) -> Run:
    return program("gcp")


@pytest.fixture
def classic(no_output_in_a_string: None) -> Run:
    return program("gcp-classic")


def link(name: str) -> str:
    return f"https://google.example/{name}"


def of_google(made: Run) -> dict[tuple[str, str], Registered]:
    """Everything that Google is asked for: short type and name -> resource."""
    found = [each for each in made.resources if each.type.startswith("gcp:")]
    return {(each.type.split(":")[-1], each.name): each for each in found}


def instance(number: int, role: str) -> dict[str, Any]:
    """What lab 2 says of an instance, and what this project adds."""
    name = f"{role}-{number}"
    last = {"controller": 10, "worker": 20}[role] + number
    return {
        "name": f"hardway-gcp-{name}",
        "hostname": f"{name}.gcp.hardway.internal",
        "zone": f"us-central1-{'abc'[(int.from_bytes(bytes([10, 240, 0, last])) % 3)]}",
        "machineType": "e2-standard-2",
        "bootDisk": {
            "initializeParams": {
                "image": "debian-cloud/debian-13",
                "size": 20,
                "type": "pd-balanced",
                "labels": DISK_LABELS,
            }
        },
        "networkInterfaces": [
            {
                "subnetwork": "id-machines-subnet",
                "networkIp": f"10.240.0.{last}",
                "accessConfigs": [{"natIp": external_address(f"machines-{name}-address")}],
            }
        ],
        "canIpForward": True,
        "metadata": {
            "ssh-keys": "root:ssh-ed25519 PUBLIC-machines-ssh",
            "startup-script": STARTUP.read_text(),
            "hardway-host-key": f"PRIVATE-KEY-machines-{name}-host-key-openssh\n",
            "block-project-ssh-keys": "TRUE",
            "enable-oslogin": "FALSE",
            **({"pod-cidr": f"10.200.{number}.0/24"} if role == "worker" else {}),
        },
        "tags": [role],
        "labels": LABELS,
        "serviceAccount": {
            "email": "machines-account@google.example",
            "scopes": ["https://www.googleapis.com/auth/userinfo.email"],
        },
        "shieldedInstanceConfig": {
            "enableSecureBoot": True,
            "enableVtpm": True,
            "enableIntegrityMonitoring": True,
        },
        "allowStoppingForUpdate": True,
        "desiredStatus": "RUNNING",
    }


def address(name: str) -> dict[str, Any]:
    return {"name": f"hardway-gcp-{name}", "region": "us-central1", "addressType": "EXTERNAL", "labels": LABELS}


MACHINES = [f"{role}-{number}" for role in ("controller", "worker") for number in range(3)]

LAB_2: Mapping[tuple[str, str], Mapping[str, Any]] = {
    # A VPC network, and a subnet of 10.240.0.0/24.
    ("Network", "machines-network"): {"name": "hardway-gcp", "autoCreateSubnetworks": False, "mtu": 1500},
    ("Subnetwork", "machines-subnet"): {
        "name": "hardway-gcp",
        "network": "id-machines-network",
        "region": "us-central1",
        "ipCidrRange": "10.240.0.0/24",
    },
    # Firewall: all protocols between machines and pods; SSH, ICMP and the API from outside.
    ("Firewall", "machines-internal"): {
        "name": "hardway-gcp-internal",
        "network": "id-machines-network",
        "allows": [{"protocol": "tcp"}, {"protocol": "udp"}, {"protocol": "icmp"}],
        "sourceRanges": ["10.240.0.0/24", "10.200.0.0/16"],
    },
    ("Firewall", "machines-external"): {
        "name": "hardway-gcp-external",
        "network": "id-machines-network",
        "allows": [{"protocol": "tcp", "ports": ["22", "6443"]}, {"protocol": "icmp"}],
        "sourceRanges": ["203.0.113.0/24"],
    },
    ("Firewall", "machines-balancer-health"): {
        "name": "hardway-gcp-health",
        "network": "id-machines-network",
        "allows": [{"protocol": "tcp", "ports": ["6443"]}],
        "sourceRanges": HEALTH_CHECKERS,
        "targetTags": ["controller"],
    },
    ("Firewall", "machines-balancer-api"): {
        "name": "hardway-gcp-api",
        "network": "id-machines-network",
        "allows": [{"protocol": "tcp", "ports": ["6443"]}],
        "sourceRanges": [f"{external_address(f'machines-{machine}-address')}/32" for machine in MACHINES],
        "targetTags": ["controller"],
    },
    # A static address for the API; one for each machine, too.
    ("Address", "machines-api-address"): address("api"),
    **{("Address", f"machines-{machine}-address"): address(machine) for machine in MACHINES},
    # Controllers at 10.240.0.1i, workers at 10.240.0.2i with their pod range in the metadata.
    **{("Instance", f"machines-controller-{number}"): instance(number, "controller") for number in range(3)},
    **{("Instance", f"machines-worker-{number}"): instance(number, "worker") for number in range(3)},
    **{
        ("Route", f"machines-worker-{number}-pods"): {
            "name": f"hardway-gcp-worker-{number}",
            "network": "id-machines-network",
            "destRange": f"10.200.{number}.0/24",
            "nextHopIp": f"10.240.0.2{number}",
        }
        for number in range(3)
    },
    ("Account", "machines-account"): {
        "accountId": "hardway-gcp",
        "displayName": "Machines of the lab gcp: without any role",
    },
    # Load balancing, regional.
    ("RegionHealthCheck", "machines-balancer-check"): {
        "name": "hardway-gcp-api",
        "region": "us-central1",
        "httpsHealthCheck": {"port": 6443, "requestPath": "/readyz"},
        "checkIntervalSec": 2,
        "timeoutSec": 2,
        "healthyThreshold": 1,
        "unhealthyThreshold": 3,
    },
    **{
        ("InstanceGroup", f"machines-balancer-us-central1-{zone}"): {
            "name": f"hardway-gcp-us-central1-{zone}",
            "zone": f"us-central1-{zone}",
            "network": "id-machines-network",
        }
        for zone in "abc"
    },
    **{
        ("InstanceGroupMembership", f"machines-balancer-controller-{number}"): {
            "zone": instance(number, "controller")["zone"],
            "instanceGroup": f"hardway-gcp-{instance(number, 'controller')['zone']}",
            "instance": link(f"machines-controller-{number}"),
        }
        for number in range(3)
    },
    ("RegionBackendService", "machines-balancer-service"): {
        "name": "hardway-gcp-api",
        "region": "us-central1",
        "loadBalancingScheme": "EXTERNAL",
        "protocol": "TCP",
        "healthChecks": "id-machines-balancer-check",
        "backends": [
            {"group": link(f"machines-balancer-us-central1-{zone}"), "balancingMode": "CONNECTION"} for zone in "abc"
        ],
    },
    ("ForwardingRule", "machines-balancer-rule"): {
        "name": "hardway-gcp-api",
        "region": "us-central1",
        "loadBalancingScheme": "EXTERNAL",
        "ipAddress": external_address("machines-api-address"),
        "ipProtocol": "TCP",
        "portRange": "6443",
        "backendService": "id-machines-balancer-service",
        "labels": LABELS,
    },
}
"""All that the stack `gcp` asks Google for, and nothing else."""


def test_gcp_creates_exactly_the_resources_of_the_table(gcp: Run) -> None:
    assert of_google(gcp).keys() == LAB_2.keys()


@pytest.mark.parametrize("key", sorted(LAB_2))
def test_resource_arguments_equal_those_of_lab_2(gcp: Run, key: tuple[str, str]) -> None:
    given = {name: value for name, value in of_google(gcp)[key].inputs.items() if name != "__defaults"}
    if key[0] == "Firewall":
        assert given.pop("direction", "INGRESS") == "INGRESS"
    if key[0] in DESCRIBED:
        assert given.pop("description") == DESCRIPTION
    assert given == LAB_2[key]


def test_resources_have_the_identity_and_older_labs_are_not_replaced(gcp: Run, classic: Run) -> None:
    """A membership goes with its group. A changed description would be another resource; labels would not."""
    for lab in (gcp, classic):
        for (kind, _), each in of_google(lab).items():
            if kind == "InstanceGroupMembership":
                continue
            mark = mark_of(each.inputs)
            assert mark.identity == IDENTITY and mark.lab in ("gcp", "gcp-classic"), each.name
            assert ("labels" in each.inputs) != (kind in DESCRIBED)
            assert list(each.request.ignoreChanges) == (["description"] if kind in DESCRIBED else [])
            assert "labels" not in each.request.replaceOnChanges


CLASSIC: Mapping[tuple[str, str], Mapping[str, Any]] = {
    ("HttpHealthCheck", "machines-balancer-check"): {
        "name": "hardway-gcp-classic-api",
        "port": 80,
        "requestPath": "/healthz",
        "checkIntervalSec": 2,
        "timeoutSec": 2,
        "healthyThreshold": 1,
        "unhealthyThreshold": 3,
    },
    ("TargetPool", "machines-balancer-pool"): {
        "name": "hardway-gcp-classic-api",
        "region": "us-central1",
        "healthChecks": "id-machines-balancer-check",
        "instances": ["us-central1-b/hardway-gcp-classic-controller-0"],
    },
    ("ForwardingRule", "machines-balancer-rule"): {
        "name": "hardway-gcp-classic-api",
        "region": "us-central1",
        "loadBalancingScheme": "EXTERNAL",
        "ipAddress": external_address("machines-api-address"),
        "ipProtocol": "TCP",
        "portRange": "6443",
        "target": link("machines-balancer-pool"),
        "labels": {"hardway-lab": "gcp-classic", "hardway-key": IDENTITY},
    },
    ("Firewall", "machines-balancer-health"): {
        "name": "hardway-gcp-classic-health",
        "network": "id-machines-network",
        "allows": [{"protocol": "tcp", "ports": ["80"]}],
        "sourceRanges": HEALTH_CHECKERS,
        "targetTags": ["controller"],
    },
}


@pytest.mark.parametrize("key", sorted(CLASSIC))
def test_classic_health_check_requests_healthz_from_nginx(classic: Run, key: tuple[str, str]) -> None:
    given = dict(of_google(classic)[key].inputs)
    if key[0] in DESCRIBED:
        assert given.pop("description") == f"hardway-lab=gcp-classic hardway-key={IDENTITY}"
    assert given == CLASSIC[key]


def test_each_load_balancing_creates_no_resource_of_the_other(gcp: Run, classic: Run) -> None:
    one, other = ({kind for kind, _ in of_google(lab)} for lab in (gcp, classic))
    assert one - other == {"RegionHealthCheck", "RegionBackendService", "InstanceGroup", "InstanceGroupMembership"}
    assert other - one == {"HttpHealthCheck", "TargetPool"}


def test_controllers_answer_both_health_checks(gcp: Run, classic: Run) -> None:
    """Without a certificate of the client: anonymous clients may ask for health, and nothing else."""
    path = "/etc/kubernetes/config/authentication.yaml"
    anonymous = gcp.yaml_file("control-plane-controller-0", path)["anonymous"]
    asked = of_google(gcp)["RegionHealthCheck", "machines-balancer-check"].inputs["httpsHealthCheck"]["requestPath"]
    assert {"path": asked} in anonymous["conditions"]
    assert "location = /healthz {" in classic.file("control-plane-controller-0", "/etc/nginx/nginx.conf")


def test_spot_machines_are_stopped_and_not_deleted(gcp: Run, classic: Run) -> None:
    for (kind, _), each in of_google(classic).items():
        if kind == "Instance":
            assert each.inputs["scheduling"] == {
                "provisioningModel": "SPOT",
                "preemptible": True,
                "automaticRestart": False,
                "instanceTerminationAction": "STOP",
            }
    assert not any("scheduling" in each.inputs for each in of_google(gcp).values())


def test_all_addresses_are_allowed_only_by_name(classic: Run) -> None:
    assert of_google(classic)["Firewall", "machines-external"].inputs["sourceRanges"] == ["0.0.0.0/0"]


def test_dedicated_etcd_members_are_no_backends(classic: Run) -> None:
    members = [each for (kind, name), each in of_google(classic).items() if kind == "Instance" and "-etcd-" in name]
    assert [each.inputs["tags"] for each in members] == [["etcd"]] * 3
    assert "etcd" not in str(of_google(classic)["TargetPool", "machines-balancer-pool"].inputs["instances"])


def test_workers_and_users_use_the_static_address_and_the_control_plane_its_own(gcp: Run) -> None:
    endpoint = f"https://{external_address('machines-api-address')}:6443"
    assert gcp.outputs["endpoint"] == endpoint
    assert endpoint in gcp.outputs["kubeconfig"]
    for file in ("kubelet", "kube-proxy"):
        path = next(path for path in gcp.files("worker-0-node") if path.endswith(f"{file}.kubeconfig"))
        assert endpoint in gcp.secret_file("worker-0-node", path)
    for program_ in ("kube-controller-manager", "kube-scheduler"):
        path = f"/etc/kubernetes/{program_}.kubeconfig"
        assert "https://127.0.0.1:6443" in gcp.secret_file("control-plane-controller-0", path)
    request = gcp.named("pki-kube-apiserver", "tls:index/certRequest:CertRequest")
    assert external_address("machines-api-address") in request.inputs["ipAddresses"]


def test_ssh_uses_external_and_machines_use_internal_addresses(gcp: Run) -> None:
    hosts = {each.inputs["connection"]["host"] for each in gcp.of_type("command:remote:Command")}
    assert hosts == {external_address(f"machines-{machine}-address") for machine in MACHINES}
    assert gcp.flags("control-plane-controller-0", "kube-apiserver")["advertise-address"] == "10.240.0.10"
    assert "10.240.0.20 worker-0.gcp.hardway.internal worker-0" in gcp.script("neighbours-controller-0")


def test_host_key_is_secret_and_everything_else_is_shown_in_a_preview(gcp: Run) -> None:
    for (kind, _), each in of_google(gcp).items():
        assert each.secret == ({"metadata"} if kind == "Instance" else frozenset())
        if kind == "Instance":
            assert "metadata" in each.request.additionalSecretOutputs
            raw = each.request.object["metadata"]
            hidden = [name for name in raw if not isinstance(raw[name], str)]
            assert hidden == ["hardway-host-key"]


def test_machines_use_official_releases_and_published_checksums(gcp: Run) -> None:
    fetched = [
        line.split()
        for step in ("worker-0-node", "control-plane-controller-0", "etcd-controller-0")
        for line in gcp.script(step).splitlines()
        if line.startswith("fetch ")
    ]
    assert fetched
    lab = parse("gcp", lab_of("gcp"))
    assert lab.artifacts.base_url == UPSTREAM
    assert not lab.artifacts.checksums, "a mirror of the host may hold what was built here"
    for _, url, sha256, *_ in fetched:
        assert re.match(r"https://(dl\.k8s\.io|github\.com)/", url)
        assert sha256 == "published" or re.fullmatch("[0-9a-f]{64}", sha256)


@pytest.mark.parametrize(
    ("later", "earlier"),
    [
        ("machines-network", "machines-preflight"),
        ("machines-network", "machines-quorum"),
        ("machines-controller-0", "machines-quorum"),
        ("machines-account", "machines-preflight"),
        ("machines-worker-0-address", "machines-quorum"),
        ("machines-worker-0-login", "machines-worker-0"),
        ("machines-worker-0-login", "machines-external"),
        ("machines-worker-0-login", "machines-internal"),
        ("machines-worker-0-login", "machines-worker-0-pods"),
        ("host-worker-0", "machines-worker-0-login"),
        ("worker-0-node", "machines-balancer-rule"),
        ("worker-0-node", "machines-balancer-api"),
        ("worker-0-node", "machines-balancer-health"),
        ("worker-0-node", "machines-balancer-controller-2"),
        ("kubelet-access", "machines-balancer-rule"),
        ("machines-balancer-rule", "machines-balancer-controller-0"),
    ],
)
def test_the_order_is_in_the_graph(gcp: Run, later: str, earlier: str) -> None:
    (resource,) = (
        each for each in gcp.resources if each.request.custom and each.name == later and "tls" not in each.type
    )
    assert earlier in gcp.before(resource)


def test_machines_and_load_balancer_are_created_in_parallel(gcp: Run) -> None:
    for one, other in (("controller-0", "controller-1"), ("worker-0", "controller-0")):
        assert f"machines-{other}" not in gcp.before(gcp.machines[external_address(f"machines-{one}-address")])
    for step in gcp.of_type("command:remote:Command"):
        if step.name.startswith(("host-", "etcd-controller", "control-plane")):
            assert "machines-balancer-rule" not in gcp.before(step), step.name


def test_resources_with_fixed_names_are_deleted_before_they_are_replaced(gcp: Run) -> None:
    for each in of_google(gcp).values():
        assert each.request.deleteBeforeReplace, each.name


def test_preview_sends_no_request_to_google(gcp: Run) -> None:
    """No data source: the mocked engine fails on every call."""
    assert run_program("gcp", lab_of("gcp"), preview=True).resources


def test_machine_type_change_is_no_new_machine_for_the_quorum_guard(gcp: Run) -> None:
    def members(**settings: Any) -> str:
        lab = {**lab_of("gcp"), "workers": 1, "gcp": {**lab_of("gcp")["gcp"], **settings}}
        return str(run_program("gcp", lab).named("machines-quorum", "command:local:Command").inputs["create"])

    before = members()
    assert members(controller_type="e2-standard-4", sources=["0.0.0.0/0"]) == before
    changes = ({"image": "debian-cloud/debian-12"}, {"spot": True}, {"zones": ["us-central1-f"]}, {"max_run_hours": 2})
    for change in changes:
        assert len(set(members(**change).split()) - set(before.split())) == 3, change


def test_a_machines_zone_does_not_depend_on_the_others(gcp: Run) -> None:
    fewer = run_program("gcp", {**lab_of("gcp"), "workers": [{"name": "worker-2"}]})
    (zone,) = (each.inputs["zone"] for each in fewer.machines.values() if each.name == "machines-worker-2")
    assert zone == LAB_2["Instance", "machines-worker-2"]["zone"]


# What is refused.


def problems(stack: str = "gcp", **lab: Any) -> tuple[Problem, ...]:
    with pytest.raises(ConfigError) as caught:
        parse(stack, {**lab_of("gcp"), **lab})
    return caught.value.problems


def settings(**keys: Any) -> dict[str, Any]:
    return {"gcp": {**lab_of("gcp")["gcp"], **keys}}


BAD: dict[str, tuple[dict[str, Any], str, str, str]] = {
    "no sources": (settings(sources=[]), "lab.gcp.sources", "no client could reach", "write 0.0.0.0/0"),
    "sources that are the world in pieces": (
        settings(sources=["0.0.0.0/1", "128.0.0.0/1"]),
        "lab.gcp.sources",
        "contain all addresses",
        "write 0.0.0.0/0",
    ),
    "a source that is no range": (settings(sources=["home"]), "lab.gcp.sources[0]", "no IPv4 range", "10.240.0.0/24"),
    "a zone of another region": (
        settings(zones=["us-central1-a", "europe-west3-b"]),
        "lab.gcp.zones[1]",
        "europe-west3-b is no zone of the region us-central1",
        "us-central1-b",
    ),
    "a zone twice": (
        settings(zones=["us-central1-a", "us-central1-a"]),
        "lab.gcp.zones[1]",
        "in the list already",
        "once",
    ),
    "a region where a zone should be": (settings(zones=["us-central1"]), "lab.gcp.zones[0]", "pattern", ""),
    "no region": (settings(region="Frankfurt"), "lab.gcp.region", "pattern", ""),
    "no machine type": (settings(worker_type="large"), "lab.gcp.worker_type", "pattern", ""),
    "a machine type of another disk": (settings(worker_type="c4-standard-2"), "lab.gcp.worker_type", "pattern", ""),
    "an image of nobody": (
        settings(image="windows-cloud/windows-2022"),
        "lab.gcp.image",
        "no supported image family",
        "debian-cloud/debian-13",
    ),
    "a Debian without security updates": (
        settings(image="debian-cloud/debian-11"),
        "lab.gcp.image",
        "debian-cloud/debian-11 is no supported image family",
        "debian-cloud/debian-13",
    ),
    "spot machines that would be deleted": (
        settings(spot=True, max_run_hours=48),
        "lab.gcp.max_run_hours",
        "Google would delete a spot machine",
        "leave one of them out",
    ),
    "a run that is longer than Google has": (
        settings(max_run_hours=2881),
        "lab.gcp.max_run_hours",
        "less than or equal to 2880",
        "",
    ),
    "a label in capitals": (settings(labels={"owner": "Me"}), "lab.gcp.labels.owner", "pattern", ""),
    "the lab's own label": (settings(labels={"hardway-lab": "x"}), "lab.gcp.labels", "own label", "another key"),
    "the label of the lab's key": (settings(labels={"hardway-key": "x"}), "lab.gcp.labels", "own label", "another key"),
    "another kind of addresses": (settings(addresses="none"), "lab.gcp.addresses", "'static' or 'ephemeral'", ""),
    "a type of another architecture": (
        settings(worker_type="t2a-standard-2"),
        "lab.gcp.worker_type",
        "t2a-standard-2 machines are arm64, and the image debian-cloud/debian-13 is amd64",
        "debian-13-arm64",
    ),
    "another kind of load balancing": (
        settings(load_balancing="global"),
        "lab.gcp.load_balancing",
        "'regional' or 'classic'",
        "",
    ),
    "spot in words": (settings(spot="yes"), "lab.gcp.spot", "valid boolean ('yes')", ""),
    "an unknown key": (settings(zone="us-central1-a"), "lab.gcp.zone", "unknown key", "spelling"),
    "a machine with HAProxy": (
        {"load_balancers": 1},
        "lab.load_balancers",
        "a forwarding rule of Google",
        "leave it out",
    ),
    "machines with HAProxy by name": (
        {"load_balancers": [{"name": "load-balancer-0"}]},
        "lab.load_balancers",
        "a forwarding rule of Google",
        "leave it out",
    ),
    "tls that ends at the balancer": (
        {"load_balancing": {"mode": "terminate", "domain": "api.hardway.example"}},
        "lab.load_balancing.mode",
        "a lab on gcp has no HAProxy",
        "leave it out",
    ),
    "an address that Google keeps": (
        {"workers": [{"name": "worker-0", "address": "10.240.0.254"}]},
        "lab.workers[0]",
        "Google reserves the second last",
        "another address",
    ),
}


@pytest.mark.parametrize("kind", sorted(BAD))
def test_mistake_is_reported_with_key_and_solution(kind: str) -> None:
    lab, key, what, fix = BAD[kind]
    problem = problems(**lab)[0]
    assert problem.keys[0] == key
    assert what in problem.what
    assert fix in problem.fix


def test_a_range_too_small_for_google_is_reported() -> None:
    assert any("at most a prefix of 29" in each.what for each in problems(network={"nodes": "10.240.0.0/30"}))


def test_a_name_that_google_does_not_take_is_reported() -> None:
    long = {"name": f"{'a' * 37}-20", "address": "10.240.0.20", "pod_cidr": "10.200.0.0/24"}
    (problem,) = problems("a" * 20, workers=[long])
    assert problem.keys[0] == "lab.workers[0]"
    assert "69 letters" in problem.what


def test_all_problems_are_in_one_report() -> None:
    found = problems(**settings(sources=[], zones=["europe-west3-b"], worker_type="x"), load_balancers=2)
    assert [each.keys[0] for each in found] == [
        "lab.gcp.worker_type",
        "lab.load_balancers",
        "lab.gcp.sources",
        "lab.gcp.zones[0]",
    ]


def small(**keys: Any) -> dict[str, Any]:
    """A lab with one machine of each role: it takes half of the time."""
    return {**lab_of("gcp"), "controllers": 1, "workers": 1, **keys}


def test_the_api_may_have_a_name() -> None:
    lab = run_program("gcp", small(load_balancing={"domain": "api.hardway.example"}))
    table = lab.file("neighbours-worker-0", "/etc/hardway/hosts")
    assert f"{external_address('machines-api-address')} api.hardway.example\n" in table


def test_zero_load_balancers_are_accepted() -> None:
    assert parse("gcp", {**lab_of("gcp"), "load_balancers": 0}).machines


def test_arm_machine_type_needs_arm_image_and_artifacts() -> None:
    arm = settings(controller_type="t2a-standard-1", worker_type="t2a-standard-1", image="debian-cloud/debian-12-arm64")
    lab = run_program("gcp", small(**arm))
    assert "/arm64/kubelet " in lab.script("worker-0-node")


@pytest.mark.parametrize(("project", "missing"), [(None, True), ("", True), ("mine", False)])
def test_a_lab_without_a_project_is_refused(project: str | None, missing: bool) -> None:
    reports: list[ConfigError | None] = []

    def ask() -> None:
        given = {} if project is None else {"gcp:project": project}
        pulumi.runtime.set_all_config(
            {**given, "hardway:lab": '{"substrate": "gcp", "gcp": {"sources": ["0.0.0.0/0"]}}'}
        )
        try:
            load()
            reports.append(None)
        except ConfigError as error:
            reports.append(error)

    run(ask, stack="gcp")
    (report,) = reports
    assert (report is not None) == missing
    if report is not None:
        assert [problem.keys[0] for problem in report.problems] == ["gcp:project"]
        assert "write `gcp:project: YOUR-PROJECT` below `config` in Pulumi.gcp.yaml" in str(report)


def test_a_preview_runs_no_preflight_and_an_up_runs_it_with_all_that_the_lab_needs(gcp: Run) -> None:
    script = gcp.named("machines-preflight", "command:local:Command").inputs["create"]
    command = shlex.split(script.splitlines()[1])
    assert command[:3] == ["exec", ".venv/bin/python", "components/substrates/gcp/preflight.py"]
    given = " ".join(command[3:])
    assert given == (
        "--project a-project --lab gcp --region us-central1 --sources 203.0.113.0/24 --machines "
        + " ".join(f"hardway-gcp-{machine}=e2-standard-2" for machine in MACHINES)
        + " --static hardway-gcp-api "
        + " ".join(f"hardway-gcp-{machine}" for machine in MACHINES)
        + f" --key {IDENTITY} --names hardway-gcp"
        + "".join(f" hardway-gcp-{what}" for what in ("internal", "external", "health", "api"))
        + "".join(f" hardway-gcp-us-central1-{zone}" for zone in "abc")
        + "".join(f" hardway-gcp-{machine}" for machine in MACHINES)
    )
    # Only before the first `up` whatever has the lab's names is another lab's.
    later = gcp.named("machines-preflight", "command:local:Command").inputs["update"]
    assert script.startswith(f"{later} --key ")
    named = [each.inputs.get("name") or each.inputs.get("accountId") for each in of_google(gcp).values()]
    assert {name for name in named if name} == set(command[command.index("--names") + 1 :])


@pytest.fixture
def trial(no_output_in_a_string: None) -> Run:
    return program("gcp-trial")


def test_the_trial_lab_reserves_no_address_but_the_apis(trial: Run) -> None:
    kinds = of_google(trial)
    assert [name for kind, name in kinds if kind == "Address"] == ["machines-api-address"]
    instances = [each for (kind, _), each in kinds.items() if kind == "Instance"]
    assert len(instances) == 3
    for each in instances:
        assert each.inputs["networkInterfaces"][0]["accessConfigs"] == [{}]
    # Reached, and let through to the API, by what Google has given.
    given = {external_address(each.name) for each in instances}
    assert trial.machines.keys() == given
    callers = kinds["Firewall", "machines-balancer-api"].inputs["sourceRanges"]
    assert set(callers) == {f"{address}/32" for address in given}


def test_trial_lab_is_deleted_after_its_hours(trial: Run) -> None:
    for (kind, _), each in of_google(trial).items():
        if kind == "Instance":
            assert each.inputs["scheduling"] == {
                "provisioningModel": "STANDARD",
                "automaticRestart": False,
                "maxRunDuration": {"seconds": 48 * 3600},
                "instanceTerminationAction": "DELETE",
            }


def test_own_labels_are_on_resources_that_can_change_them() -> None:
    lab = run_program("gcp", small(**settings(labels={"owner": "me"})))
    both = {"owner": "me", **LABELS}
    for (kind, _), each in of_google(lab).items():
        if kind in ("Instance", "Address", "ForwardingRule"):
            assert each.inputs["labels"] == both
        if kind == "Instance":
            assert each.inputs["bootDisk"]["initializeParams"]["labels"] == DISK_LABELS


NGINX = """
events {}
http { server { listen 169.254.169.254:80; location /computeMetadata/v1/instance/attributes/ {
  if ($http_metadata_flavor != Google) { return 403; }
  alias /srv/metadata/;
} } }
"""


def test_startup_script_installs_the_pinned_host_key_and_allows_root(tmp_path: Path, tools: NodeTools) -> None:
    """With a metadata server of our own at its address; only systemctl is a stand-in."""
    (tmp_path / "nginx.conf").write_text(NGINX)
    (tmp_path / "ssh-keys").write_text("root:ssh-ed25519 AAAA root\nother:ssh-ed25519 BBBB other")
    (tmp_path / "startup").write_text(STARTUP.read_text())
    script = f"""
    set -eu
    mkdir -p /srv/metadata
    cp {tmp_path}/ssh-keys /srv/metadata
    ip address replace 169.254.169.254/32 dev lo
    ssh-keygen -q -t ed25519 -N '' -f /srv/metadata/hardway-host-key
    chmod a+r /srv/metadata/*
    nginx -c {tmp_path}/nginx.conf
    systemctl() {{ echo "systemctl $*"; }}
    export -f systemctl
    for boot in 1 2; do bash {tmp_path}/startup; done
    nginx -c {tmp_path}/nginx.conf -s stop
    cmp /srv/metadata/hardway-host-key /etc/ssh/hardway_host_ed25519_key
    stat -c '%a %n' /etc/ssh/hardway_host_ed25519_key
    cat /etc/ssh/hardway_authorized_keys
    sshd -T -C user=root
    """
    result = tools.run("bash", "-c", script)
    assert result.returncode == 0, result.stderr
    said = result.stdout.splitlines()
    assert said.count("systemctl try-reload-or-restart ssh.service") == 2
    assert "600 /etc/ssh/hardway_host_ed25519_key" in said
    assert "ssh-ed25519 AAAA root" in said
    assert not any("BBBB" in line for line in said)
    assert [line for line in said if line.startswith("hostkey ")] == ["hostkey /etc/ssh/hardway_host_ed25519_key"]
    assert {"permitrootlogin without-password", "passwordauthentication no"} <= set(said)
    assert {"maxstartups 500:30:1000", "maxsessions 500", "usedns no"} <= set(said)
    (keys,) = (line for line in said if line.startswith("authorizedkeysfile "))
    assert keys.split()[1] == "/etc/ssh/hardway_authorized_keys"
