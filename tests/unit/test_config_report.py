"""Bad input: each kind is reported with its key, what is wrong and what would be right, all of it in one report."""

import json
import re
import time
from pathlib import Path
from typing import Any

import pulumi
import pytest

from config import destroy_mark, paths, rewind_mark
from config.lab import Lab, load, parse
from config.problems import ConfigError, Problem
from lab.shipped import AS_SHIPPED, lab_of, shipped_stacks
from unit.mocked_engine import run, run_program


def problems(lab: Any, stack: str = "dev") -> tuple[Problem, ...]:
    with pytest.raises(ConfigError) as caught:
        parse(stack, lab)
    assert caught.value.problems
    return caught.value.problems


def network(**keys: Any) -> dict[str, Any]:
    return {"network": keys}


def workers(*machines: dict[str, Any]) -> dict[str, Any]:
    return {"workers": list(machines)}


@pytest.mark.parametrize("stack", shipped_stacks())
def test_no_shipped_stack_has_the_salt_of_somebodys_passphrase(stack: str) -> None:
    """With one, nobody else's passphrase makes a lab of it."""
    assert "encryptionsalt" not in AS_SHIPPED[stack]


@pytest.mark.parametrize("stack", shipped_stacks())
def test_every_shipped_stack_is_valid(stack: str) -> None:
    lab = parse(stack, lab_of(stack))
    assert isinstance(lab, Lab)
    assert lab.name == stack


def test_an_empty_configuration_is_the_default_lab() -> None:
    names = [machine.name for machine in parse("dev", {}).machines]
    assert names == ["load-balancer-0", "controller-0", "worker-0", "worker-1"]


