"""What the whole program registers: names, owners, order, and the options that every step must have."""

import hashlib
import os
import re

import pytest

from unit.mocked_engine import Registered, Run, container_id, run_program

STEP = "command:remote:Command"
MACHINE = "command:local:Command"
SUBSTRATES = {"Containers", "Libvirt", "Machines", "Gcp"}
COMPONENTS = {
    "Pki",
    "Encryption",
    "Host",
    "Etcd",
    "EtcdMembership",
    "EtcdSnapshots",
    "ControlPlane",
    "KubeletAccess",
    "Neighbours",
    "Dns",
    "FormerWorkers",
    "ContainerRuntime",
    "Worker",
    "NodeRegistration",
    "Readiness",
}
KUBEADM_COMPONENTS = {
    "KubeadmPki",
    "KubeadmNode",
    "Kubeadm",
    "KubeadmUpgrade",
    "Host",
    "ContainerRuntime",
    "EtcdMembership",
    "EtcdSnapshots",
    "FormerWorkers",
    "Neighbours",
    "Readiness",
}


def owner(run: Run, resource: Registered) -> Registered:
    return run.at(resource.request.parent)


def test_every_component_has_the_token_of_its_class(lab: Run) -> None:
    tokens = {resource.type for resource in lab.resources if not resource.request.custom}
    balancers = len([each for each in lab.outputs["machines"] if each["roles"] == ["load-balancer"]])
    assert lab.substrate in SUBSTRATES
    substrate = {lab.substrate, "GcpBalancer"} if balancers == 0 else {lab.substrate, "LoadBalancer"}
    calico = {"Calico", "CalicoPlugin", "CalicoNetwork"} if "calicoctl" in lab.outputs["versions"] else set()
    made = KUBEADM_COMPONENTS if "hardway:index:Kubeadm" in tokens else COMPONENTS
    expected = made | substrate | {"Script"} | ({"VirtualAddress"} if balancers == 2 else set()) | calico
    assert tokens == {f"hardway:index:{name}" for name in expected}


def test_every_resource_is_named_after_its_component(lab: Run) -> None:
    for resource in lab.resources:
        if resource.request.custom:
            component = owner(lab, resource)
            assert component.is_component
            assert resource.name == component.name or resource.name.startswith(f"{component.name}-")


def test_no_two_resources_share_a_urn(lab: Run) -> None:
    urns = [resource.urn for resource in lab.resources]
    assert sorted(set(urns)) == sorted(urns)


def test_the_default_lab_is_made_of_few_and_large_steps(dev: Run) -> None:
    assert sorted(step.name for step in dev.of_type(STEP)) == [
        "container-runtime-worker-0",
        "container-runtime-worker-0-images",
        "container-runtime-worker-1",
        "container-runtime-worker-1-images",
        "control-plane-controller-0",
        "control-plane-controller-0-serving",
        "dns",
        "etcd-controller-0",
        "etcd-controller-0-serving",
        "etcd-membership",
        "etcd-snapshots-controller-0",
        "former-workers",
        "host-controller-0",
        "host-load-balancer-0",
        "host-worker-0",
        "host-worker-1",
        "kubelet-access",
        "load-balancer-0",
        "neighbours-controller-0",
        "neighbours-load-balancer-0",
        "neighbours-worker-0",
        "neighbours-worker-1",
        "readiness-cluster",
        "readiness-dns",
        "worker-0-node",
        "worker-0-registration",
        "worker-1-node",
        "worker-1-registration",
    ]


