"""What Calico has to know, in the cluster and on its workers."""

from collections.abc import Sequence
from dataclasses import dataclass

import pulumi

from components.machine import Machine
from components.pki import CalicoIdentities
from config.artifacts import ArtifactSource
from config.calico import CalicoSettings


@dataclass(frozen=True, kw_only=True)
class CalicoArgs:
    """Args:
    settings: datastore and encapsulation.
    controller: whose kubectl and calicoctl apply what stands in the cluster.
    workers: all Nodes; each has a pool of addresses.
    etcd_endpoints: https://address:2379 of every member.
    identities: the certificates.
    endpoint: https://address:6443 of the API.
    cluster: the name kubeconfigs give the cluster.
    artifacts: where calicoctl, the CRDs and the plugin's image come from.
    """

    settings: CalicoSettings
    controller: Machine
    workers: Sequence[Machine]
    etcd_endpoints: Sequence[str]
    identities: CalicoIdentities
    endpoint: pulumi.Input[str]
    cluster: str
    artifacts: ArtifactSource
