"""Immutable settings: what a lab is made with, and cannot change while it is running.

Another pod network under running pods, or kubeadm's control plane beside that of the hard way, would be neither the one
nor the other. The state has them as JSON (components/immutable_settings.py), and what differs is refused: by
`./hardway up` before anything else (toolchain/choices.py), by plain `pulumi up` before anything is changed.

Labs of the hard way that an earlier version made do not have all of them there: see `RECORDED_LATER`. The next `up`
accepts that these are missing, and writes them. `./hardway up` finds the algorithm of the keys in the state's CA.
"""

import json
from collections.abc import Mapping

from config.settings import LabSettings

ALGORITHM = "pki.algorithm"
RECORDED_LATER = (ALGORITHM, "network.pods", "network.services", "network.cluster_domain")
"""What labs of the hard way that an earlier version made have no record of."""


def choices_of(settings: LabSettings) -> dict[str, str]:
    """Key of `lab` -> its value, of all that a running lab keeps.

    All others than those in `RECORDED_LATER` only where they are not the default: labs of earlier versions are so.
    """
    network = settings.network
    chosen: dict[str, str] = {
        # Addresses and names of Services and pods are in certificates, in pods, and in objects of the API.
        "network.pods": str(network.pods),
        "network.services": str(network.services),
        "network.cluster_domain": network.cluster_domain,
        # With another one every CA would be another CA at once, without the stages of a rotation.
        ALGORITHM: settings.pki.algorithm,
    }
    if settings.bootstrap == "kubeadm":
        # What kubeadm init decides once, and what this program does not decide again.
        chosen = {
            "bootstrap": settings.bootstrap,
            "kubeadm.authorities": settings.kubeadm.authorities,
            "kubeadm.packages": settings.kubeadm.packages,
            "network.pods": str(network.pods),
            "network.services": str(network.services),
            "network.cluster_domain": network.cluster_domain,
            "network.kube_proxy_mode": network.kube_proxy_mode,
            "network.max_pods": str(network.max_pods),
            "load_balancing.domain": settings.load_balancing.domain or "none",
            ALGORITHM: settings.pki.algorithm,
        }
    # The subject of a CA is in all that it has issued, and another one is another CA.
    chosen |= {f"pki.subject.{key}": value for key, value in settings.pki.subject.model_dump().items() if value}
    if network.pod_network != "routes":
        chosen["network.pod_network"] = network.pod_network
        chosen["calico.datastore"] = settings.calico.datastore
        chosen["calico.encapsulation"] = settings.calico.encapsulation
    return chosen


def older(choices: Mapping[str, str]) -> dict[str, str]:
    """The same choices as a lab of an earlier version has them."""
    left_out = () if choices.get("bootstrap") == "kubeadm" else RECORDED_LATER
    return {key: value for key, value in choices.items() if key not in left_out}


def written(choices: Mapping[str, str]) -> str:
    """The choices as one line of JSON."""
    return json.dumps(choices, sort_keys=True)


def read(text: str) -> dict[str, str]:
    """The choices that `written` wrote."""
    return {str(key): str(value) for key, value in json.loads(text).items()}


def as_word(choices: Mapping[str, str]) -> str:
    """The choices as one word: in square brackets in the guard of the quorum, in labs of earlier versions."""
    return ",".join(f"{key}={value}" for key, value in choices.items())


def of_word(word: str) -> dict[str, str]:
    """The choices that `as_word` wrote."""
    return dict(part.split("=", 1) for part in word.split(",")) if word else {}


def differences(before: Mapping[str, str], wanted: Mapping[str, str]) -> list[str]:
    """What would change, in words; nothing of what goes with another bootstrap or pod network.

    Args:
        before: what the lab was made with; without those of `RECORDED_LATER` that are not known.
        wanted: what it is to have.
    """
    keys = [key for key in ("bootstrap", "network.pod_network") if before.get(key) != wanted.get(key)]
    if not keys:
        unknown = set(RECORDED_LATER) - before.keys()
        keys = [key for key in {**before, **wanted} if key not in unknown and before.get(key) != wanted.get(key)]
    defaults = {"bootstrap": "hard-way", "network.pod_network": "routes"}
    return [
        f"lab.{key} is {wanted.get(key, defaults.get(key, 'the default'))}, and the lab was made with "
        f"{before.get(key, defaults.get(key, 'the default'))}"
        for key in keys
    ]
