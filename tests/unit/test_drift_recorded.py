"""What `drift` reads out of the state is what the program puts there, in labs of every kind."""

import hashlib
import json
from typing import Any

import pytest

from components import kubeadm, kubeadm_config
from components.host import step_library
from components.step import Fetch, File, StepArgs, Unit, sent
from config.artifacts import Artifact
from config.recorded_state import SECRET_KEY
from live.drift import recorded
from live.drift.recorded import Program, Recorded
from unit.conftest import program
from unit.conftest import recorded as explained
from unit.mocked_engine import Run
from unit.test_step_render import args, script

STACKS = ("dev", "libvirt", "machines", "gcp", "kubeadm")


def state_of(run: Run) -> dict[str, Any]:
    """The part of an exported state that `drift` reads."""
    resources = [{"type": each.type, "urn": each.name, "inputs": each.inputs, "outputs": {}} for each in run.resources]
    return {"deployment": {"resources": resources}}


def machines_of(run: Run) -> dict[str, Recorded]:
    return recorded.read(recorded.steps(state_of(run)))


@pytest.mark.parametrize("name", STACKS)
def test_every_file_and_artifact_of_the_program_is_read(name: str, no_output_in_a_string: None) -> None:
    """The program itself is the witness: `explain` notes each file where it is made."""
    machines = machines_of(program(name))
    # Of a unit that a package brings, no step writes the file.
    made = [each for each in explained(name) if each.kind != "unit" or each.content is not None]
    for each in made:
        machine = machines[each.machine]
        if each.kind == "artifact":
            assert each.path in machine.programs
            continue
        if each.path in recorded.USED_ONCE:
            continue
        file = machine.files[each.path]
        assert (file.mode, file.owner, file.secret) == (each.mode.lstrip("0"), each.owner, each.secret), each.path
        assert file.content is not None
        if each.content is not None and not each.secret:
            assert file.content.decode().rstrip("\n") == each.content.rstrip("\n")
    made = [each for each in made if each.path not in recorded.USED_ONCE]
    known = {(each.machine, each.path) for each in made} | {(name, recorded.LIBRARY) for name in machines}
    read = {
        (name, path)
        for name, machine in machines.items()
        for path, file in machine.files.items()
        if file.content is not None
    }
    assert read == {(machine, path) for machine, path in known if path not in machines[machine].programs}


def test_units_and_settings_of_a_lab_are_read(lab: Run) -> None:
    machines = machines_of(lab)
    assert machines
    for machine in machines.values():
        assert machine.library == step_library()
        assert "hardway-hosts.service" in machine.units
        assert machine.sysctls["net.ipv4.ip_forward"].value == "1"
        assert "curl" in machine.packages
        assert machine.host_name is not None
        assert machine.host_name.value == machine.name
        for name, unit in machine.units.items():
            for path in (*unit.own, *unit.watches, *unit.reloads_on):
                assert path in machine.files or path in machine.programs, f"{name} reads {path}"


def test_controllers_have_objects_nodes_and_their_link(dev: Run) -> None:
    controller = machines_of(dev)["controller-0"]
    assert "coredns" in controller.objects["/etc/kubernetes/manifests/dns.yaml"].value
    assert '"hardway/worker"' in controller.nodes["worker-1"].value
    assert controller.links["/etc/kubernetes/admin.kubeconfig"].value == "/etc/kubernetes/admin.conf"
    assert set(controller.users) == {"etcd"}
    assert controller.files["/var/lib/etcd"].mode == "700"
    assert "/usr/local/bin/kube-apiserver" in controller.units["kube-apiserver.service"].own


def test_kubelets_that_kubeadm_starts_are_units(kubeadm_lab: Run) -> None:
    for machine in machines_of(kubeadm_lab).values():
        if not machine.name.startswith("load"):
            kubelet = machine.units["kubelet.service"]
            assert kubelet.by_step is False
            assert "/etc/systemd/system/kubelet.service.d/20-hardway.conf" in kubelet.own


