"""A worker: containerd and runc, the CNI plugins, the kubelet and kube-proxy; and its Node in the API.

Made on the worker: two steps, the container runtime (which needs no cluster, and is made beside the control plane) and
the node. Made through a controller: the Node's pod range and label. Before a worker goes, its Node is drained and
deleted (nodes.sh).

Sources: https://github.com/containerd/containerd/blob/main/docs/cri/config.md,
https://kubernetes.io/docs/reference/config-api/kubelet-config.v1beta1/,
https://kubernetes.io/docs/reference/config-api/kube-proxy-config.v1alpha1/
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from string import Template
from typing import Any

import pulumi
import yaml

from components.component import Component
from components.kubeconfigs import kubeconfig
from components.machine import Machine
from components.manifests import KUBECTL
from components.pki import Certificate, Pki
from components.step import LIBRARY, Fetch, File, Step, StepArgs, Unit
from components.systemd import systemd_unit
from components.tls_settings import CIPHER_SUITES, MIN_VERSION
from config.artifacts import ArtifactSource
from config.settings import Network
from config.versions import Image, pins

_KUBELET = "/var/lib/kubelet"
_CONFIG = "/etc/kubernetes/config"
_KUBELET_KUBECONFIG = "/etc/kubernetes/kubelet.kubeconfig"
_PROXY_KUBECONFIG = "/etc/kubernetes/kube-proxy.kubeconfig"
RESOLV_CONF = "/etc/kubernetes/config/resolv.conf"
_CNI = "/etc/cni/net.d"
_NODES = str(Path(LIBRARY).with_name("nodes.sh"))
WORKER_VERBS = str(Path(LIBRARY).with_name("worker.sh"))
"""On every worker; a step sources it after the library."""
_NODE_UNDO = f"[ ! -e {WORKER_VERBS} ] || {{ . {WORKER_VERBS}; end_pods; drop_rules {_CONFIG}/kube-proxy.yaml; }}"
KUBELET_SYSCTLS = (
    "kernel.keys.root_maxbytes",
    "kernel.keys.root_maxkeys",
    "kernel.panic",
    "kernel.panic_on_oops",
    "vm.overcommit_memory",
    "vm.panic_on_oom",
)
"""What a kubelet sets for the whole kernel."""
# That, and what kube-proxy sets; a kernel that is shared is its host's to look after.
KEPT_SYSCTLS = (
    *KUBELET_SYSCTLS,
    "net.netfilter.nf_conntrack_max",
    "net.netfilter.nf_conntrack_tcp_timeout_close_wait",
    "net.netfilter.nf_conntrack_tcp_timeout_established",
)
# What tells the Nodes of the lab's own workers from others that somebody may have added; in nodes.sh, too.
_LABEL = "hardway/worker"
CONTAINERD_SOCKET = "/run/containerd/containerd.sock"


@dataclass(frozen=True, kw_only=True)
class ContainerRuntimeArgs:
    """Args:
    machine: the worker.
    artifacts: where programs and images come from.
    images: names in versions.yaml of the images besides pause that are imported where the mirror has them.
    bridge: whether pods are on a bridge of the worker's; else somebody else brings the network's configuration.
    at_once: whether images are imported side by side: many large ones wait for the disk, and others for them.
    """

    machine: Machine
    artifacts: ArtifactSource
    images: tuple[str, ...] = ("coredns",)
    at_once: bool = False
    bridge: bool = True


@dataclass(frozen=True, kw_only=True)
class WorkerArgs:
    """Args:
    machine: the worker.
    controller: where the Node is looked after.
    pki: the certificates.
    endpoint: https://address:6443 of the load balancer, all that a worker knows of the control plane.
    network: the address ranges.
    cluster: the name kubeconfigs give the cluster.
    artifacts: where the programs come from.
    plugin: given the step after which the kubelet runs, makes the pods' network; none where that is there before. It is
        taken away after the Node: without it no pod can end.
    """

    machine: Machine
    controller: Machine
    pki: Pki
    endpoint: pulumi.Input[str]
    network: Network
    cluster: str
    artifacts: ArtifactSource
    plugin: Callable[[pulumi.Resource], pulumi.Resource] | None = None


class ContainerRuntime(Component):
    """containerd, runc and the CNI plugins on a worker, with the images every node needs.

    Attributes:
        runtime: the step after which containers can be started; the images may still be on their way.
    """

    def __init__(self, name: str, args: ContainerRuntimeArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("ContainerRuntime", name, opts)
        machine, artifacts = args.machine, args.artifacts
        config = File(
            path="/etc/containerd/config.toml",
            content=containerd_configuration(pins().images["pause"]),
            mode="0600",
        )
        pod_cidr = machine.spec.pod_cidr
        if pod_cidr is None:
            raise ValueError(f"{machine.name} has no pod range")

        def imports(*images: str) -> str:
            wanted = [_import(artifacts, image, machine.arch) for image in images if artifacts.has_images]
            if len(wanted) < 2 or not args.at_once:
                return "\n".join(wanted)
            return "\n".join(
                [
                    "imports=()",
                    *(f"{each} & imports+=($!)" for each in wanted),
                    'for each in "${imports[@]}"; do wait "$each"; done',
                ]
            )

        self.runtime = Step(
            name,
            StepArgs(
                machine=machine,
                name="container-runtime",
                prepare="data /var/lib/containerd /run/containerd /var/lib/cni /opt/containerd /run/nri"
                # containerd makes the directory where no file of ours does.
                + ("" if args.bridge else f"\nparents {_CNI}/any"),
                fetches=[
                    Fetch(
                        artifact=artifacts.artifact("containerd", arch=machine.arch),
                        destination="/usr/local/bin",
                        members=[f"bin/{program}" for program in ("containerd", "containerd-shim-runc-v2", "ctr")],
                    ),
                    Fetch(artifact=artifacts.artifact("runc", arch=machine.arch), destination="/usr/local/sbin/runc"),
                    Fetch(
                        artifact=artifacts.artifact("cni-plugins", arch=machine.arch),
                        destination="/opt/cni/bin",
                        members=[*(["bridge", "host-local"] if args.bridge else []), "loopback", "portmap"],
                    ),
                ],
                files=[
                    config,
                    File(path=WORKER_VERBS, content=Path(__file__).with_name("worker.sh").read_text()),
                    *(_bridge_files(str(pod_cidr)) if args.bridge else []),
                ],
                units=[
                    Unit(
                        name="containerd.service",
                        content=systemd_unit(
                            description="containerd",
                            documentation="https://containerd.io",
                            program="/usr/local/bin/containerd",
                            service={
                                "Type": "notify",
                                # Containers outlive a restart of containerd.
                                "KillMode": "process",
                                "Delegate": "yes",
                                "LimitNOFILE": "infinity" if not machine.shares_kernel else 20000,
                                "TasksMax": "infinity",
                            },
                        ),
                        restarts_on=[config.path],
                        ready=f"ctr --address {CONTAINERD_SOCKET} version >/dev/null",
                        ready_means="containerd answers",
                    )
                ],
                run=imports("pause"),
                undo=f"[ ! -e {WORKER_VERBS} ] || {{ . {WORKER_VERBS}; end_runtime; }}",
            ),
            self.child(),
        )
        # A step of its own, beside the kubelet's start: only pods that use them need these.
        Step(
            f"{name}-images",
            StepArgs(machine=machine, name="images", run=imports(*args.images)),
            self.child(self.runtime),
        )
        self.register_outputs({})


class Worker(Component):
    """The kubelet and kube-proxy on one worker, and its Node.

    Attributes:
        kubelet: the step after which the kubelet runs; its Node is Ready once there is a network.
    """

    def __init__(self, name: str, args: WorkerArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("Worker", name, opts)
        machine = args.machine
        kubelet = _kubelet_files(args)
        proxy = _proxy_files(args)
        self.kubelet = Step(
            f"{name}-node",
            StepArgs(
                machine=machine,
                name="node",
                prepare="\n".join(
                    [
                        f"data {_KUBELET} /var/log/pods /var/log/containers /usr/libexec/kubernetes",
                        # Written by the unit itself, whenever it starts.
                        f"parents {RESOLV_CONF}",
                        f"own file {RESOLV_CONF}",
                        f"install -d -m 0750 {_KUBELET}",
                        *([] if machine.shares_kernel else [f"kept_sysctls {' '.join(KEPT_SYSCTLS)}"]),
                        f". {WORKER_VERBS}",
                        "note_tables",
                    ]
                ),
                fetches=[
                    Fetch(
                        artifact=args.artifacts.artifact("kubernetes", arch=machine.arch, artifact=program),
                        destination=f"/usr/local/bin/{program}",
                    )
                    for program in ("kubelet", "kube-proxy")
                ],
                files=[*kubelet, *proxy],
                before_start=f"register_again {own_node(machine)}",
                units=[
                    Unit(
                        name="kubelet.service",
                        content=systemd_unit(
                            description="Kubernetes: kubelet",
                            documentation="https://kubernetes.io/docs/reference/command-line-tools-reference/kubelet/",
                            program="/usr/local/bin/kubelet",
                            flags={
                                "config": f"{_CONFIG}/kubelet.yaml",
                                "kubeconfig": _KUBELET_KUBECONFIG,
                                "hostname-override": machine.name,
                                "node-ip": machine.address,
                            },
                            after=("containerd.service", "network-online.target"),
                            service={"ExecStartPre": resolv_conf_command()},
                        ),
                        restarts_on=[file.path for file in kubelet],
                        ready=f"curl -sf http://127.0.0.1:10248/healthz && {own_node(machine)}",
                        ready_means="http://127.0.0.1:10248/healthz says ok, and its Node in the API",
                    ),
                    Unit(
                        name="kube-proxy.service",
                        content=systemd_unit(
                            description="Kubernetes: kube-proxy",
                            documentation="https://kubernetes.io/docs/reference/command-line-tools-reference/kube-proxy/",
                            program="/usr/local/bin/kube-proxy",
                            flags={"config": f"{_CONFIG}/kube-proxy.yaml", "hostname-override": machine.name},
                        ),
                        restarts_on=[file.path for file in proxy],
                        # Its own healthz says ok only once it has written the rules of all services.
                        ready=f"curl -sf http://{machine.address}:10256/livez",
                        ready_means=f"http://{machine.address}:10256/livez says ok",
                        # It asks for the Node when it starts; where there is none yet, only a second later again.
                        stage=2,
                    ),
                ],
                undo=_NODE_UNDO,
            ),
            self.child(),
        )
        Step(
            f"{name}-registration",
            StepArgs(
                machine=args.controller,
                name=f"node-{machine.name}",
                # A worker made anew has to be seen Ready anew.
                run=pulumi.Output.format("# {0}\n{1}", machine.identity, node_in_api(machine)),
                undo=node_out_of_api(machine),
            ),
            self.child(self.kubelet, *([args.plugin(self.kubelet)] if args.plugin else [])),
        )
        self.register_outputs({})


class FormerWorkers(Component):
    """The way out of the cluster for workers that the lab no longer has: drained, and their Nodes deleted.

    Before the routes to their pods go, and before their machines.

    Raises, at `up`: which pods cannot leave, and which PodDisruptionBudgets hold them.
    """

    def __init__(
        self, name: str, controller: Machine, workers: Sequence[Machine], opts: pulumi.ResourceOptions | None = None
    ) -> None:
        super().__init__("FormerWorkers", name, opts)
        Step(
            name,
            StepArgs(
                machine=controller,
                name="former-workers",
                files=[File(path=_NODES, content=Path(__file__).with_name("nodes.sh").read_text())],
                run=f". {_NODES}\nonly_nodes {' '.join(worker.name for worker in workers)}",
            ),
            self.child(),
        )
        self.register_outputs({})


def containerd_configuration(pause: Image) -> str:
    """config.toml, version 3 (containerd 2).

    Source: https://github.com/containerd/containerd/blob/main/docs/cri/config.md
    """
    return _CONTAINERD.substitute(pause=pause.reference)


_CONTAINERD = Template("""\
version = 3

