"""The order in which machines of a kubeadm lab get another version, and from what."""

import pytest
import yaml

from unit.conftest import program
from unit.mocked_engine import Run, run_program

STEP = "command:remote:Command"
HA = {"bootstrap": "kubeadm", "controllers": 3, "workers": 3}


def before(run: Run, name: str) -> set[str]:
    """The steps of this kind that come before one."""
    found = run.before(run.named(name, STEP))
    return {each for each in found if each.startswith("kubeadm-upgrade-")}


def test_no_kubelet_changes_before_the_last_api_server() -> None:
    run = run_program("dev", HA)
    controllers, workers = ([f"{role}-{number}" for number in range(3)] for role in ("controller", "worker"))
    planes = [f"kubeadm-upgrade-{each}" for each in controllers]
    kubelets = [f"kubeadm-upgrade-kubelet-{each}" for each in (*controllers, *workers)]
    for number, name in enumerate(planes):
        assert before(run, name) == set(planes[:number])
    for number, name in enumerate(kubelets):
        assert before(run, name) == {*planes, *kubelets[:number]}
    assert {*planes, *kubelets} <= run.before(run.named("readiness-cluster", STEP))


def test_flags_of_all_controllers_change_before_the_first_upgrade() -> None:
    """Else two API servers could restart at the same time."""
    run = run_program("dev", HA)
    found = run.before(run.named("kubeadm-upgrade-controller-0", STEP))
    assert {f"kubeadm-controller-{number}" for number in range(3)} <= found


def test_kubeadm_changes_neither_etcd_nor_certificates() -> None:
    run = run_program("dev", {**HA, "timeout_factor": 2})
    found = yaml.safe_load(run.file("kubeadm-upgrade-controller-1", "/etc/hardway/kubeadm-upgrade.yaml"))
    for verb in ("apply", "node"):
        assert found[verb]["etcdUpgrade"] is False and found[verb]["certificateRenewal"] is False
        assert found[verb]["skipPhases"] == ["kubelet-config", "addon/coredns"]
    assert found["timeouts"] == {"upgradeManifests": "360s"}


def test_workers_change_in_waves() -> None:
    run = run_program("dev", {**HA, "max_unavailable": 2})
    assert "kubeadm-upgrade-kubelet-worker-0" not in before(run, "kubeadm-upgrade-kubelet-worker-1")
    assert "kubeadm-upgrade-kubelet-worker-0" in before(run, "kubeadm-upgrade-kubelet-worker-2")


def test_only_the_first_controller_tells_the_cluster() -> None:
    run = run_program("dev", {**HA, "versions": {"kubernetes": "1.35.8"}})
    said = [run.script(f"kubeadm-upgrade-controller-{number}") for number in range(3)]
    assert [" first\n" in each for each in said] == [True, False, False]
    assert all("\nupgrade_control_plane v1.35.8 /etc/hardway/kubeadm" in each for each in said)


def test_a_lab_in_another_version_has_its_images_and_settings() -> None:
    run = run_program("dev", {**HA, "versions": {"kubernetes": "1.35.8"}})
    assert "kubernetesVersion: v1.35.8\n" in run.file("kubeadm-controller-0", "/etc/hardway/kubeadm.yaml")
    images = run.script("container-runtime-controller-0-images")
    assert "registry.k8s.io/kube-apiserver:v1.35.8" in images and ":v1.36" not in images
    assert "/v1.35.8/" in run.script("kubeadm-upgrade-kubelet-worker-0")


def test_a_kubelet_that_runs_stays_until_its_turn() -> None:
    run = run_program("dev", HA)
    script = run.script("kubeadm-node-worker-0")
    assert script.index("hold /usr/local/bin/kubelet\n") < script.index("\nfetch ")


def test_packages_of_apt_are_not_upgraded_in_turns() -> None:
    run = program("kubeadm-ha")
    steps = {each.name for each in run.resources if each.name.startswith("kubeadm-upgrade-")}
    nodes = [each["name"] for each in run.outputs["machines"] if each["pod_cidr"]]
    assert steps == {f"kubeadm-upgrade-kubelet-{name}" for name in nodes}
    assert not [name for name in steps if "upgrade_kubelet " in run.script(name)]


@pytest.mark.parametrize("packages", ["artifacts", "apt"])
@pytest.mark.parametrize("at_once", [1, 2])
def test_a_kubelet_restarts_for_its_flags_in_its_turn(packages: str, at_once: int) -> None:
    """Controllers one at a time, then workers in waves."""
    lab = {**HA, "kubeadm": {"packages": packages}, "max_unavailable": at_once}
    run = run_program("dev", {**lab, "extra_flags": {"kubelet": {"v": 3}}})
    controllers, workers = (
        [f"kubeadm-upgrade-kubelet-{role}-{number}" for number in range(3)] for role in ("controller", "worker")
    )
    for number, name in enumerate(controllers):
        assert before(run, name) & {*controllers, *workers} == set(controllers[:number])
    for number, name in enumerate(workers):
        earlier = workers[: max(0, number + 1 - at_once)][number % at_once :: at_once]
        assert before(run, name) & {*controllers, *workers} == {*controllers, *earlier}
    for name in (*controllers, *workers):
        machine = name.removeprefix("kubeadm-upgrade-kubelet-")
        assert {f"kubeadm-controller-{number}" for number in range(3)} <= run.before(run.named(name, STEP))
        assert "\n: the kubelet has the flags --v=3\n" in run.script(name)
        # All of these steps run at the same time.
        assert "\n[ -e $HARDWAY/steps/node/finished ] || kubelet_flags\n" in run.script(f"kubeadm-node-{machine}")
        assert f"\n{'restart_for_flags' if packages == 'apt' else 'upgrade_kubelet'} {machine} " in run.script(name)
    assert {*controllers, *workers} <= run.before(run.named("readiness-cluster", STEP))


def test_images_are_imported_in_turn_where_the_cluster_serves() -> None:
    """All at once kept the disk from etcd for so long that the API had a gap."""
    run = run_program("dev", HA)
    for machine in ("controller-2", "worker-2"):
        lines = run.script(f"container-runtime-{machine}-images").splitlines()
        turn = lines.index("[ ! -e $HARDWAY/steps/node/finished ] || import_in_turn")
        assert turn < next(number for number, line in enumerate(lines) if line.startswith("import_image "))