# Later, earlier.
ORDER = [
    ("machines-network", "machines-preflight"),
    ("machines-network", "machines-quorum"),
    ("machines-controller-0", "machines-network"),
    ("etcd-controller-0", "etcd-founders"),
    ("etcd-snapshots-controller-0", "etcd-controller-0"),
    ("etcd-membership", "control-plane-controller-0"),
    ("etcd-membership", "etcd-controller-2"),
    ("readiness-cluster", "etcd-membership"),
    ("host-controller-0", "machines-controller-0"),
    ("etcd-controller-0", "host-controller-0"),
    ("etcd-controller-0", "pki-etcd-controller-0"),
    ("control-plane-controller-0", "etcd-controller-0"),
    ("control-plane-controller-2", "etcd-controller-1"),
    ("control-plane-controller-0-serving", "control-plane-controller-0"),
    ("control-plane-controller-0-serving", "etcd-controller-2-serving"),
    ("control-plane-controller-0", "encryption-keys"),
    ("encryption-keys", "encryption-key"),
    ("load-balancer-0", "host-load-balancer-0"),
    ("container-runtime-worker-0", "host-worker-0"),
    ("worker-0-node", "container-runtime-worker-0"),
    ("worker-0-node", "control-plane-controller-0"),
    ("worker-0-node", "control-plane-controller-2"),
    ("worker-0-node", "load-balancer-0"),
    ("worker-0-registration", "worker-0-node"),
    ("neighbours-controller-0", "host-controller-0"),
    # The routes to its pods are there for as long as a worker is drained.
    ("neighbours-controller-0", "former-workers"),
    ("former-workers", "load-balancer-0"),
    ("neighbours-worker-0", "host-worker-0"),
    ("kubelet-access", "control-plane-controller-0"),
    ("kubelet-access", "load-balancer-0"),
    ("dns", "control-plane-controller-0"),
    ("readiness-cluster", "control-plane-controller-2-serving"),
    ("dns", "load-balancer-0"),
    ("readiness-cluster", "worker-2-registration"),
    ("readiness-cluster", "kubelet-access"),
    ("readiness-dns", "dns"),
    ("readiness-dns", "neighbours-worker-0"),
    ("readiness-dns", "container-runtime-worker-0-images"),
]


def test_each_step_waits_for_all_that_it_needs(ha: Run) -> None:
    resources = {each.name: each for each in ha.of_type(STEP, MACHINE)}
    assert [(later, earlier) for later, earlier in ORDER if earlier not in ha.before(resources[later])] == []


ORDER_OF_TWO_BALANCERS = [
    ("virtual-address-load-balancer-0", "load-balancer-0"),
    ("virtual-address-load-balancer-1", "load-balancer-1"),
    ("worker-0-node", "virtual-address-load-balancer-0"),
    ("worker-0-node", "virtual-address-load-balancer-1"),
    ("worker-0-node", "load-balancer-1"),
    ("kubelet-access", "virtual-address-load-balancer-1"),
    ("dns", "virtual-address-load-balancer-1"),
]


def test_clients_of_two_balancers_wait_for_the_shared_address(shared: Run) -> None:
    missing = [each for each in ORDER_OF_TWO_BALANCERS if each[1] not in shared.before(shared.named(each[0]))]
    assert missing == []


def test_two_balancers_are_made_in_parallel_with_the_control_plane(shared: Run) -> None:
    for one, other in (
        ("load-balancer-0", "load-balancer-1"),
        ("virtual-address-load-balancer-0", "virtual-address-load-balancer-1"),
        ("virtual-address-load-balancer-0", "control-plane-controller-0"),
    ):
        assert other not in shared.before(shared.named(one))
        assert one not in shared.before(shared.named(other))


def test_only_balancers_that_share_an_address_get_keepalived(lab: Run) -> None:
    balancers = [each["name"] for each in lab.outputs["machines"] if each["roles"] == ["load-balancer"]]
    having = [
        each["name"]
        for each in lab.outputs["machines"]
        if re.search(r"^packages .*\bkeepalived\b", lab.script(f"host-{each['name']}"), re.M)
    ]
    assert having == (balancers if len(balancers) > 1 else [])