# One problem, alone in its report: (the lab, its key, words of what is wrong, words of what would be right).
SINGLE: dict[str, tuple[Any, str, str, str]] = {
    "no map": ("x", "lab", "no map", "write the lab's keys"),
    "a list": ([], "lab", "no map", "write the lab's keys"),
    "unknown key": ({"controler": 1}, "lab.controler", "unknown key", "spelling"),
    "unknown key that is no identifier": ({"load-balancers": 1}, "lab.load-balancers", "unknown key", "spelling"),
    "unknown key in the network": (network(pod="10.0.0.0/8"), "lab.network.pod", "unknown key", "spelling"),
    "unknown key in pki": ({"pki": {"validity": 1}}, "lab.pki.validity", "unknown key", "spelling"),
    "unknown key in containers": ({"containers": {"img": "x"}}, "lab.containers.img", "unknown key", "spelling"),
    "a timeout factor that would end deadlines at once": (
        {"timeout_factor": 0},
        "lab.timeout_factor",
        "greater than or equal to 1 (0)",
        "docs/configuration.md",
    ),
    "a timeout factor in words": (
        {"timeout_factor": "ten"},
        "lab.timeout_factor",
        "valid integer",
        "docs/configuration.md",
    ),
    "a timeout factor with a fraction": (
        {"timeout_factor": 1.5},
        "lab.timeout_factor",
        "valid integer (1.5)",
        "docs/configuration.md",
    ),
    "no worker at a time": (
        {"max_unavailable": 0},
        "lab.max_unavailable",
        "greater than or equal to 1 (0)",
        "docs/configuration.md",
    ),
    "workers at a time in words": (
        {"max_unavailable": "one"},
        "lab.max_unavailable",
        "valid integer",
        "docs/configuration.md",
    ),
    "workers at a time as a truth value": (
        {"max_unavailable": True},
        "lab.max_unavailable",
        "valid integer",
        "docs/configuration.md",
    ),
    "unknown key of a machine": (
        workers({"name": "worker-0"}, {"name": "worker-1", "adress": "10.240.0.30"}),
        "lab.workers[1].adress",
        "unknown key",
        "spelling",
    ),
    "unknown key named like a type": ({"int": 1}, "lab.int", "unknown key", "spelling"),
    "unknown substrate": ({"substrate": "docker"}, "lab.substrate", "'containers'", "description"),
    "unknown engine": ({"containers": {"engine": "lxc"}}, "lab.containers.engine", "'podman' or 'docker'", ""),
    "unsafe image name": ({"containers": {"image": "x; reboot"}}, "lab.containers.image", "pattern", ""),
    "unknown key in libvirt": ({"libvirt": {"img": "x"}}, "lab.libvirt.img", "unknown key", "spelling"),
    "a libvirt of another host": (
        {"libvirt": {"uri": "qemu+ssh://root@far/system"}},
        "lab.libvirt.uri",
        "pattern",
        "",
    ),
    "unknown type of virtual machine": ({"libvirt": {"type": "xen"}}, "lab.libvirt.type", "'kvm' or 'qemu'", ""),
    "an image that is neither a URL nor a path": (
        {"libvirt": {"image": "debian.qcow2"}},
        "lab.libvirt.image",
        "pattern",
        "",
    ),
    "an image from elsewhere without its checksum": (
        {"libvirt": {"image": "https://cloud.example/debian.qcow2"}},
        "lab.libvirt.image_sha256",
        "from a URL needs a checksum",
        "sha256sum",
    ),
    "a checksum of no image": (
        {"libvirt": {"image_sha256": "ab" * 32}},
        "lab.libvirt.image_sha256",
        "no image that it could be the checksum of",
        "leave it out",
    ),
    "no checksum at all": (
        {"libvirt": {"image": "/srv/debian.qcow2", "image_sha256": "abc"}},
        "lab.libvirt.image_sha256",
        "pattern",
        "",
    ),
    "too little memory for a machine": (
        {"libvirt": {"worker": {"memory_mib": 2}}},
        "lab.libvirt.worker.memory_mib",
        "greater than or equal to 512",
        "",
    ),
    "unknown algorithm": ({"pki": {"algorithm": "RSA-1024"}}, "lab.pki.algorithm", "'RSA-2048'", ""),
    "country in full": (
        {"pki": {"subject": {"country": "England"}}},
        "lab.pki.subject.country",
        "",
        "",
    ),
    "unknown encryption": ({"encryption": "aesgcm"}, "lab.encryption", "'secretbox' or 'aescbc'", ""),
    "unknown kube-proxy mode": (network(kube_proxy_mode="ipvs"), "lab.network.kube_proxy_mode", "'nftables'", ""),
    "no map where one must be": ({"network": 5}, "lab.network", "no map (5)", "write its keys below it"),
    "nothing where a map must be": ({"pki": None}, "lab.pki", "no map", "write its keys below it"),
    "pods overlap nodes": (
        network(pods="10.240.0.0/16"),
        "lab.network.pods",
        "10.240.0.0/16 overlaps lab.network.nodes (10.240.0.0/24)",
        "no address in common",
    ),
    "services overlap nodes": (
        network(services="10.240.0.128/25"),
        "lab.network.services",
        "overlaps lab.network.nodes",
        "no address in common",
    ),
    "services overlap pods": (
        network(services="10.200.3.0/24"),
        "lab.network.services",
        "overlaps lab.network.pods",
        "no address in common",
    ),
    "node range too small for the workers": (
        {**network(nodes="10.240.0.0/27"), "workers": 12},
        "lab.workers",
        "10.240.0.0/27 has no address for worker-11",
        "larger range in lab.network.nodes",
    ),
    "pods too few for the workers": (
        {**network(pods="10.200.0.0/22"), "workers": 5},
        "lab.workers",
        "10.200.0.0/22 has no /24 for worker-4",
        "larger range in lab.network.pods",
    ),
    "node prefix shorter than pods": (network(node_prefix=16, pods="10.200.0.0/17"), "lab.workers", "has no /16", ""),
    "more pods than a worker's range": (
        network(max_pods=300),
        "lab.network.max_pods",
        "300 pods do not fit a worker's /24, which holds 253",
        "take at most 253",
    ),
    "node prefix out of bounds": (network(node_prefix=30), "lab.network.node_prefix", "less than or equal to 29", ""),
    "services too small for DNS": (network(services="10.32.0.0/29"), "lab.network.services", "/29", "from 12 to 28"),
    "services too large": (
        network(services="172.0.0.0/8"),
        "lab.network.services",
        "/8 cannot be used",
        "prefix length from 12 to 28",
    ),
    "host bits set": (network(nodes="10.240.0.1/24"), "lab.network.nodes", "no IPv4 range", "like 10.240.0.0/24"),
    "IPv6": (network(pods="fd00::/48"), "lab.network.pods", "no IPv4 range ('fd00::/48')", "like 10.240.0.0/24"),
    "a number for a range": (network(services=5), "lab.network.services", "no IPv4 range (5)", "like"),
    "an IPv6 address": (
        workers({"name": "worker-0", "address": "fd00::1"}),
        "lab.workers[0].address",
        "no IPv4 address",
        "like 10.240.0.10",
    ),
    "a number for an address": (
        workers({"name": "worker-0", "address": 5}),
        "lab.workers[0].address",
        "no IPv4 address (5)",
        "like 10.240.0.10",
    ),
    "unusable domain": (network(domain="a..b"), "lab.network.domain", "pattern", ""),
    "duplicate name": (
        workers({"name": "worker-0"}, {"name": "worker-0", "address": "10.240.0.99", "pod_cidr": "10.200.9.0/24"}),
        "lab.workers[1]",
        "the name worker-0 is lab.workers[0]'s, too",
        "a name of its own",
    ),
    "duplicate address": (
        workers({"name": "worker-0"}, {"name": "worker-1", "address": "10.240.0.20"}),
        "lab.workers[1]",
        "the address 10.240.0.20 is lab.workers[0]'s, too",
        "of its own",
    ),
    "address of another role": (
        workers({"name": "worker-0", "address": "10.240.0.10"}),
        "lab.workers[0]",
        "the address 10.240.0.10 is lab.controllers's, too",
        "of its own",
    ),
    "address outside the range": (
        workers({"name": "worker-0", "address": "10.241.0.20"}),
        "lab.workers[0]",
        "cannot have the address 10.241.0.20",
        "choose another address",
    ),
    "the host's own address": (
        workers({"name": "worker-0", "address": "10.240.0.1"}),
        "lab.workers[0]",
        "cannot have the address 10.240.0.1",
        "choose another address",
    ),
    "a broadcast address": (
        workers({"name": "worker-0", "address": "10.240.0.255"}),
        "lab.workers[0]",
        "cannot have the address 10.240.0.255",
        "choose another address",
    ),
    "a name that gives no address": (
        workers({"name": "alpha", "pod_cidr": "10.200.9.0/24"}),
        "lab.workers[0]",
        "no address for alpha",
        "name it worker-N",
    ),
    "a name that gives no pod range": (
        workers({"name": "alpha", "address": "10.240.0.99"}),
        "lab.workers[0]",
        "no /24 for alpha",
        "name it worker-N",
    ),
    "a name that cannot be a host's": (workers({"name": "Worker_0"}), "lab.workers[0].name", "pattern", ""),
    "no name": (workers({"address": "10.240.0.99"}), "lab.workers[0].name", "not there", "add this key"),
    "pod range outside of pods": (
        workers({"name": "worker-0", "pod_cidr": "10.201.0.0/24"}),
        "lab.workers[0]",
        "10.201.0.0/24 is not part of lab.network.pods",
        "inside of it",
    ),
    "pod range too small": (
        workers({"name": "worker-0", "pod_cidr": "10.200.0.0/26"}),
        "lab.workers[0]",
        "too small for 110 pods",
        "larger range",
    ),
    "pod range twice": (
        workers({"name": "worker-0"}, {"name": "worker-1", "pod_cidr": "10.200.0.0/24"}),
        "lab.workers[1]",
        "overlaps",
        "a range of its own",
    ),
    "pod range inside another": (
        workers({"name": "worker-0", "pod_cidr": "10.200.0.0/20"}, {"name": "worker-3"}),
        "lab.workers[1]",
        "10.200.3.0/24 overlaps worker-0's (10.200.0.0/20)",
        "a range of its own",
    ),
    "pods on a controller": (
        {"controllers": [{"name": "controller-0", "pod_cidr": "10.200.7.0/24"}]},
        "lab.controllers[0].pod_cidr",
        "no worker",
        "leave it out",
    ),
    "unknown product": ({"versions": {"docker": "1"}}, "lab.versions.docker", "no such product", "kubernetes"),
    "unknown version": (
        {"versions": {"kubernetes": "1.99.0"}},
        "lab.versions.kubernetes",
        "1.99.0 is not in config/versions.yaml",
        "1.36.4",
    ),
    "a version that YAML reads as a number": (
        {"versions": {"cni-plugins": 1.9}},
        "lab.versions.cni-plugins",
        "valid string (1.9)",
        "",
    ),
    "no worker": ({"workers": 0}, "lab.workers", "0 is too few", "at least one"),
    "no worker, as a list": ({"workers": []}, "lab.workers", "0 is too few", "at least one"),
    "no controller": ({"controllers": 0}, "lab.controllers", "0 is too few", "at least one"),
    "no balancer": ({"load_balancers": 0}, "lab.load_balancers", "0 is too few", "at least one"),
    "a negative count": ({"workers": -3}, "lab.workers", "-3 is too few", "at least one"),
    "an even number of etcd members": (
        {"controllers": 4},
        "lab.controllers",
        "4 controllers make an even number of etcd members",
        "take 3 or 5",
    ),
    "too many etcd members": ({"controllers": 9}, "lab.controllers", "9 etcd members are too many", "1, 3, 5 or 7"),
    "an even number of dedicated members": (
        {"etcd": "dedicated", "etcd_members": 4},
        "lab.etcd_members",
        "4 members make an even number of etcd members",
        "take 3 or 5",
    ),
    "no dedicated member": (
        {"etcd": "dedicated", "etcd_members": 0},
        "lab.etcd_members",
        "0 is too few",
        "at least one",
    ),
    "too many dedicated members": (
        {"etcd": "dedicated", "etcd_members": 9},
        "lab.etcd_members",
        "10.240.0.0/24 has no address for etcd-5",
        "ask for fewer",
    ),
    "members without machines": (
        {"etcd_members": 3},
        "lab.etcd_members",
        "the controllers have the etcd members in this lab",
        "etcd: dedicated",
    ),
    "an unknown place for etcd": ({"etcd": "external"}, "lab.etcd", "'stacked' or 'dedicated'", ""),
    "more controllers than there is room for beside dedicated members": (
        {"etcd": "dedicated", "controllers": 6},
        "lab.controllers",
        "10.240.0.0/24 has no address for controller-5",
        "ask for fewer",
    ),
    "three balancers": ({"load_balancers": 3}, "lab.load_balancers", "3 load balancers are too many", "take 1 or 2"),
    "the address that two balancers share": (
        {"load_balancers": 2, **workers({"name": "worker-0", "address": "10.240.0.4"})},
        "lab.workers[0]",
        "worker-0 cannot have the address 10.240.0.4: the two balancers share it",
        "another address",
    ),
    "a truth for a count": ({"workers": True}, "lab.workers", "valid integer (True)", ""),
    "a truth for a length": (network(node_prefix=True), "lab.network.node_prefix", "valid integer (True)", ""),
    "a fraction": ({"workers": 1.5}, "lab.workers", "valid integer (1.5)", ""),
    "text for a count": ({"workers": "two"}, "lab.workers", "valid integer ('two')", ""),
    "a map for a count": ({"workers": {"count": 2}}, "lab.workers", "valid integer", ""),
    "renewal before birth": (
        {"pki": {"validity_hours": 24, "early_renewal_hours": 24}},
        "lab.pki.early_renewal_hours",
        "leaves nothing of 24 h",
        "take less than 24",
    ),
    "a certificate that outlives its authority": (
        {"pki": {"ca_validity_hours": 1000}},
        "lab.pki.validity_hours",
        "longer than the validity of its CA (1000 h)",
        "no more than lab.pki.ca_validity_hours",
    ),
    "a validity that no certificate can say": (
        {"pki": {"ca_validity_hours": 10**9}},
        "lab.pki.ca_validity_hours",
        "less than or equal to",
        "",
    ),
}


