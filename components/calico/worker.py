"""What Calico needs on a worker: the CNI plugin with its configuration, and Felix before pods come.

Two steps. The first is made beside the control plane: the plugin, its client certificate for the API, and Calico's for
etcd. The second, once the kubelet runs, waits for Felix and only then writes the network's configuration, by which the
node becomes Ready: no pod starts here before its policies are enforced.

Source: https://docs.tigera.io/calico/latest/reference/configure-cni-plugins
"""

import json
from collections.abc import Sequence
from pathlib import Path

import pulumi

from components.calico import datastore
from components.calico.arguments import CalicoArgs
from components.calico.node import HEALTH_PORT
from components.calico.rbac import PLUGIN_USER
from components.component import Component
from components.container_runtime import WORKER_VERBS
from components.kubeconfigs import kubeconfig
from components.machine import Machine
from components.step import File, Step, StepArgs
from config.artifacts import ArtifactSource
from config.calico import CalicoSettings
from config.machine_paths import LIBRARY
from config.versions import pins

_VERBS = str(Path(LIBRARY).with_name("calico.sh"))
_USE_VERBS = f". {WORKER_VERBS}; . {_VERBS}"
_KUBECONFIG = "/etc/calico/cni.kubeconfig"
_CONFIGURATION = "/etc/cni/net.d/10-calico.conflist"
_TUNNEL = "vxlan.calico"
CALICO_IMAGES = ("calico-node", "calico-kube-controllers")
"""The images that its pods run."""


class CalicoPlugin(Component):
    """Calico's CNI plugin on a worker with containerd; the network has no configuration yet."""

    def __init__(
        self, name: str, args: CalicoArgs, machine: Machine, opts: pulumi.ResourceOptions | None = None
    ) -> None:
        super().__init__("CalicoPlugin", name, opts)
        Step(
            name,
            StepArgs(
                machine=machine,
                name="calico-plugin",
                # The last one is mounted by Felix's pod, and made for it where the kernel is the host's.
                prepare="data /var/lib/calico /var/run/calico /var/log/calico\nparents /lib/modules/any",
                files=[
                    File(path=_VERBS, content=Path(__file__).with_name("calico.sh").read_text()),
                    File(
                        path=_KUBECONFIG,
                        content=kubeconfig(
                            cluster=args.cluster,
                            server=args.endpoint,
                            ca_certificate=args.identities.ca_certificate,
                            user=PLUGIN_USER,
                            certificate=args.identities.plugin,
                        ),
                        mode="0600",
                        secret=True,
                    ),
                    *datastore.identity(args.identities),
                ],
                before_start=f"{_USE_VERBS}\nnote_tables\n{_plugin(args.artifacts, machine.arch)}",
                undo=f"[ ! -e {_VERBS} ] || {{ {_USE_VERBS}; end_calico; }}",
            ),
            self.child(),
        )
        self.register_outputs({})


class CalicoNetwork(Component):
    """The network of a worker whose kubelet runs: configured once Felix is ready."""

    def __init__(
        self, name: str, args: CalicoArgs, machine: Machine, opts: pulumi.ResourceOptions | None = None
    ) -> None:
        super().__init__("CalicoNetwork", name, opts)
        settings = args.settings
        tunnel = _TUNNEL if settings.encapsulation == "vxlan" else ""
        Step(
            name,
            StepArgs(
                machine=machine,
                name="calico-network",
                prepare=f"{_USE_VERBS}\nwait_for 120 Felix 'felix_ready {HEALTH_PORT} \"{tunnel}\"'",
                files=[
                    File(
                        path=_CONFIGURATION,
                        content=configuration(machine.name, settings, args.etcd_endpoints),
                        mode="0600",
                    )
                ],
            ),
            self.child(),
        )
        self.register_outputs({})


def configuration(node: str, settings: CalicoSettings, endpoints: Sequence[str]) -> str:
    """The CNI configuration of a worker's pods, JSON."""
    return json.dumps(
        {
            "cniVersion": "0.3.1",
            "name": "k8s-pod-network",
            "plugins": [
                {
                    "type": "calico",
                    "log_level": "info",
                    "log_file_path": "/var/log/calico/cni/cni.log",
                    **datastore.plugin_keys(settings, endpoints),
                    "nodename": node,
                    # As Felix chooses it: what the machine's interface carries, less the tunnel's header.
                    "mtu": 0,
                    "ipam": {"type": "calico-ipam"},
                    "policy": {"type": "k8s"},
                    "kubernetes": {"kubeconfig": _KUBECONFIG},
                },
                {"type": "portmap", "snat": True, "capabilities": {"portMappings": True}},
            ],
        },
        indent=2,
    )


def _plugin(artifacts: ArtifactSource, arch: str) -> str:
    reference = pins().images["calico-cni"].reference
    if not artifacts.has_images:
        return f"have_plugin {reference}"
    archive = artifacts.image("calico-cni", arch=arch)
    return f"have_plugin {reference} {archive.url} {archive.sha256}"