[plugins.'io.containerd.cri.v1.images']
  snapshotter = 'overlayfs'

[plugins.'io.containerd.cri.v1.images'.pinned_images]
  sandbox = '$pause'

[plugins.'io.containerd.cri.v1.runtime']
  # A machine that is a container may not lower the score of a process below its own.
  restrict_oom_score_adj = true

[plugins.'io.containerd.cri.v1.runtime'.cni]
  bin_dirs = ['/opt/cni/bin']
  conf_dir = '/etc/cni/net.d'

[plugins.'io.containerd.cri.v1.runtime'.containerd]
  default_runtime_name = 'runc'

[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc]
  runtime_type = 'io.containerd.runc.v2'

[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc.options]
  BinaryName = '/usr/local/sbin/runc'
  SystemdCgroup = true
""")


def bridge_configuration(pod_cidr: str) -> str:
    """The CNI configuration of a worker's pods: a bridge, an address out of the worker's range, and host ports.

    Source: https://www.cni.dev/plugins/current/main/bridge/
    """
    return _json(
        {
            "cniVersion": "1.0.0",
            "name": "bridge",
            "plugins": [
                {
                    "type": "bridge",
                    "bridge": "cni0",
                    "isGateway": True,
                    # Pods keep their addresses towards the other pods; pod_network.py masquerades what leaves the lab.
                    "ipMasq": False,
                    # A pod may reach itself through its own Service.
                    "hairpinMode": True,
                    "ipam": {
                        "type": "host-local",
                        "ranges": [[{"subnet": pod_cidr}]],
                        "routes": [{"dst": "0.0.0.0/0"}],
                    },
                },
                {"type": "portmap", "capabilities": {"portMappings": True}},
            ],
        }
    )


def loopback_configuration() -> str:
    """The CNI configuration of a pod's own loopback interface."""
    return _json({"cniVersion": "1.0.0", "name": "lo", "type": "loopback"})


