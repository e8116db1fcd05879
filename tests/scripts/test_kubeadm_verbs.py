"""The verbs of kubeadm.sh that change flags in a running lab, by a real bash; kubeadm and systemctl take notes."""

import subprocess
from pathlib import Path

import pytest

from toolchain import paths

COMPONENTS = paths.checkout() / "components"
MANIFEST = """apiVersion: v1
kind: Pod
spec:
  containers:
  - command:
    - {program}
    - '{flag}'
    image: x
"""
# What stands in for the cluster: a manifest is what kubeadm wrote last, and serves where no file `broken` is there.
STAND_IN = """
await() {{ eval "$2"; }}
take_turn() {{ echo "turn $*" >>{log}; }}
give_turn() {{ echo "turn ends" >>{log}; }}
turn_failed() {{ echo "turn failed: ${{1% on *}}" >>{log}; }}
kubeadm() {{ local words="$*"; echo "kubeadm ${{words%% --config*}}" >>{log}; }}
curl() {{ [ ! -e {root}/broken ]; }}
as_in_manifest() {{ :; }}
pod_log() {{ echo "unknown flag"; }}
systemctl() {{ echo "systemctl $*" >>{log}; case $* in *is-active*) [ -e {root}/runs ] ;; esac; }}
serving() {{ echo "waited for $1" >>{log}; [ ! -e {root}/broken ]; }}
pkill() {{ echo "pkill $*" >>{log}; }}
pgrep() {{ return 1; }}
look_at() {{ :; }}
note_run() {{ :; }}
"""


