"""Where Calico keeps pools, addresses and policies: the Kubernetes API, or the cluster's etcd.

Source: https://docs.tigera.io/calico/latest/getting-started/kubernetes/hardway/the-calico-datastore
"""

from collections.abc import Sequence

from components.pki import CalicoIdentities
from components.step import File
from config import yaml_text
from config.calico import CalicoSettings
from config.machine_paths import ADMIN_KUBECONFIG

PKI = "/etc/calico/pki"
"""Who Calico is towards etcd, on the workers and where calicoctl is."""
_CA_CERTIFICATE, _CERTIFICATE, _KEY = (
    f"{PKI}/{name}" for name in ("etcd-ca.crt", "etcd-client.crt", "etcd-client.key")
)


def environment(settings: CalicoSettings, endpoints: Sequence[str]) -> dict[str, str]:
    """What tells Calico's programs in pods where it is; `endpoints` are etcd's."""
    if settings.datastore == "kubernetes":
        return {"DATASTORE_TYPE": "kubernetes"}
    return {
        "DATASTORE_TYPE": "etcdv3",
        "ETCD_ENDPOINTS": ",".join(endpoints),
        "ETCD_CA_CERT_FILE": _CA_CERTIFICATE,
        "ETCD_CERT_FILE": _CERTIFICATE,
        "ETCD_KEY_FILE": _KEY,
    }


def plugin_keys(settings: CalicoSettings, endpoints: Sequence[str]) -> dict[str, str]:
    """The same in the CNI plugin's words."""
    if settings.datastore == "kubernetes":
        return {"datastore_type": "kubernetes"}
    return {
        "datastore_type": "etcdv3",
        "etcd_endpoints": ",".join(endpoints),
        "etcd_ca_cert_file": _CA_CERTIFICATE,
        "etcd_cert_file": _CERTIFICATE,
        "etcd_key_file": _KEY,
    }


def calicoctl_configuration(settings: CalicoSettings, endpoints: Sequence[str]) -> str:
    """The same in calicoctl's words: CalicoAPIConfig, YAML.

    Source: https://docs.tigera.io/calico/latest/operations/calicoctl/configure/overview
    """
    if settings.datastore == "kubernetes":
        spec = {"datastoreType": "kubernetes", "kubeconfig": ADMIN_KUBECONFIG}
    else:
        spec = {
            "datastoreType": "etcdv3",
            "etcdEndpoints": ",".join(endpoints),
            "etcdCACertFile": _CA_CERTIFICATE,
            "etcdCertFile": _CERTIFICATE,
            "etcdKeyFile": _KEY,
        }
    document = {"apiVersion": "projectcalico.org/v3", "kind": "CalicoAPIConfig", "metadata": {}, "spec": spec}
    return yaml_text.dump(document)


def identity(identities: CalicoIdentities) -> list[File]:
    """The files by which a machine is Calico towards etcd; none where the datastore is the API."""
    certificate = identities.etcd_client
    if certificate is None:
        return []
    return [
        File(path=_CA_CERTIFICATE, content=identities.etcd_ca_certificate),
        File(path=_CERTIFICATE, content=certificate.public),
        File(path=_KEY, content=certificate.private_key, mode="0600", secret=True),
    ]