def _bridge_files(pod_cidr: str) -> list[File]:
    return [
        File(path=f"{_CNI}/10-bridge.conflist", content=bridge_configuration(pod_cidr), mode="0600"),
        File(path=f"{_CNI}/99-loopback.conf", content=loopback_configuration(), mode="0600"),
    ]


def resolv_conf_command() -> str:
    """Writes the resolv.conf that pods inherit: the machine's name servers without its search domains.

    A search domain of the machine would be tried on every name that a pod looks up, and would break fully spelled
    service names where it is refused. A pod cannot reach the machine's loopback, nor what is link-local to one of its
    interfaces in IPv6 (an IPv4 one it can: clouds have resolvers there). The first file counts that leaves any.
    """
    files = " ".join(("/run/systemd/resolve/resolv.conf", HOST_RESOLV_CONF, HOST_RESOLVED, "/etc/resolv.conf"))
    return (
        # systemd reads the line first: $$ and %% are one character each.
        f"/bin/sh -c 'for file in {files}; do [ -r $$file ] || continue; "
        'while read -r key server rest || [ -n "$$key" ]; do '
        '[ "$$key" = nameserver ] || continue; '
        'case "$$server" in ""|127.*|0.0.0.0|::|::1|0:0:0:0:0:0:0:1|::[Ff][Ff][Ff][Ff]:127.*|*%%*|'
        "[Ff][Ee][89AaBb][0-9A-Fa-f]:*) ;; "
        '*) echo "nameserver $$server" ;; esac; '
        f"done <$$file >{RESOLV_CONF} ; "
        f"if [ -s {RESOLV_CONF} ]; then exit 0; fi; done; "
        f"echo nameserver {_NO_NAME_SERVER} >{RESOLV_CONF}; "
        'echo "No name server that pods can reach: all are loopback or link-local, or none is named. '
        "Names outside the cluster will not resolve.\" >&2'"
    )


