"""What every substrate owes the rest of the program (docs/add-a-substrate.md), over all of them."""

import re

from unit.mocked_engine import Registered, Run

STEP = "command:remote:Command"
CHECKS = {"machines-preflight", "machines-quorum", "machines-settings", "machines-versions"}


def steps_by_machine(lab: Run) -> dict[str, list[Registered]]:
    found: dict[str, list[Registered]] = {}
    for step in lab.of_type(STEP):
        found.setdefault(lab.machine_of(step)["name"], []).append(step)
    return found


def test_every_machine_has_its_host_step(lab: Run) -> None:
    names = [machine["name"] for machine in lab.outputs["machines"]]
    assert sorted(names) == sorted(set(names)) and set(steps_by_machine(lab)) == set(names)
    for name in names:
        assert lab.named(f"host-{name}")


def test_every_step_waits_for_all_checks(lab: Run) -> None:
    checks = CHECKS & {resource.name for resource in lab.resources}
    assert "machines-quorum" in checks
    for step in lab.of_type(STEP):
        assert checks <= lab.before(step), step.name


def test_a_machine_has_one_connection_with_a_pinned_host_key_and_the_labs_key(lab: Run) -> None:
    for name, steps in steps_by_machine(lab).items():
        first, *others = (step.inputs["connection"] for step in steps)
        assert all(other == first for other in others), name
        assert first["hostKey"] and first["privateKey"] == lab.outputs["ssh_private_key"]
        assert "password" not in first
        if "proxy" in first:
            assert first["proxy"]["hostKey"] and "password" not in first["proxy"]


def test_a_connection_is_secret(lab: Run) -> None:
    for step in lab.of_type(STEP):
        assert "connection" in step.secret


def test_every_script_is_run_by_root(lab: Run) -> None:
    for step in lab.of_type(STEP):
        user = lab.machine_of(step)["user"]
        assert step.inputs["connection"].get("user", "root") == user
        for part, ours in (("create", "sudo -n bash -s -- "), ("delete", "sudo -n bash -c '")):
            assert step.inputs[part].startswith(ours) == (user != "root"), (step.name, part)


def test_all_steps_of_a_machine_have_its_identity(lab: Run) -> None:
    for name, steps in steps_by_machine(lab).items():
        found = {re.search(r"# [\w-]+ on [\w-]+ \((\w+)\)\n", step.script)[1] for step in steps}  # type: ignore[index]
        assert len(found) == 1, name


def test_all_steps_of_a_machine_are_deleted_with_the_same_resource(lab: Run) -> None:
    for name, steps in steps_by_machine(lab).items():
        assert len({step.request.deletedWith for step in steps}) == 1, name


def test_only_nodes_have_pod_ranges(lab: Run) -> None:
    # kubeadm's controllers are Nodes.
    nodes = {"worker", "controller"} if "hardway:index:Kubeadm" in {each.type for each in lab.resources} else {"worker"}
    for machine in lab.outputs["machines"]:
        assert bool(machine["pod_cidr"]) == bool(nodes & set(machine["roles"]))


def test_ssh_configuration_lists_every_machine(lab: Run) -> None:
    known = re.findall(r"^Host (.*)$", lab.outputs["ssh_config"], re.M)
    assert {machine["name"] for machine in lab.outputs["machines"]} <= set(known)
    assert len(known) == len(set(known))


def test_all_artifacts_have_one_source(lab: Run) -> None:
    urls = {
        word
        for step in lab.of_type(STEP)
        for line in lab.script(step.name).splitlines()
        if line.startswith(("fetch ", "import_image "))
        for word in line.split()[1:2]
    }
    assert urls
    places = {re.sub(r"/(dl\.k8s\.io|github\.com|registry\.k8s\.io|docker\.io)/.*", "", url) for url in urls}
    assert len(places) == 1 and re.match(r"(file:///|https?:/)", places.pop())
