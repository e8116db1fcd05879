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
await() {{ eval "$2" || eval "$2"; }}
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
process_version() {{ manifest_version "$1"; }}
curl() {{
  case $(manifest_version kube-apiserver) in
    v1.36.4) [ ! -e {root}/broken-api-server ] ;;
    *) [ ! -e {root}/broken-before ] ;;
  esac
}}
pod_log() {{ echo "unknown flag of $1"; }}
systemctl() {{
  echo "systemctl $*" >>{log}
  [ ! -e {root}/broken-kubelet ] || [ "$(readlink "$KUBELET")" != {root}/v1.36.4 ] || return 1
  [ ! -e {root}/broken-flags ] || ! grep -qs -- --no-such "$KUBELET_DROP_IN"
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
leave_leadership() {{ echo "leave leadership" >>{log}; }}
pkill() {{ echo "pkill $*" >>{log}; [ "$3" != kube-apiserver ] || touch {root}/ends; }}
pgrep() {{
  [ ! -e {root}/killed ] || exit 9
  [ -e {root}/ends ] && rm {root}/ends && echo "still there" >>{log}
}}
look_at() {{ :; }}
note_run() {{ :; }}
ready() {{ :; }}
serving() {{ systemctl -q is-active "$1" || exit 1; }}
ctl() {{ echo "etcdctl $*" >>{log}; [ ! -e {root}/broken-member ]; }}
close_kubelet_config() {{ :; }}
"""


class Node:
    """A bash with the verbs of a controller, and a scratch root in place of /etc and /var."""

    def __init__(self, root: Path) -> None:
        self.root, self.log = root, root / "log"
        for step in ("x", "kubeadm", "node"):
            (root / "steps" / step).mkdir(parents=True)
        (root / "steps" / "node" / "finished").touch()
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
            KUBELET_DROP_IN={self.root}/drop-in
            {STAND_IN.format(root=self.root, log=self.log, pods=" ".join(PODS))}
            {script}"""
        return subprocess.run(["bash", "-c", text], capture_output=True, text=True, timeout=60, check=False)

    def control_plane(self, version: str, *first: str) -> "subprocess.CompletedProcess[str]":
        words = " ".join([version, str(self.root / "settings"), "kubeadm-upgrade.yaml", *first])
        return self.run(f"upgrade_control_plane {words}")

    def kubelet(self, version: str) -> "subprocess.CompletedProcess[str]":
        return self.run(
            f"upgrade_kubelet worker-0 {version} file://{self.root}/{version} 0 yes name 10.0.0.10 10.0.0.1"
        )

    def flags(self, *words: str) -> None:
        """Those that the kubelet is to have."""
        line = f'Environment="KUBELET_EXTRA_ARGS={" ".join(words)}"\n' if words else ""
        (self.root / "drop-in").write_text(f"[Service]\n{line}")

    @property
    def versions(self) -> set[str]:
        """Those in the manifests."""
        return {(self.root / "manifests" / f"{pod}.yaml").read_text().strip().rpartition(":")[2] for pod in PODS}

    @property
    def record(self) -> str:
        """Which version its control plane has."""
        return (self.root / "steps" / "x" / "version").read_text().strip()

    @property
    def kept(self) -> bool:
        """Whether it has manifests of before an upgrade."""
        return (self.root / "steps" / "x" / "manifests-before").exists()

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
    assert "kubeadm upgrade plan v1.36.4 failed" in done.stderr
    assert "cannot be done" in done.stderr
    assert node.versions == {"v1.35.8"}
    (node.root / "broken").unlink()
    assert node.control_plane("v1.36.4", "first").returncode == 0
    assert "kubeadm upgrade apply v1.36.4 --yes" in node.did


@pytest.mark.parametrize("first", [["first"], []])
def test_an_api_server_that_does_not_serve_is_put_back(node: Node, first: list[str]) -> None:
    """kubeadm does not see every pod that fails again and again."""
    (node.root / "broken-api-server").touch()
    done = node.control_plane("v1.36.4", *first)
    assert done.returncode == 1
    assert "cannot run v1.36.4: kube-apiserver does not serve in the version v1.36.4" in done.stderr
    assert "unknown flag of kube-apiserver" in done.stderr
    assert "The version before was put back on" in done.stderr and "serves again" in done.stderr
    assert node.versions == {"v1.35.8"}
    assert not node.kept
    (node.root / "broken-api-server").unlink()
    node.settings("v1.36.4")
    assert node.control_plane("v1.36.4", *first).returncode == 0
    assert node.versions == {"v1.36.4"} and node.record == "v1.36.4"


def test_the_rollback_of_one_that_was_put_back_writes_the_configuration_of_the_cluster(node: Node) -> None:
    """kubeadm had told the cluster the new version."""
    (node.root / "broken-api-server").touch()
    assert node.control_plane("v1.36.4", "first").returncode == 1
    node.settings("v1.35.8")
    assert node.control_plane("v1.35.8", "first").returncode == 0
    assert "kubeadm init phase upload-config all" in node.did
    assert node.record == "v1.35.8"
    assert node.control_plane("v1.35.8", "first").returncode == 0
    assert node.did == []


def test_a_control_plane_that_serves_in_neither_version_is_said(node: Node) -> None:
    for name in ("broken-api-server", "broken-before"):
        (node.root / name).touch()
    done = node.control_plane("v1.36.4", "first")
    assert done.returncode == 1
    assert "but the control plane does not serve with it either" in done.stderr
    assert node.versions == {"v1.35.8"}


@pytest.mark.parametrize("wanted", ["v1.35.8", "v1.36.4"])
def test_a_run_that_was_killed_beside_a_broken_api_server_begins_from_the_version_before(
    node: Node, wanted: str
) -> None:
    """Without an API server on the only controller, no kubeadm could do anything."""
    (node.root / "broken-api-server").touch()
    script = f"restore_control_plane() {{ exit 9; }}; upgrade_control_plane v1.36.4 {node.root}/settings x first"
    assert node.run(script).returncode == 9
    assert node.versions == {"v1.36.4"} and node.kept
    node.settings(wanted)
    done = node.control_plane(wanted, "first")
    assert "The version before was put back on" in done.stderr
    assert done.returncode == (0 if wanted == "v1.35.8" else 1), done.stderr
    assert node.versions == {"v1.35.8"}


def test_a_killed_upgrade_is_done_again_though_the_manifests_are_new(node: Node) -> None:
    """What comes after the manifests: the configuration in the cluster, and kube-proxy; also without a record."""
    assert node.run(f"k() {{ exit 9; }}; upgrade_control_plane v1.36.4 {node.root}/settings x first").returncode == 9
    assert node.versions == {"v1.36.4"} and node.record == "v1.35.8 to v1.36.4"
    assert node.control_plane("v1.36.4", "first").returncode == 0
    assert "kubeadm upgrade apply v1.36.4 --yes" in node.did
    assert node.record == "v1.36.4"


def test_a_rollback_that_was_killed_between_two_manifests_is_a_rollback_again(node: Node) -> None:
    node.control_plane("v1.36.4", "first")
    (node.root / "steps" / "x" / "version").write_text("v1.35.8 to v1.36.4\n")
    (node.root / "manifests" / "kube-apiserver.yaml").write_text("    image: registry.k8s.io/kube-apiserver:v1.35.8\n")
    node.settings("v1.35.8")
    assert node.control_plane("v1.35.8", "first").returncode == 0
    assert "kubeadm init phase control-plane all" in node.did and not [each for each in node.did if "apply" in each]
    assert node.versions == {"v1.35.8"}


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


_RESTARTS = [
    "systemctl stop kubelet.service",
    "pkill -TERM -x kube-apiserver",
    "still there",
    "leave leadership",
    "pkill -TERM -x etcd|kube-controller|kube-scheduler",
    "systemctl restart kubelet.service",
    "etcdctl endpoint health --cluster",
    "DNS",
]


def test_a_controllers_static_pods_have_ended_when_its_kubelet_starts(node: Node) -> None:
    """A kubelet of another version would start an API server, and end its etcd member when it serves.

    The next controller waits for the static pods: two members that are away at once would be one too many.
    """
    (node.root / "manifests" / "etcd.yaml").touch()
    done = node.kubelet("v1.36.4")
    assert done.returncode == 0, done.stderr
    assert [each for each in node.did if each in _RESTARTS] == _RESTARTS
    assert not [each for each in node.did if "--no-block" in each]
    (node.root / "broken-member").touch()
    done = node.kubelet("v1.35.8")
    assert done.returncode == 1 and "every etcd member healthy" in done.stderr


def test_a_run_that_ends_while_the_kubelet_is_stopped_starts_it(node: Node) -> None:
    """A Node that is lost, and an API server that nothing starts."""
    (node.root / "manifests" / "etcd.yaml").touch()
    (node.root / "killed").touch()
    assert node.kubelet("v1.36.4").returncode == 9
    assert node.did[-1] == "systemctl start --no-block kubelet.service"
    (node.root / "killed").unlink()
    done = node.kubelet("v1.36.4")
    assert done.returncode == 0, done.stderr
    assert node.did == ["uncordon worker-0", "etcdctl endpoint health --cluster", "DNS", "mark null"]
    assert not (node.root / "steps" / "x" / "program").exists()


def test_a_kubelet_that_does_not_serve_is_put_back(node: Node) -> None:
    (node.root / "broken-kubelet").touch()
    done = node.kubelet("v1.36.4")
    assert done.returncode == 1
    assert "the kubelet v1.36.4 does not serve" in done.stderr
    assert "The kubelet before was put back" in done.stderr
    assert (node.root / "kubelet").readlink() == node.root / "v1.35.8"
    assert node.did[-2:] == ["uncordon worker-0", "mark null"]


def test_a_killed_change_of_a_kubelet_still_knows_the_program_before(node: Node) -> None:
    assert (
        node.run(
            "restart_kubelet() { exit 9; }; upgrade_kubelet worker-0 v1.36.4"
            f" file://{node.root}/v1.36.4 0 yes name 10.0.0.10 10.0.0.1"
        ).returncode
        == 9
    )
    assert (node.root / "kubelet").readlink() == node.root / "v1.36.4"
    (node.root / "broken-kubelet").touch()
    # The link is changed, and the process is not.
    done = node.run(
        "runs_kubelet() { return 1; }; upgrade_kubelet worker-0 v1.36.4"
        f" file://{node.root}/v1.36.4 0 yes name 10.0.0.10 10.0.0.1"
    )
    assert "The kubelet before was put back" in done.stderr
    assert (node.root / "kubelet").readlink() == node.root / "v1.35.8"


def test_a_kubelet_returns_with_the_configuration_from_before(node: Node) -> None:
    assert node.kubelet("v1.36.4").returncode == 0
    (node.root / "config.yaml").write_text("of v1.36.4")
    assert node.kubelet("v1.35.8").returncode == 0
    assert (node.root / "config.yaml").read_text() == "of v1.35.8"
    assert (node.root / "kubelet").readlink() == node.root / "v1.35.8"
    assert "kubeadm upgrade node phase kubelet-config" not in node.did


_RESTARTED = [
    "DNS",
    "systemctl -q is-active kubelet.service",
    "systemctl daemon-reload",
    "systemctl restart kubelet.service",
    "systemctl -q is-active kubelet.service",
    "uncordon worker-0",
    "DNS",
    "mark null",
]


@pytest.mark.parametrize(
    "run", ["upgrade_kubelet worker-0 v1.35.8 file://{root}/v1.35.8 0 yes", "restart_for_flags worker-0"]
)
def test_other_flags_restart_the_kubelet_without_a_drain(node: Node, run: str) -> None:
    """Its pods keep running. The turn ends when the Node is Ready and the DNS answers."""
    script = f"{run.format(root=node.root)} name 10.0.0.10 10.0.0.1"
    assert node.run(script).returncode == 0
    assert node.did == []
    node.flags("--v=3")
    assert node.run(f"set -e\n{script}").returncode == 0
    assert node.did == _RESTARTED
    assert node.run(script).returncode == 0
    assert node.did == []
    node.flags()
    # Killed while it restarts, and while the Node becomes Ready.
    assert node.run(f"serving() {{ exit 9; }}; {script}").returncode == 9
    assert node.run(f"node_is_ready() {{ exit 9; }}; set -e; {script}").returncode != 0
    assert "systemctl restart kubelet.service" in node.did and "mark null" not in node.did
    assert node.run(script).returncode == 0
    assert node.did == ["uncordon worker-0", "DNS", "mark null"]


def test_another_version_and_other_flags_are_one_restart(node: Node) -> None:
    """The one before may not know the flags."""
    node.flags("--v=3")
    assert node.kubelet("v1.36.4").returncode == 0
    assert node.did.count("systemctl restart kubelet.service") == 1
    assert node.did.index("drain worker-0") < node.did.index("systemctl daemon-reload")
    assert node.kubelet("v1.36.4").returncode == 0
    assert node.did == []


@pytest.mark.parametrize("version", ["v1.35.8", "v1.36.4"])
def test_flags_with_which_a_kubelet_does_not_serve_can_be_taken_back(node: Node, version: str) -> None:
    """Also together with another version: a Node whose kubelet does not run cannot be drained."""
    (node.root / "broken-flags").touch()
    node.flags("--no-such")
    assert node.run("set -e\nrestart_for_flags worker-0 name 10.0.0.10 10.0.0.1").returncode == 1
    assert "uncordon worker-0" not in node.did
    node.flags()
    # As long as it has not restarted it does not serve.
    stopped = f"kubelet_serves() {{ grep -q restart {node.log}; }}"
    done = node.run(
        f"{stopped}; upgrade_kubelet worker-0 {version} file://{node.root}/{version} 0 yes name 10.0.0.10 10.0.0.1"
    )
    assert done.returncode == 0, done.stderr
    restart = "systemctl restart kubelet.service"
    upgraded = ["drain worker-0", restart] if version == "v1.36.4" else []
    assert [each for each in node.did if each in ("drain worker-0", restart)] == [restart, *upgraded]