HOST_RESOLV_CONF = "/etc/hardway/host-resolv.conf"
"""The /etc/resolv.conf of the host of a machine that is a container, where the engine's own is of no use to pods."""
HOST_RESOLVED = "/etc/hardway/host-resolved/resolv.conf"
"""Likewise, what systemd-resolved knows."""
# Documentation's own address (RFC 5737): nobody answers there, so CoreDNS says SERVFAIL for names outside the cluster.
_NO_NAME_SERVER = "192.0.2.53"


def kubelet_configuration(machine: Machine, network: Network) -> str:
    """KubeletConfiguration, YAML."""
    return _yaml(
        {
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "authentication": {
                "anonymous": {"enabled": False},
                "webhook": {"enabled": True},
                "x509": {"clientCAFile": f"{_KUBELET}/pki/ca.crt"},
            },
            "authorization": {"mode": "Webhook"},
            "readOnlyPort": 0,
            "tlsCertFile": f"{_KUBELET}/pki/kubelet.crt",
            "tlsPrivateKeyFile": f"{_KUBELET}/pki/kubelet.key",
            "tlsMinVersion": MIN_VERSION,
            "tlsCipherSuites": list(CIPHER_SUITES),
            "clusterDomain": network.cluster_domain,
            "clusterDNS": [str(network.dns_service)],
            "resolvConf": RESOLV_CONF,
            "containerRuntimeEndpoint": f"unix://{CONTAINERD_SOCKET}",
            "maxPods": network.max_pods,
            "podPidsLimit": 4096,
            "seccompDefault": True,
            "eventRecordQPS": 50,
            **(SHARED_KERNEL if machine.shares_kernel else {}),
        }
    )