INDEPENDENT = [
    ("container-runtime-worker-0", "control-plane-controller-0"),
    ("container-runtime-worker-0", "container-runtime-worker-1"),
    ("etcd-controller-0", "etcd-controller-1"),
    ("control-plane-controller-0", "control-plane-controller-1"),
    ("control-plane-controller-0", "load-balancer-0"),
    # In a new lab these are prepared while others start.
    ("control-plane-controller-0", "etcd-controller-0-serving"),
    ("worker-0-node", "control-plane-controller-0-serving"),
    ("former-workers", "control-plane-controller-0-serving"),
    ("dns", "control-plane-controller-0-serving"),
    ("worker-0-node", "worker-1-node"),
    ("worker-0-node", "container-runtime-worker-0-images"),
    ("host-worker-0", "host-worker-1"),
    ("machines-worker-0", "machines-worker-1"),
    ("neighbours-worker-0", "worker-0-node"),
    ("etcd-controller-0", "host-worker-0"),
]


def test_independent_resources_do_not_wait_for_each_other(ha: Run) -> None:
    resources = {each.name: each for each in ha.of_type(STEP, MACHINE)}
    pairs = [pair for one, other in INDEPENDENT for pair in ((one, other), (other, one))]
    assert [(one, other) for one, other in pairs if other in ha.before(resources[one])] == []


def test_workers_that_share_processors_are_created_a_few_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 1)
    run = run_program("many", {"workers": 6})

    def workers_before(resource: Registered) -> set[str]:
        return {name for name in run.before(resource) if re.fullmatch(r"machines-worker-\d|worker-\d-node", name)}

    made = [workers_before(run.named(f"machines-worker-{number}", MACHINE)) for number in range(6)]
    assert made == [set(), set(), set(), set(), {"machines-worker-0"}, {"machines-worker-1"}]
    built = [workers_before(run.named(f"container-runtime-worker-{number}")) for number in range(6)]
    assert [{name for name in names if name.endswith("-node")} for names in built] == [
        *[set()] * 4,
        {"worker-0-node"},
        {"worker-1-node"},
    ]
    assert workers_before(run.named("control-plane-controller-0")) == set()


def test_steps_of_a_destroyed_machine_are_not_deleted_one_by_one(lab: Run) -> None:
    for step in lab.of_type(STEP):
        if lab.substrate == "Machines":
            # They stay: every step has to be taken back.
            assert not step.request.deletedWith
        else:
            assert lab.at(step.request.deletedWith) is lab.machines[step.inputs["connection"]["host"]]


def test_removed_worker_is_drained_and_deleted_on_a_controller(lab: Run) -> None:
    # Where kubeadm made the cluster, controllers are Nodes, too.
    nodes = sorted(
        (each for each in lab.outputs["machines"] if each["pod_cidr"]), key=lambda each: "worker" in each["roles"]
    )
    workers = [each["name"] for each in nodes]
    controller = next(each for each in lab.outputs["machines"] if each["roles"] == ["controller"])
    assert f"\nonly_nodes {' '.join(workers)}\n" in lab.script("former-workers")
    for step in lab.of_type(STEP):
        if step.name.endswith("-registration") or step.name == "former-workers":
            assert lab.machine_of(step) == controller
        if step.name.endswith("-registration"):
            node = step.name.removesuffix("-registration")
            seen_off = [f"cordon node/{node}\n", f"spec.nodeName={node} ", f"delete --ignore-not-found node/{node}\n"]
            places = [step.inputs["delete"].index(words) for words in seen_off]
            assert places == sorted(places)


def test_all_steps_of_a_recreated_machine_run_again(lab: Run) -> None:
    for step in lab.of_type(STEP):
        if lab.substrate == "Machines":
            # Their host keys tell: here nobody has trusted any.
            assert f"({hashlib.sha256(b'').hexdigest()[:12]})" in step.script
            continue
        machine = lab.at(step.request.deletedWith)
        # A virtual one is known by what says that it answers.
        known_by = f"{machine.name}-ssh" if machine.type.startswith("libvirt:") else machine.name
        assert container_id(known_by)[:12] in step.script


def test_steps_are_updated_in_place_and_need_no_environment_from_sshd(lab: Run) -> None:
    for step in lab.of_type(STEP):
        # The provider's own schema says triggers[*].
        assert list(step.request.replaceOnChanges) == ["triggers[*]"]
        assert not {"triggers", "environment"} & step.inputs.keys()
        # A step counts its creations, and has to tell them from updates.
        assert step.inputs["update"] == f"{step.inputs['create']}, updated"
        assert step.inputs["addPreviousOutputInEnv"] is False
        assert step.inputs["delete"]