@pytest.mark.parametrize("kind", SINGLE)
def test_one_mistake_is_one_problem_with_its_key_and_its_remedy(kind: str) -> None:
    lab, key, what, fix = SINGLE[kind]
    (problem,) = problems(lab)
    assert problem.keys[0] == key
    assert what in problem.what
    assert fix in problem.fix
    assert problem.fix


@pytest.mark.parametrize("stack", ["Dev", "1st", "a" * 21, "a-", "a_b", "a.b", "", "ä", "a\n"])
def test_a_stack_whose_name_cannot_be_a_host_name_is_refused(stack: str) -> None:
    (problem,) = problems({}, stack)
    assert problem.keys == ("the stack's name",)


def test_everything_that_is_wrong_stands_in_one_report() -> None:
    found = problems(
        {
            "controler": 1,
            "controllers": 2,
            "workers": [{"name": "worker-0", "address": "nowhere"}],
            "network": {"nodes": "10.240.0.0/33", "pods": "10.32.0.0/16", "mtu": 9000},
            "versions": {"kubernetes": "1.0.0", "etcd": 3},
            "pki": {"algorithm": "DSA", "validity_hours": 10, "early_renewal_hours": 10},
        },
        "Lab",
    )
    assert {problem.keys[0] for problem in found} == {
        "the stack's name",
        "lab.controler",
        "lab.controllers",
        "lab.workers[0].address",
        "lab.network.nodes",
        "lab.network.mtu",
        "lab.network.services",
        "lab.versions.kubernetes",
        "lab.versions.etcd",
        "lab.pki.algorithm",
        "lab.pki.early_renewal_hours",
    }
    report = str(ConfigError("Lab", found))
    for number, problem in enumerate(found, 1):
        assert f"  {number}. {problem.keys[0]}: {problem.what}\n      {problem.fix}" in report
    assert "11 problems; nothing was changed" in report