# What a kubelet cannot have when kernel, swap and disk are the host's.
SHARED_KERNEL: dict[str, Any] = {
    "failSwapOn": False,
    # The default since 1.35 is true; such hosts are still there.
    "failCgroupV1": False,
    # Its file system is the host's, so neither its size nor its fullness says anything about the machine.
    "localStorageCapacityIsolation": False,
    "evictionHard": {"memory.available": "50Mi", "nodefs.available": "0%", "imagefs.available": "0%"},
}

# Connection tracking has global limits, which are the host's where the kernel is.
SHARED_CONNTRACK: dict[str, Any] = {
    "conntrack": {"maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"}
}


def proxy_configuration(machine: Machine, network: Network) -> str:
    """KubeProxyConfiguration, YAML."""
    return _yaml(
        {
            "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
            "kind": "KubeProxyConfiguration",
            "mode": network.kube_proxy_mode,
            "clientConnection": {"kubeconfig": _PROXY_KUBECONFIG},
            "clusterCIDR": str(network.pods),
            "metricsBindAddress": "127.0.0.1:10249",
            # For load balancers in front of the node.
            "healthzBindAddress": f"{machine.address}:10256",
            **(SHARED_CONNTRACK if machine.shares_kernel else {}),
        }
    )


def node_in_api(machine: Machine) -> str:
    """The shell lines that wait for the Node and make it the lab's: its pod range, its label; run on a controller."""
    cidr = str(machine.spec.pod_cidr)
    patch = json.dumps({"metadata": {"labels": {_LABEL: ""}}, "spec": {"podCIDR": cidr, "podCIDRs": [cidr]}})
    node = f"node/{machine.name}"
    return "\n".join(
        [
            f"wait_for 90 '{machine.name} registering' {quote(f'{KUBECTL} patch {node} -p {quote(patch)}')}",
            f"{KUBECTL} wait --for=condition=Ready {node} --timeout=$((90 * TIMEOUT_FACTOR))s >/dev/null ||",
            f'  die "{machine.name} is not Ready: $({KUBECTL} get {node} '
            '-o jsonpath=\'{.status.conditions[?(@.type=="Ready")].message}\')"',
        ]
    )


