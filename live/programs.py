"""How a lab's programs run on its machines, and the shell lines that kill, stop and start them there.

On the hard way each is a unit of systemd. Where kubeadm made the cluster, etcd, the control plane and kube-proxy are
pods, and what the kubelet is to run as static pods is what lies in /etc/kubernetes/manifests.
"""

from live.cluster import Cluster

MANIFESTS = "/etc/kubernetes/manifests"
LEFT_OUT = "/etc/kubernetes/hardway-left-out"
"""Where the manifest of a static pod lies while the pod is stopped, or is run with another environment."""
LEADERS = ("kube-controller-manager", "kube-scheduler")
"""The programs of which one leads; their leases have their names."""
_PODS = ("etcd", "kube-apiserver", *LEADERS, "kube-proxy")
_LINES = 15
_SECONDS = 90


class _Program:
    """One program on any machine of a lab.

    Args:
        name: its own.
        timeout_factor: of the lab.
    """

    def __init__(self, name: str, *, timeout_factor: int = 1) -> None:
        self.name = name
        self._seconds = _SECONDS * timeout_factor


class Unit(_Program):
    """A program that is a unit."""

    def pid(self) -> str:
        """Prints the number of its process; nothing where it does not run."""
        return f"systemctl -q is-active {self.name} && systemctl show --property MainPID --value {self.name}"

    def stop(self) -> str:
        """Ends it in order, until it is started again; returns at once where it need not be waited for."""
        return f"systemctl stop {self.name}"

    def start(self) -> str:
        """Let it run again. Succeeds if it runs already."""
        return f"systemctl start {self.name}"

    def run_with(self, assignment: str) -> str:
        """Runs it with one variable more in its environment, until `run_without`; `assignment` may expand variables."""
        # In /run, which does not outlive the machine either.
        return (
            f"install -d {self._drop_in.rpartition('/')[0]}\n"
            f'printf "[Service]\\nEnvironment=%s\\n" "{assignment}" >{self._drop_in}\n{self._restart}'
        )

    def run_without(self) -> str:
        """Runs it as ever again."""
        return f"rm -f {self._drop_in}\n{self._restart}"

    def is_changed(self) -> str:
        """Succeeds between `run_with` and `run_without`."""
        return f"[ -e {self._drop_in} ]"

    def log(self) -> str:
        """Prints the last that it said."""
        return f"journalctl -q -n {_LINES} --no-pager -o cat -u {self.name}"

    @property
    def _drop_in(self) -> str:
        return f"/run/systemd/system/{self.name}.service.d/hardway-drill.conf"

    @property
    def _restart(self) -> str:
        return f"systemctl daemon-reload\nsystemctl restart {self.name}"


class Pod(_Program):
    """A program in a pod of kubeadm's, with the methods of `Unit`; only static pods can be stopped."""

    def pid(self) -> str:
        # Asked of containerd: that needs neither kubelet nor API.
        return (
            "ctr -n k8s.io tasks ls 2>/dev/null | awk '$3 == \"RUNNING\" { print $1, $2 }' | "
            f"grep -F \"$(ctr -n k8s.io containers ls -q {self.label()} 2>/dev/null || echo none)\" | cut -d ' ' -f 2"
        )

    def label(self) -> str:
        """The filter by which containerd finds its containers, as a word of the shell."""
        return f'"labels.\\"io.kubernetes.container.name\\"=={self.name}"'

    def stop(self) -> str:
        # The kubelet sees it at once.
        return f"[ ! -e {self._manifest} ] || {{ mkdir -p {LEFT_OUT} && mv {self._manifest} {self._aside}; }}"

    def start(self) -> str:
        return f"[ ! -e {self._aside} ] || mv {self._aside} {self._manifest}\nrmdir {LEFT_OUT} 2>/dev/null || true"

    def run_with(self, assignment: str) -> str:
        # Beside it first: the kubelet reads whatever lies there. Another file is another pod to it, after the old one.
        variable = '{name: ${given%%=*}, value: \\"${given#*=}\\"}'
        return (
            f"mkdir -p {LEFT_OUT}\ncp -p {self._manifest} {self._aside}\n"
            f'given="{assignment}"\n'
            f'sed "s/^  - command:/  - env:\\n    - {variable}\\n    command:/" {self._aside} >{LEFT_OUT}/changed\n'
            f"{self._another(f'mv {LEFT_OUT}/changed {self._manifest}')}"
        )

    def run_without(self) -> str:
        return self._another(self.start())

    def is_changed(self) -> str:
        return f"[ -e {self._aside} ]"

    def log(self) -> str:
        files = f"/var/log/pods/kube-system_{self.name}-*/{self.name}/*.log"
        return f"ls -t {files} 2>/dev/null | head -n 1 | xargs -r tail -n {_LINES}"

    def _another(self, change: str) -> str:
        """Makes a change, and waits for the process that comes of it."""
        if self.name == "etcd":
            # The kubelet asks its own machine's API server before it starts a changed pod. Without etcd that answers
            # after a minute; if no process listens, the kubelet does not wait.
            change = f"{change}\nkill -9 $({Pod('kube-apiserver').pid()}) 2>/dev/null || true"
        return (
            f"old=$({self.pid()})\n{change}\nend=$((SECONDS + {self._seconds}))\n"
            f'until new=$({self.pid()}) && [ -n "$new" ] && [ "$new" != "$old" ]; do\n'
            f'  [ $SECONDS -lt $end ] || {{ echo "no new {self.name} within {self._seconds} s; its log:" >&2; '
            f"{{ {self.log()}; }} >&2; exit 1; }}\n"
            "  sleep 0.2\ndone"
        )

    @property
    def _manifest(self) -> str:
        return f"{MANIFESTS}/{self.name}.yaml"

    @property
    def _aside(self) -> str:
        return f"{LEFT_OUT}/{self.name}.yaml"


def program(cluster: Cluster, name: str) -> Unit | Pod:
    """A program of a lab, as it runs there."""
    kind = Pod if cluster.by_kubeadm and name in _PODS else Unit
    return kind(name, timeout_factor=cluster.timeout_factor)