@pytest.mark.parametrize(
    ("lab", "key"),
    [
        # Without the range, no address can be judged, nor a range that might overlap it.
        ({"network": {"nodes": "x"}, "workers": 300}, "lab.network.nodes"),
        ({"network": {"nodes": "x", "pods": "10.240.0.0/16"}}, "lab.network.nodes"),
        ({"network": {"nodes": "x"}, "workers": [{"name": "worker-0", "address": "192.168.0.7"}]}, "lab.network.nodes"),
        # Its default would overlap the one that is written.
        (
            {"network": {"pods": "x"}, "workers": [{"name": "worker-0", "pod_cidr": "10.9.0.0/24"}]},
            "lab.network.pods",
        ),
        ({"network": {"node_prefix": "x", "max_pods": 300}}, "lab.network.node_prefix"),
        ({"network": {"max_pods": "x", "node_prefix": 29}}, "lab.network.max_pods"),
        # The default's two workers would not fit.
        ({"network": {"pods": "10.200.0.0/24"}, "workers": "x"}, "lab.workers"),
        ({"network": "x", "workers": 300}, "lab.network"),
        ({"workers": [{"name": "worker-0", "address": "x"}, {"name": "a"}]}, "lab.workers[0].address"),
        ({"pki": {"validity_hours": "x", "early_renewal_hours": 9000}}, "lab.pki.validity_hours"),
        ("x", "lab"),
    ],
)
def test_what_cannot_be_read_draws_no_other_report_after_it(lab: Any, key: str) -> None:
    (problem,) = problems(lab)
    assert problem.keys[0] == key