def own_node(machine: Machine) -> str:
    """The shell command that succeeds if the API has a worker's Node; run on the worker, as its kubelet."""
    identity = f"--cacert {_KUBELET}/pki/ca.crt --cert {_KUBELET}/pki/kubelet.crt --key {_KUBELET}/pki/kubelet.key"
    server = f"$(sed -n 's/^ *server: //p' {_KUBELET_KUBECONFIG})"
    return f'curl -sf -m {5 * machine.timeout_factor} -o /dev/null {identity} "{server}/api/v1/nodes/{machine.name}"'


def node_out_of_api(machine: Machine) -> str:
    """The shell lines that end a Node's pods while their kubelet is there, and delete the Node; run on a controller.

    A worker that leaves a lab has been drained before (see FormerWorkers); its kubelet may have come back to the API
    since. Where the lab goes as a whole nobody answers, perhaps, and nobody needs to.
    """
    seconds = 60 * machine.timeout_factor
    kubectl, node = f"{KUBECTL} --request-timeout={seconds}s", f"node/{machine.name}"
    return "\n".join(
        [
            "{",
            f"  {kubectl} cordon {node}",
            f"  {kubectl} delete pods --all-namespaces --field-selector spec.nodeName={machine.name} "
            f"--grace-period=5 --timeout={seconds}s",
            f"  {kubectl} delete --ignore-not-found {node}",
            "} >/dev/null 2>&1 || true",
        ]
    )


def _kubelet_files(args: WorkerArgs) -> list[File]:
    certificate = args.pki.kubelets[args.machine.name]
    return [
        File(path=f"{_KUBELET}/pki/ca.crt", content=args.pki.kubernetes.certificate),
        File(path=f"{_KUBELET}/pki/kubelet.crt", content=certificate.public),
        File(path=f"{_KUBELET}/pki/kubelet.key", content=certificate.private_key, mode="0600", secret=True),
        _kubeconfig(_KUBELET_KUBECONFIG, f"system:node:{args.machine.name}", certificate, args),
        File(path=f"{_CONFIG}/kubelet.yaml", content=kubelet_configuration(args.machine, args.network), mode="0600"),
    ]


def _proxy_files(args: WorkerArgs) -> list[File]:
    return [
        _kubeconfig(_PROXY_KUBECONFIG, "system:kube-proxy", args.pki.kube_proxy, args),
        File(path=f"{_CONFIG}/kube-proxy.yaml", content=proxy_configuration(args.machine, args.network), mode="0600"),
    ]


def _kubeconfig(path: str, user: str, certificate: Certificate, args: WorkerArgs) -> File:
    content = kubeconfig(
        cluster=args.cluster,
        server=args.endpoint,
        authority=args.pki.kubernetes.certificate,
        user=user,
        certificate=certificate,
    )
    return File(path=path, content=content, mode="0600", secret=True)


def _import(artifacts: ArtifactSource, image: str, arch: str) -> str:
    archive = artifacts.image(image, arch=arch)
    return f"import_image {archive.url} {archive.sha256} {pins().images[image].reference}"


def _json(document: dict[str, Any]) -> str:
    return json.dumps(document, indent=2)


def _yaml(document: dict[str, Any]) -> str:
    return yaml.safe_dump(document, sort_keys=False)