def test_what_kubeadm_uses_once_is_not_missed(kubeadm_lab: Run) -> None:
    assert {kubeadm._TOKEN, kubeadm_config.DISCOVERY, kubeadm._ADMISSION_TOKEN} == recorded.USED_ONCE
    first = machines_of(kubeadm_lab)["controller-0"]
    assert not recorded.USED_ONCE & first.files.keys()
    assert "hardway/machine" in first.nodes["worker-0"].value
    assert '"hardway/worker"' in first.nodes["worker-0"].value
    assert first.nodes["worker-0"].step == "", "no step repairs it"


def read_one(arguments: StepArgs, more: str = "", contents: dict[str, str] | None = None) -> Recorded:
    stdin = sent(script(arguments, contents), more)
    marked = {SECRET_KEY: "1b47061264138c4ac30d75fd1eb44270", "plaintext": json.dumps(stdin)}
    resource = {"type": "command:remote:Command", "urn": "urn:step", "inputs": {"stdin": marked}}
    (machine,) = recorded.read(recorded.steps({"deployment": {"resources": [resource]}})).values()
    return machine


def test_secret_content_is_read_from_behind_the_script() -> None:
    file = File(path="/etc/etcd/pki/member.key", content="", mode="0600", owner="etcd", secret=True)
    machine = read_one(args(files=[file]), "/etc/etcd/pki/member.key c2VjcmV0Cg==\n")
    read = machine.files["/etc/etcd/pki/member.key"]
    assert (read.content, read.mode, read.owner, read.secret) == (b"secret\n", "600", "etcd", True)
    assert read.sha256 == hashlib.sha256(b"secret\n").hexdigest()


def test_lines_of_a_file_are_no_verbs() -> None:
    content = "unit fake.service\nfile /etc/fake 0644 root\nsysctls a=1"
    machine = read_one(args(files=[File(path="/etc/real", content=content)]), contents={"/etc/real": content})
    assert set(machine.files) == {"/etc/real"}
    assert machine.files["/etc/real"].content == f"{content}\n".encode()
    assert not machine.units
    assert not machine.sysctls


@pytest.mark.parametrize(
    ("url", "sha256", "members", "expected"),
    [
        ("file:///opt/mirror/kubelet", "a" * 64, (), {"/usr/local/bin": ("/opt/mirror/kubelet", None)}),
        ("https://x/kubelet", "a" * 64, (), {"/usr/local/bin": (f"{recorded.ARTIFACTS}/{'a' * 64}/kubelet", None)}),
        ("https://x/kubelet", "published", (), {"/usr/local/bin": (f"{recorded.ARTIFACTS}/*/kubelet", None)}),
        (
            "file:///opt/mirror/etcd.tgz",
            "a" * 64,
            ("v3/etcd",),
            {"/usr/local/bin/etcd": (f"{recorded.ARTIFACTS}/{'a' * 64}/unpacked/v3/etcd", "/opt/mirror/etcd.tgz")},
        ),
    ],
)
def test_programs_are_links_to_pinned_artifacts(
    url: str, sha256: str, members: tuple[str, ...], expected: dict[str, tuple[str, str | None]]
) -> None:
    fetch = Fetch(artifact=Artifact(url=url, sha256=sha256), destination="/usr/local/bin", members=members)
    programs: dict[str, Program] = read_one(args(fetches=[fetch])).programs
    assert {path: (each.target, each.archive) for path, each in programs.items()} == expected
    assert {each.sha256 for each in programs.values()} == {None if sha256 == "published" else sha256}


def test_a_unit_has_its_files_and_whether_it_can_be_enabled() -> None:
    fetch = Fetch(artifact=Artifact(url="file:///opt/mirror/x", sha256="a" * 64), destination="/usr/local/bin/x")
    own = Unit(
        name="x.service", content="[Service]\nExecStart=/usr/local/bin/x", restarts_on=["/etc/x"], reloads_on=["/etc/y"]
    )
    machine = read_one(args(fetches=[fetch], units=[own, Unit(name="nginx.service")]))
    unit = machine.units["x.service"]
    assert unit.own == ("/etc/systemd/system/x.service", "/usr/local/bin/x")
    assert (unit.watches, unit.reloads_on, unit.enabled, unit.by_step) == (("/etc/x",), ("/etc/y",), False, True)
    assert machine.units["nginx.service"].enabled