def test_a_value_beside_an_unreadable_one_is_still_checked() -> None:
    found = problems({"network": {"nodes": "x", "services": "10.200.0.0/24"}})
    assert {problem.keys[0] for problem in found} == {"lab.network.nodes", "lab.network.services"}


@pytest.mark.parametrize("role", ["workers", "controllers", "load_balancers"])
@pytest.mark.parametrize("lab", [{}, network(nodes="10.0.0.0/9", pods="11.0.0.0/8")])
def test_a_million_machines_are_reported_and_not_made(role: str, lab: dict[str, Any]) -> None:
    started = time.process_time()
    found = problems({**lab, role: 1_000_000})
    assert time.process_time() - started < 2
    assert {f"lab.{role}"} <= {problem.keys[0] for problem in found}
    assert len(found) <= 3, "a problem is told once, not once for each machine"


def test_a_large_value_does_not_flood_the_report() -> None:
    report = str(ConfigError("dev", problems({"workers": "9" * 100_000})))
    assert len(report) < 1000


def load_with(config: dict[str, str]) -> list[Lab | ConfigError]:
    seen: list[Lab | ConfigError] = []

    def program() -> None:
        pulumi.runtime.set_all_config(config)
        try:
            seen.append(load())
        except ConfigError as error:
            seen.append(error)

    run(program, stack="dev")
    return seen


