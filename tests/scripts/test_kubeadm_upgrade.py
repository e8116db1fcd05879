"""The verbs of kubeadm_upgrade.sh, by a real bash; kubeadm, kubectl and systemctl take notes."""

import subprocess
from pathlib import Path

import pytest

from toolchain import paths

COMPONENTS = paths.checkout() / "components"
PODS = ("kube-apiserver", "kube-controller-manager", "kube-scheduler")
# What stands in for the cluster: a manifest has the version that kubeadm wrote last.
STAND_IN = """
wait_for() {{ eval "$3" || die "$2: not seen"; }}
await() {{ eval "$2"; }}
kubeadm() {{
  local words="$*" version
  echo "kubeadm ${{words%% --[cis]*}}" >>{log}
  [ ! -e {root}/broken ] || {{ echo "cannot be done"; return 1; }}
  case $words in
    "upgrade apply"*) version=$3 ;;
    "upgrade node phase"* | *" plan "* | *" addon "* | *upload-config*) return 0 ;;
    "upgrade node"*) version=$(cat {root}/of-the-cluster) ;;
    *) version=$(sed -n 's/^kubernetesVersion: //p' {root}/settings) ;;
  esac
  local pod
  for pod in {pods}; do echo "    image: registry.k8s.io/$pod:$version" >{root}/manifests/$pod.yaml; done
}}
k() {{ echo "kubectl $*" >>{log}; }}
as_in_manifest() {{ :; }}
curl() {{ :; }}
systemctl() {{
  echo "systemctl $*" >>{log}
  [ ! -e {root}/broken-kubelet ] || [ "$(readlink "$KUBELET")" != {root}/v1.36.4 ]
}}
kubelet_identity() {{ :; }}
runs_kubelet() {{ [ "$(readlink "$KUBELET")" = "$1" ]; }}
fetch_now() {{ echo "${{1#file://}}"; }}
request() {{ :; }}
value_of() {{ :; }}
mark_node() {{ echo "mark $1" >>{log}; }}
drain() {{ echo "drain $NODE" >>{log}; }}
uncordon() {{ echo "uncordon $NODE" >>{log}; }}
node_is_ready() {{ :; }}
dns_answers() {{ echo "DNS" >>{log}; }}
show_log() {{ :; }}
close_kubelet_config() {{ :; }}
"""


class Node:
    """A bash with the verbs of a controller, and a scratch root in place of /etc and /var."""

    def __init__(self, root: Path) -> None:
        self.root, self.log = root, root / "log"
        (root / "steps" / "x").mkdir(parents=True)
        (root / "manifests").mkdir()
        (root / "config.yaml").write_text("of v1.35.8")
        for version in ("v1.35.8", "v1.36.4"):
            program = root / version
            program.write_text(f"#!/bin/sh\necho Kubernetes {version}\n")
            program.chmod(0o755)
        (root / "kubelet").symlink_to(root / "v1.35.8")
        self.runs("v1.35.8")
        self.settings("v1.36.4")

    def runs(self, version: str) -> None:
        for pod in PODS:
            (self.root / "manifests" / f"{pod}.yaml").write_text(f"    image: registry.k8s.io/{pod}:{version}\n")

    def settings(self, version: str) -> None:
        (self.root / "settings").write_text(f"kubernetesVersion: {version}\n")
        (self.root / "of-the-cluster").write_text(version)

    def run(self, script: str) -> "subprocess.CompletedProcess[str]":
        """Run a script, with an empty log."""
        self.log.write_text("")
        verbs = "".join((COMPONENTS / f"{name}.sh").read_text() for name in ("kubeadm", "kubeadm_upgrade"))
        verbs = verbs.replace("/etc/kubernetes/manifests", f"{self.root}/manifests")
        verbs = verbs.replace("/usr/local/bin/kubelet", f"{self.root}/kubelet")
        verbs = verbs.replace("/var/lib/kubelet/config.yaml", f"{self.root}/config.yaml")
        verbs = verbs.replace("/var/log/kubeadm.log", f"{self.root}/kubeadm.log")
        text = f"""HARDWAY={self.root} step={self.root}/steps/x
            . {COMPONENTS / "step.sh"}
            . {COMPONENTS / "worker_turns.sh"}
            {verbs}
            {STAND_IN.format(root=self.root, log=self.log, pods=" ".join(PODS))}
            {script}"""
        return subprocess.run(["bash", "-c", text], capture_output=True, text=True, timeout=60, check=False)

    def control_plane(self, version: str, *first: str) -> "subprocess.CompletedProcess[str]":
        words = " ".join([version, str(self.root / "settings"), "''", *first])
        return self.run(f"upgrade_control_plane {words}")

    def kubelet(self, version: str) -> "subprocess.CompletedProcess[str]":
        return self.run(
            f"upgrade_kubelet worker-0 {version} file://{self.root}/{version} 0 yes name 10.0.0.10 10.0.0.1"
        )

    @property
    def did(self) -> list[str]:
        """What it did in the last run."""
        return self.log.read_text().splitlines()


