"""containerd and runc on a worker, the CNI plugins, and the images that every node needs.

It needs no cluster, and is made beside the control plane.

Source: https://github.com/containerd/containerd/blob/main/docs/cri/config.md
"""

import json
from dataclasses import dataclass
from pathlib import Path
from string import Template

import pulumi

from components.component import Component
from components.machine import Machine
from components.step import Fetch, File, Step, StepArgs, Unit, without_comments
from components.systemd import systemd_unit
from config.artifacts import ArtifactSource
from config.machine_paths import LIBRARY
from config.versions import Image, pins

_CNI = "/etc/cni/net.d"
_VERBS = ("worker.sh", "worker_turns.sh")
WORKER_VERBS = str(Path(LIBRARY).with_name("worker.sh"))
"""On every worker; a step sources it after the library."""
CONTAINERD_SOCKET = "/run/containerd/containerd.sock"


@dataclass(frozen=True, kw_only=True)
class ContainerRuntimeArgs:
    """Args:
    machine: the worker.
    artifacts: where programs and images come from.
    images: names in versions.yaml of the images besides pause that are imported where the mirror has them.
    bridge: whether pods are on a bridge of the worker's; else another component brings the network's configuration.
    turns: the shell line by which workers restart containerd in turns (worker.py); empty where they do not.
    at_once_until: a file that the machine has once it is a Node: before, images are imported side by side, since many
        large ones wait for the disk, and others for them; afterwards in turn, since the cluster serves meanwhile.
        Empty where there are few.
    images_after: HOST:PORT of a new lab's API server, if it starts on the same processors as this worker: the images
        besides pause are imported once it answers. Empty where that makes nothing sooner.
    """

    machine: Machine
    artifacts: ArtifactSource
    images: tuple[str, ...] = ("coredns",)
    at_once_until: str = ""
    images_after: str = ""
    bridge: bool = True
    turns: str = ""


class ContainerRuntime(Component):
    """containerd, runc and the CNI plugins on a worker, with the images every node needs.

    Attributes:
        runtime: the step after which containers can be started; the images may still be on their way.
    """

    def __init__(self, name: str, args: ContainerRuntimeArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("ContainerRuntime", name, opts)
        machine, artifacts = args.machine, args.artifacts
        containerd, plugins = (artifacts.artifact(each, arch=machine.arch) for each in ("containerd", "cni-plugins"))
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
            if len(wanted) < 2 or not args.at_once_until:
                return "\n".join(wanted)
            return "\n".join(
                [
                    f"[ ! -e {args.at_once_until} ] || import_in_turn",
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
                        artifact=containerd,
                        sums=artifacts.member_sums(containerd),
                        destination="/usr/local/bin",
                        members=[f"bin/{program}" for program in ("containerd", "containerd-shim-runc-v2", "ctr")],
                    ),
                    Fetch(artifact=artifacts.artifact("runc", arch=machine.arch), destination="/usr/local/sbin/runc"),
                    Fetch(
                        artifact=plugins,
                        sums=artifacts.member_sums(plugins),
                        destination="/opt/cni/bin",
                        members=[*(["bridge", "host-local"] if args.bridge else []), "loopback", "portmap"],
                    ),
                ],
                files=[
                    config,
                    File(path=WORKER_VERBS, content=worker_verbs()),
                    *(_bridge_files(str(pod_cidr)) if args.bridge else []),
                ],
                before_start=f". {WORKER_VERBS}\n{args.turns}" if args.turns else "",
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
                # The image first: a Node becomes Ready only with it.
                run="\n".join(filter(None, [imports("pause"), "end_turn" if args.turns else ""])),
                undo=f"[ ! -e {WORKER_VERBS} ] || {{ . {WORKER_VERBS}; end_runtime; }}",
            ),
            self.child(),
        )
        # A step of its own, beside the kubelet's start: only pods that use them need these.
        images = imports(*args.images)
        if images and args.images_after:
            images = f"after_api_server {args.images_after}\n{images}"
        Step(
            f"{name}-images",
            StepArgs(machine=machine, name="images", run=images),
            self.child(self.runtime),
        )
        self.register_outputs({})


def worker_verbs() -> str:
    """The functions that steps of a worker use besides the library's."""
    return without_comments("\n".join(Path(__file__).with_name(name).read_text() for name in _VERBS))


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
    return json.dumps(
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
        },
        indent=2,
    )


def loopback_configuration() -> str:
    """The CNI configuration of a pod's own loopback interface."""
    return json.dumps({"cniVersion": "1.0.0", "name": "lo", "type": "loopback"}, indent=2)


def _bridge_files(pod_cidr: str) -> list[File]:
    return [
        File(path=f"{_CNI}/10-bridge.conflist", content=bridge_configuration(pod_cidr), mode="0600"),
        File(path=f"{_CNI}/99-loopback.conf", content=loopback_configuration(), mode="0600"),
    ]


def _import(artifacts: ArtifactSource, image: str, arch: str) -> str:
    archive = artifacts.image(image, arch=arch)
    return f"import_image {archive.url} {archive.sha256} {pins().images[image].reference}"