def test_replaced_local_command_is_deleted_before_it_is_created_again(lab: Run) -> None:
    """`pulumi up --replace` would make it, and then take it away by the old resource's deletion."""
    for command in lab.of_type("command:local:Command"):
        if command.name == "machines-preflight" and lab.of_type("pulumi:providers:libvirt"):
            # A known limit: deleted first, it would replace the provider, which has what it prints, and all machines.
            # Replaced alone it leaves the lab without its record.
            continue
        assert command.request.deleteBeforeReplace or not command.inputs.get("delete"), command.name


def test_every_connection_has_a_pinned_host_key(lab: Run) -> None:
    for step in lab.of_type(STEP):
        connection = step.inputs["connection"]
        name = lab.machines[connection["host"]].name
        # Of machines that exist already nobody has trusted any here: what stands there is no key, and opens nothing.
        key = "not-trusted-yet" if lab.substrate == "Machines" else f"PUBLIC-{name}-host-key"
        assert connection["hostKey"] == f"ssh-ed25519 {key}"
        assert "password" not in connection


def test_changed_machine_is_deleted_before_its_replacement_is_created(lab: Run) -> None:
    assert len(lab.machines) == len(lab.outputs["machines"])
    for machine in lab.machines.values():
        if lab.substrate == "Machines":
            # At another address is another host.
            assert machine.inputs["triggers"] and "leave" in machine.inputs["delete"]
            assert machine.request.deleteBeforeReplace
            continue
        assert machine.request.deleteBeforeReplace
        if machine.type == MACHINE:
            # Other providers know by themselves what of a machine can be changed.
            assert {"create", "stdin"} <= set(machine.request.replaceOnChanges)
            assert machine.inputs["delete"]


def test_scripts_of_local_commands_are_on_standard_input(lab: Run) -> None:
    """The provider repeats the whole command that failed, and not its input."""
    machines = {machine.name for machine in lab.machines.values()}
    # What these are made by is compared with the state: see docs/architecture.md.
    keep_their_text = {
        "Containers": {"machines-network", *machines},
        "Libvirt": {"machines-host", *(f"{machine}-ssh" for machine in machines)},
    }
    long = {
        each.name
        for each in lab.resources
        for input_ in ("create", "update", "delete")
        if each.type == MACHINE and len(str(each.inputs.get(input_, "")).splitlines()) > 15
    }
    assert long <= keep_their_text.get(lab.substrate, set())


def test_names_of_machines_contain_the_stack(lab: Run) -> None:
    if lab.substrate == "Machines":
        # Whose a machine is stands on the machine (components/substrates/existing/entry.py).
        return
    name = re.compile(r"--name=(\S+)")
    mine = {
        each.inputs["name"] if "name" in each.inputs else name.search(each.inputs["create"])[1]  # type: ignore[index]
        for each in lab.machines.values()
    }
    stack = lab.resources[0].urn.split("::")[0].removeprefix("urn:pulumi:")
    assert mine == {f"hardway-{stack}-{machine['name']}" for machine in lab.outputs["machines"]}


def test_the_image_of_dns_comes_after_the_start_of_the_one_api_server_on_the_same_processors(hard_way: Run) -> None:
    """Not with Calico, whose images a Node needs to be Ready. Elsewhere each machine has its own processors."""
    machines = hard_way.outputs["machines"]
    api_servers = [f"{each['address']}:6443" for each in machines if "controller" in each["roles"]]
    has_calico = "calicoctl" in hard_way.outputs["versions"]
    waits = hard_way.substrate == "Containers" and not has_calico and len(api_servers) == 1
    for worker in (each["name"] for each in machines if "worker" in each["roles"]):
        script = hard_way.script(f"container-runtime-{worker}-images")
        assert (f"\nafter_api_server {api_servers[0]}\nimport_image " in script) == waits
        assert ("after_api_server" in script) == waits
        assert "after_api_server" not in hard_way.script(f"container-runtime-{worker}")
