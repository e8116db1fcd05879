"""Kubernetes by apt, on a real machine: from a repository like upstream's, with the programs of the mirror."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from shlex import quote

import pytest

from components.kubelet import RESOLV_CONF
from config.versions import AptRepository, pins
from engine.apt_repository import Key, Signer, cni_plugins, kubernetes, program, publish
from engine.artifact_server import Artifacts, serving
from engine.container_host import GATEWAY, ContainerHost
from engine.project import Project
from engine.step_lab import StepLab
from engine.test_steps import changes
from lab.polling import eventually
from lab.step_script import script_of
from toolchain import paths

STEP = "hardway:index:KubeadmNode$command:remote:Command::kubeadm-node"
PATH, USERS_PATH = "/core:/stable:/v{minor}/deb", "/core:/stable:/users/deb"
VERSION = pins().products["kubernetes"].default
PROGRAMS = ("kubelet", "kubeadm", "kubectl")
MINOR, _, PATCH = VERSION.rpartition(".")
OLDER, NEWER = (f"{MINOR}.{int(PATCH) + step}" for step in (-1, 1))
# What apt and dpkg keep beside the state before their last change; and where systemd keeps the units of a test.
KEPT = (
    "file: /var/lib/apt/extended_states ",
    "file: /etc/ld.so.cache ",
    "file: /var/cache/ldconfig/",
    "file: /run/systemd/transient ",
)
# Not all that Debian has: what comes first is the release itself.
DEBIAN = """
sed -i 1q /etc/apt/sources.list
echo 'Acquire::Languages "none";' >/etc/apt/apt.conf.d/languages
"""
# The machine's user has kubectl, in a version of their own, held, as upstream's pages tell it.
USERS = """
echo 'deb [signed-by=/etc/apt/keyrings/kubernetes-apt-keyring.asc] {url}/ /' >/etc/apt/sources.list.d/kubernetes.list
apt-get -qq update
apt-get -qq install -y kubectl={version}-1.1 >/dev/null 2>&1
apt-mark hold kubectl
mkdir -p /opt/cni/bin
echo theirs >/opt/cni/bin/loopback
"""


@dataclass(frozen=True, kw_only=True)
class Upstream:
    """Upstream's repository, which has a newer version and an older one, too.

    Args:
        server: of its files.
        key: its own.
        other: another lab's.
        both: the two in one file.
    """

    server: Artifacts
    key: Key
    other: Key
    both: str


@pytest.fixture(scope="module")
def machine() -> Iterator[ContainerHost]:
    with ContainerHost() as started:
        yield started


@pytest.fixture(scope="module")
def upstream(machine: ContainerHost, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Upstream]:
    mirror = {
        name: paths.mirror() / pins().products["kubernetes"].path_of(name, version=VERSION, arch="amd64")
        for name in PROGRAMS
    }
    older, newer = (
        kubernetes(f"{version}-1.1", dict.fromkeys(PROGRAMS, program(version))) for version in (OLDER, NEWER)
    )
    packages = [cni_plugins("1.8.0-1.1"), *older, *kubernetes(f"{VERSION}-1.1", mirror), *newer]
    work = tmp_path_factory.mktemp("packages")
    machine.bash(DEBIAN)
    with serving(GATEWAY) as server:
        with Signer(machine.bash) as signer:
            key, other = signer.key("upstream"), signer.key("somebody")
            both = signer.public(key.fingerprint, other.fingerprint)
            publish(server, PATH.format(minor=MINOR), packages, signer, key, work)
            url = publish(server, USERS_PATH, older, signer, key, work)
        machine.path("/etc/apt/keyrings/kubernetes-apt-keyring.asc").write_text(key.public)
        machine.bash(USERS.format(url=url, version=OLDER))
        yield Upstream(server=server, key=key, other=other, both=both)


@pytest.fixture(scope="module")
def before(machine: ContainerHost, upstream: Upstream) -> set[str]:
    return machine.listing()


@pytest.fixture(scope="module")
def lab(
    empty_project: Project,
    machine: ContainerHost,
    upstream: Upstream,
    before: set[str],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[StepLab]:
    project = empty_project.copy(tmp_path_factory.mktemp("packages"))
    with StepLab(project, machine, []) as started:
        repository = AptRepository(address=f"{upstream.server.url}{PATH}", fingerprint=upstream.key.fingerprint)
        started.plan = replace(started.plan, packages=repository)
        started.wants()
        yield started


def versions(lab: StepLab) -> dict[str, str]:
    """The packages on the machine: name -> version."""
    listed = "dpkg-query -W -f '${db:Status-Status} ${Package} ${Version}\\n'"
    found = [line.split() for line in lab.host.bash(listed).splitlines()]
    return {name: version for status, name, version in found if status == "installed"}


def nothing_of_kubernetes(lab: StepLab) -> None:
    """Neither a package, nor a way to one, but what the user has."""
    found = versions(lab)
    assert found["kubectl"] == f"{OLDER}-1.1"
    assert not {"kubelet", "kubeadm", "kubernetes-cni"} & set(found)
    assert lab.host.bash("ls /etc/apt/sources.list.d /etc/apt/keyrings") == (
        "/etc/apt/keyrings:\nkubernetes-apt-keyring.asc\n\n/etc/apt/sources.list.d:\nkubernetes.list\n"
    )
    assert not lab.host.succeeds("[ -e /etc/kubernetes/manifests ] || [ -e /var/lib/kubelet ]")


def run_again(lab: StepLab) -> None:
    """The step as an update, as it stands in the state; the engine would leave alone what has not changed."""
    script = script_of(lab.project.resources()[STEP]["inputs"]["stdin"])
    lab.host.bash(f"bash -c {quote(script)} step updated </dev/null")


def test_a_port_that_is_taken_is_shown_in_a_table(lab: StepLab) -> None:
    """A kubelet that dies later, somewhere in kubeadm's log; a port whose owner has to be looked for."""
    lab.host.bash("systemd-run -q --collect --unit=taken socat TCP-LISTEN:10250,fork /dev/null")
    eventually("the port", lambda: lab.host.succeeds("[ -n \"$(ss -Hltn 'sport = :10250')\" ]"), seconds=10)
    process = lab.host.bash("systemctl show -P MainPID taken").strip()
    try:
        report = lab.up(ok=False).output
    finally:
        lab.host.bash("systemctl stop taken")

    assert "kubeadm needs ports that are in use, and has changed nothing:" in report, report
    rows = [line.split() for line in report.splitlines()]
    assert ["PORT", "FOR", "TAKEN", "ON", "bare-0", "BY"] in rows
    assert ["10250", "kubelet", "socat", "(process", f"{process})"] in rows
    assert ["10256", "kube-proxy,", "health", "-"] in rows
    nothing_of_kubernetes(lab)