def test_plain_pulumi_refuses_a_lab_whose_rewind_is_not_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`pulumi up` between the disks of a save and its state: it would change machines by a state of another time."""
    monkeypatch.setattr(paths, "state", lambda: tmp_path)
    (tmp_path / "dev").mkdir()
    mark = tmp_path / "dev" / rewind_mark.NAME
    for content, command in (
        ('{"save": "good", "since": "2026-11-29"}', "./hardway rewind -s dev good"),
        ("{", "./hardway rewind -s dev NAME"),
    ):
        mark.write_text(content)
        with pytest.raises(pulumi.RunError, match=re.escape(f"`{command}`")):
            run_program("dev", {})
    mark.unlink()
    assert run_program("dev", {}).resources


def test_the_program_of_a_lab_whose_destroy_was_killed_creates_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`pulumi up` by a state that still has what is removed: it would take the lab for complete."""
    monkeypatch.setattr(paths, "state", lambda: tmp_path)
    state = tmp_path / "dev.json"

    def save(*urns: str, at: str) -> None:
        resources = [{"urn": each} for each in urns]
        state.write_text(json.dumps({"checkpoint": {"latest": {"manifest": {"time": at}, "resources": resources}}}))

    save("stack", "machine", at="1")
    destroy_mark.write(tmp_path / "dev", state, "2026-11-30")
    refused = re.escape("begun at 2026-11-30, was killed")
    with pytest.raises(pulumi.RunError, match=refused):
        run_program("dev", {})
    # As a refused run saves it.
    save("stack", "machine", at="2")
    with pytest.raises(pulumi.RunError, match=refused):
        run_program("dev", {})
    # An interrupted one saves what it has deleted.
    save("stack", at="3")
    assert run_program("dev", {}).resources
    (tmp_path / "dev" / destroy_mark.NAME).write_text("{")
    with pytest.raises(pulumi.RunError, match="begun at unknown, was killed"):
        run_program("dev", {})


def test_a_key_beside_lab_is_unknown() -> None:
    (error,) = load_with({"hardway:labs": '{"workers": 3}', "gcp:project": "p", "hardway:lab": '{"controllers": 2}'})
    assert isinstance(error, ConfigError)
    assert [problem.keys[0] for problem in error.problems] == ["hardway:labs", "lab.controllers"]


def test_a_word_where_the_lab_should_be_is_reported_like_the_rest() -> None:
    (error,) = load_with({"hardway:lab": "small"})
    assert isinstance(error, ConfigError)
    assert [problem.keys[0] for problem in error.problems] == ["lab"]


def test_a_stack_without_any_key_is_the_default_lab() -> None:
    (lab,) = load_with({})
    assert isinstance(lab, Lab)
    assert len(lab.machines) == 4
