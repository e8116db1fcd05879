"""Calico: the pod network that enforces network policies.

Felix on every worker gives each pod its own interface and its rules, and brings packets to the other workers by VXLAN,
or leaves that to the lab's routes; kube-controllers clears up after Nodes that are gone. See docs/calico.md.

Source: https://docs.tigera.io/calico/latest/getting-started/kubernetes/hardway/
"""

from components.calico.arguments import CalicoArgs
from components.calico.cluster import Calico, cluster_checks
from components.calico.worker import CALICO_IMAGES, CalicoNetwork, CalicoPlugin

__all__ = ["CALICO_IMAGES", "Calico", "CalicoArgs", "CalicoNetwork", "CalicoPlugin", "cluster_checks"]