@pytest.mark.parametrize("both", [False, True], ids=["instead", "besides"])
def test_another_key_is_refused(lab: StepLab, upstream: Upstream, both: bool) -> None:
    """Packages of a host that answers in upstream's place; or that adds its key to upstream's."""
    ours, theirs, files = upstream.key, upstream.other, upstream.server.files
    path = f"{PATH.format(minor=MINOR)}/Release.key"
    files[path] = (upstream.both if both else theirs.public).encode()
    try:
        report = lab.up(ok=False).output
    finally:
        files[path] = ours.public.encode()

    found = f"{ours.fingerprint} {theirs.fingerprint}" if both else theirs.fingerprint
    assert f"is signed by the key {found}, expected {ours.fingerprint}: nothing of it is installed" in report, report
    nothing_of_kubernetes(lab)


def test_an_installation_that_was_killed_is_completed(lab: StepLab) -> None:
    """apt that refuses to do anything until dpkg's state is repaired."""
    lab.host.bash("touch /run/packages-wait")
    try:
        engine = lab.start()
        waiting = "kubelet.postinst configure"
        eventually("the installation", lambda: lab.runs(waiting), seconds=120, pause=0.05)
        lab.kill(engine)
        for what in ("begin kubeadm", "^apt-get", "dpkg --", "kubelet.postinst"):
            lab.host.bash(f"pkill -9 -f '{what}' || true")
    finally:
        lab.host.bash("rm /run/packages-wait")
    assert "kubelet" not in versions(lab), "the installation was not killed: this test shows nothing"

    lab.up()
    assert versions(lab)["kubelet"] == f"{VERSION}-1.1"