@pytest.fixture
def node(tmp_path: Path) -> Node:
    """One with version 1.35.8."""
    return Node(tmp_path)


ROLLED_OUT = "kubectl -n kube-system rollout status daemonset/kube-proxy --timeout=180s"


def test_a_machine_that_kubeadm_made_in_the_version_has_nothing_to_do(node: Node) -> None:
    node.runs("v1.36.4")
    assert node.control_plane("v1.36.4", "first").returncode == 0
    (node.root / "kubelet").unlink()
    (node.root / "kubelet").symlink_to(node.root / "v1.36.4")
    assert node.kubelet("v1.36.4").returncode == 0
    assert node.did == []


def test_the_first_controller_plans_and_applies(node: Node) -> None:
    done = node.control_plane("v1.36.4", "first")
    assert done.returncode == 0, done.stderr
    assert node.did == ["kubeadm upgrade plan v1.36.4", "kubeadm upgrade apply v1.36.4 --yes", ROLLED_OUT]
    assert node.control_plane("v1.36.4", "first").returncode == 0
    assert node.did == []


def test_the_other_controllers_follow(node: Node) -> None:
    assert node.control_plane("v1.36.4").returncode == 0
    assert node.did == ["kubeadm upgrade node", ROLLED_OUT]


def test_a_failure_of_kubeadm_is_shown_and_tried_again(node: Node) -> None:
    (node.root / "broken").touch()
    done = node.control_plane("v1.36.4", "first")
    assert done.returncode == 1
    assert "kubeadm upgrade plan failed" in done.stderr
    assert "cannot be done" in done.stderr
    (node.root / "broken").unlink()
    assert node.control_plane("v1.36.4", "first").returncode == 0
    assert "kubeadm upgrade apply v1.36.4 --yes" in node.did


def test_a_killed_upgrade_is_done_again_though_the_manifests_are_new(node: Node) -> None:
    """What comes after the manifests: the configuration in the cluster, kube-proxy, the DNS."""
    (node.root / "steps" / "x" / "version").write_text("v1.35.8\n")
    node.runs("v1.36.4")
    assert node.control_plane("v1.36.4", "first").returncode == 0
    assert "kubeadm upgrade apply v1.36.4 --yes" in node.did


def test_a_rollback_uses_the_kubeadm_of_the_version_before(node: Node) -> None:
    node.control_plane("v1.36.4", "first")
    node.settings("v1.35.8")
    done = node.control_plane("v1.35.8", "first")
    assert done.returncode == 0, done.stderr
    assert [each for each in node.did if each.startswith("kubeadm")] == [
        "kubeadm init phase addon kube-proxy",
        "kubeadm init phase upload-config all",
        "kubeadm init phase control-plane all",
    ]


def test_a_kubelet_is_changed_between_drain_and_dns(node: Node) -> None:
    done = node.kubelet("v1.36.4")
    assert done.returncode == 0, done.stderr
    assert node.did == [
        'mark "taken"',
        "drain worker-0",
        "kubeadm upgrade node phase kubelet-config",
        "systemctl restart kubelet.service",
        "systemctl -q is-active kubelet.service",
        "uncordon worker-0",
        "DNS",
        "mark null",
    ]
    assert (node.root / "kubelet").readlink() == node.root / "v1.36.4"
    assert node.kubelet("v1.36.4").returncode == 0
    assert node.did == []


def test_a_kubelet_that_does_not_serve_is_put_back(node: Node) -> None:
    (node.root / "broken-kubelet").touch()
    done = node.kubelet("v1.36.4")
    assert done.returncode == 1
    assert "the kubelet v1.36.4 does not serve" in done.stderr
    assert "The kubelet before was put back" in done.stderr
    assert (node.root / "kubelet").readlink() == node.root / "v1.35.8"
    assert node.did[-2:] == ["uncordon worker-0", "mark null"]


def test_a_kubelet_returns_with_the_configuration_from_before(node: Node) -> None:
    assert node.kubelet("v1.36.4").returncode == 0
    (node.root / "config.yaml").write_text("of v1.36.4")
    assert node.kubelet("v1.35.8").returncode == 0
    assert (node.root / "config.yaml").read_text() == "of v1.35.8"
    assert (node.root / "kubelet").readlink() == node.root / "v1.35.8"
    assert "kubeadm upgrade node phase kubelet-config" not in node.did