class Controller:
    """A bash with step.sh and kubeadm.sh, and a scratch root in place of /etc and /var."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.log = root / "log"
        (root / "steps" / "kubeadm").mkdir(parents=True)
        (root / "steps" / "node").mkdir()
        (root / "steps" / "node" / "finished").touch()
        self.settings = root / "settings"
        self.settings.write_text("a")

    def run(self, script: str) -> "subprocess.CompletedProcess[str]":
        """Run a script, with an empty log."""
        self.log.write_text("")
        stand_in = STAND_IN.format(root=self.root, log=self.log)
        text = f"""HARDWAY={self.root}
            . {COMPONENTS / "step.sh"}
            declare -gA ready_check=() ready_seconds=() ready_what=()
            . {COMPONENTS / "kubeadm.sh"}
            KUBELET_DROP_IN={self.root}/drop-in
            {stand_in}
            {script}"""
        return subprocess.run(["bash", "-c", text], capture_output=True, text=True, timeout=60, check=False)

    @property
    def did(self) -> list[str]:
        """What it did in the last run."""
        return self.log.read_text().splitlines()


@pytest.fixture
def controller(tmp_path: Path) -> Controller:
    """One that kubeadm has finished."""
    return Controller(tmp_path)


def test_changed_settings_make_new_manifests_once(controller: Controller) -> None:
    assert controller.run(f"control_plane_flags {controller.settings} upload").returncode == 0
    assert controller.did == [
        "turn kube-apiserver",
        "kubeadm init phase control-plane all",
        "kubeadm init phase upload-config kubeadm",
        "turn ends",
    ]
    assert controller.run(f"control_plane_flags {controller.settings} upload").returncode == 0
    assert controller.did == []
    controller.settings.write_text("b")
    assert controller.run(f"control_plane_flags {controller.settings}").returncode == 0
    assert controller.did == ["turn kube-apiserver", "kubeadm init phase control-plane all", "turn ends"]


def test_a_machine_that_has_just_joined_has_nothing_to_change(controller: Controller) -> None:
    assert controller.run(f"finished {controller.settings}\ncontrol_plane_flags {controller.settings}").returncode == 0
    assert controller.did == []


def test_another_version_of_kubernetes_changes_no_flags(controller: Controller) -> None:
    """It is the subject of a later step; the errors that kubeadm ignores depend on it."""
    old = "kubernetesVersion: v1.35.8\n---\n  ignorePreflightErrors:\n  - ImagePull\n  - Mem\n"
    controller.settings.write_text(old)
    controller.run(f"finished {controller.settings}")
    controller.settings.write_text(old.replace("v1.35.8", "v1.36.4").replace("  - ImagePull\n", ""))
    assert controller.run(f"control_plane_flags {controller.settings} upload").returncode == 0
    assert controller.did == []
    controller.settings.write_text(old.replace("v1.35.8", "v1.36.4").replace("Mem", "Swap"))
    assert controller.run(f"control_plane_flags {controller.settings} upload").returncode == 0
    assert "kubeadm init phase control-plane all" in controller.did


def test_flags_with_which_a_program_does_not_serve_are_no_success_and_can_be_taken_back(
    controller: Controller,
) -> None:
    controller.run(f"finished {controller.settings}")
    controller.settings.write_text("b")
    (controller.root / "broken").touch()
    done = controller.run(f"control_plane_flags {controller.settings} upload")
    assert done.returncode == 1
    assert "does not serve with its new flags within 120 s" in done.stderr
    assert "unknown flag" in done.stderr
    assert "kubeadm init phase upload-config kubeadm" not in controller.did, "machines that join must not get them"
    assert any(line.startswith("turn failed: kube-") for line in controller.did), "the next controller would break, too"
    # The settings as they were: the manifests have the others by now.
    (controller.root / "broken").unlink()
    controller.settings.write_text("a")
    assert controller.run(f"control_plane_flags {controller.settings} upload").returncode == 0
    assert "kubeadm init phase control-plane all" in controller.did


def test_manifests_for_an_api_server_that_does_not_serve_are_read_by_a_kubelet_that_starts(
    controller: Controller,
) -> None:
    """One that started without this API server ends no pod, and the changed pod would wait for the one before."""
    (controller.root / "broken").touch()
    assert controller.run(f"control_plane_flags {controller.settings}").returncode == 1
    assert controller.did[1:5] == [
        "kubeadm init phase control-plane all",
        "systemctl stop kubelet.service",
        "pkill -TERM -x kube-apiserver|kube-controller|kube-scheduler",
        "systemctl start kubelet.service",
    ]
    assert not [each for each in controller.did if "--no-block" in each]


def test_a_manifests_command_line_is_that_of_a_process(tmp_path: Path) -> None:
    manifest = tmp_path / "sleeper.yaml"
    verbs = (COMPONENTS / "kubeadm.sh").read_text().replace("/etc/kubernetes/manifests", str(tmp_path))
    (tmp_path / "sleeper").symlink_to("/bin/sleep")
    for flag, same in (("60", True), ("61", False)):
        manifest.write_text(MANIFEST.format(program=f"{tmp_path}/sleeper", flag=flag))
        text = f"""HARDWAY={tmp_path}
            {verbs}
            {tmp_path}/sleeper 60 & trap 'kill $!' EXIT
            pgrep() {{ echo $!; }}
            until [ "$(tr '\\0' ' ' </proc/$!/cmdline)" = "{tmp_path}/sleeper 60 " ]; do :; done
            as_in_manifest sleeper"""
        done = subprocess.run(["bash", "-c", text], capture_output=True, text=True, timeout=30, check=False)
        assert (done.returncode == 0) is same, done


def test_the_kubelet_is_restarted_where_its_flags_have_changed(controller: Controller) -> None:
    drop_in = controller.root / "drop-in"
    drop_in.write_text("[Service]\n")
    # A lab of an earlier version, without flags.
    (controller.root / "runs").touch()
    assert controller.run("kubelet_flags").returncode == 0
    assert controller.did == []
    drop_in.write_text('[Service]\nEnvironment="KUBELET_EXTRA_ARGS=--v=4"\n')
    (controller.root / "broken").touch()
    assert controller.run("set -e\nkubelet_flags").returncode != 0
    assert "systemctl restart kubelet.service" in controller.did
    (controller.root / "broken").unlink()
    # It did not serve, so that the next run tries again; also with the flags of before.
    for content in ('[Service]\nEnvironment="KUBELET_EXTRA_ARGS=--v=4"\n', "[Service]\n"):
        drop_in.write_text(content)
        assert controller.run("kubelet_flags").returncode == 0
        assert controller.did[-1] == "waited for kubelet.service"
        assert controller.run("kubelet_flags").returncode == 0
        assert controller.did == []