def test_exactly_the_pinned_version_is_there_and_held(lab: StepLab) -> None:
    """The newest version that the repository has; the one that the machine had."""
    lab.has()
    found = versions(lab)
    assert {name: found[name] for name in PROGRAMS} == dict.fromkeys(PROGRAMS, f"{VERSION}-1.1")
    assert set(PROGRAMS) <= set(lab.host.bash("apt-mark showhold").split())
    assert VERSION in lab.host.bash("kubelet --version; kubeadm version -o short; kubectl version --client")
    lab.host.bash("apt-get -qq update && apt-get -qq -y dist-upgrade >/dev/null")
    assert versions(lab) == found


def test_the_labs_cni_plugins_stay_what_they_are(lab: StepLab) -> None:
    """A package that writes over what the container runtime's step has put there."""
    lab.has()
    found = versions(lab)
    assert "kubernetes-cni" not in found
    assert found["hardway-cni-plugins"] == pins().products["cni-plugins"].default
    assert lab.host.bash("cat /opt/cni/bin/*") == "theirs\n"
    lab.host.bash("apt-get check -qq")


def test_the_packages_unit_runs_with_the_labs_own_drop_in(lab: StepLab) -> None:
    """A drop-in that is not read; a unit of the lab's that hides the package's."""
    lab.has()
    # What kubeadm starts; without its settings the kubelet ends at once, and not before it has been started.
    shown = lab.host.bash(
        "systemctl daemon-reload; systemctl show -P ExecStart -P ExecStartPre -P FragmentPath kubelet"
    )
    assert "path=/usr/bin/kubelet ; argv[]=/usr/bin/kubelet $KUBELET_KUBECONFIG_ARGS" in shown
    assert "/lib/systemd/system/kubelet.service" in shown and "/etc/systemd/system/kubelet.service\n" not in shown
    drop_ins = lab.host.bash("systemctl show -P DropInPaths kubelet").split()
    assert [path.rpartition("/")[2] for path in drop_ins] == ["10-kubeadm.conf", "20-hardway.conf"]
    assert lab.host.bash("systemctl is-enabled kubelet").strip() == "enabled"
    said = lab.host.bash("systemd-analyze verify kubelet.service 2>&1")
    assert "kubelet" not in said, said
    lab.host.bash("systemctl start kubelet")
    eventually(
        "the kubelet asking for its settings",
        lambda: "/var/lib/kubelet/config.yaml" in lab.host.bash("journalctl -q -u kubelet -o cat --no-pager"),
        seconds=30,
    )
    lab.host.bash(f"systemctl stop kubelet; [ -s {RESOLV_CONF} ] && rm {RESOLV_CONF}")


def test_the_step_again_changes_nothing(lab: StepLab, upstream: Upstream) -> None:
    """An `up` that installs, or asks apt, what is there already."""
    lab.has()
    there = lab.host.listing()
    upstream.server.asked.clear()

    run_again(lab)

    assert not changes(lab, there)
    assert [path.rpartition("/")[2] for path in upstream.server.asked] == ["Release.key"]
    assert "5 unchanged" in lab.up().output


def test_a_repository_that_the_user_has_already_serves(lab: StepLab) -> None:
    """One repository by two keyrings, which ends all that apt does on the machine."""
    lab.has()
    ours, theirs = (f"/etc/apt/sources.list.d/{name}.list" for name in ("hardway-kubernetes", "theirs"))
    lab.host.bash(f"sed s/hardway-kubernetes.asc/kubernetes-apt-keyring.asc/ {ours} >{theirs}")
    assert not lab.host.succeeds("apt-cache policy"), "apt tolerates that: this test shows nothing"

    run_again(lab)
    assert lab.host.succeeds(f"apt-cache policy && [ ! -e {ours} ]")
    lab.host.bash(f"rm {theirs}")
    run_again(lab)
    assert lab.host.succeeds(f"[ -e {ours} ]")


def test_destroy_leaves_the_machine_as_it_was(lab: StepLab, before: set[str]) -> None:
    """A package, a hold, a list or a key that stays; a version that the user no longer has."""
    lab.has()
    lab.destroy()

    assert lab.host.bash("apt-mark showhold") == "kubectl\n"

    def left() -> str:
        return "\n".join(line for line in changes(lab, before).splitlines() if not line.startswith(KEPT))

    eventually("the machine as it was", lambda: left() in ("", "gone:\nnew:"), seconds=30, report=left)
