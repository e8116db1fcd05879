"""`./hardway pki export`: the lab's certificates, keys and kubeconfigs in a directory, in the layout of lab 3.

All is read from the state; no machine is asked.
"""

import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from live.drift import recorded
from live.drift.run import state_of
from toolchain import operations
from toolchain.errors import ToolchainError
from toolchain.stack import Stack

_CERTIFICATES = ("tls:index/locallySignedCert:LocallySignedCert", "tls:index/selfSignedCert:SelfSignedCert")
_KEY = "tls:index/privateKey:PrivateKey"
_ROTATED = "-rotated-"
# The name of a resource, without the PKI's and a rotation's number -> directory and file.
_PLACES = {
    "kubernetes-ca": "ca/ca",
    "etcd-ca": "etcd/etcd-ca",
    "front-proxy-ca": "front-proxy/front-proxy-ca",
    "admin": "admin/admin",
    "kube-controller-manager": "controller/kube-controller-manager",
    "kube-scheduler": "scheduler/kube-scheduler",
    "kube-proxy": "proxy/kube-proxy",
    "kube-apiserver": "api/kubernetes",
    "apiserver-kubelet-client": "api/apiserver-kubelet-client",
    "apiserver-etcd-client": "api/apiserver-etcd-client",
    "front-proxy-client": "front-proxy/front-proxy-client",
    "calico-cni": "calico/calico-cni",
    "calico-etcd-client": "calico/calico-etcd-client",
    "load-balancer": "load-balancer/api",
    "service-accounts": "service-account/service-account",
}
# The same with the name of a machine behind it.
_OF_MACHINES = {"kubelet-": "clients/", "etcd-": "etcd/"}
_CONFIGS = {
    "/etc/kubernetes/kube-controller-manager.kubeconfig": "controller/kube-controller-manager.kubeconfig",
    "/etc/kubernetes/kube-scheduler.kubeconfig": "scheduler/kube-scheduler.kubeconfig",
    "/etc/kubernetes/kube-proxy.kubeconfig": "proxy/kube-proxy.kubeconfig",
}
_KUBELET = "/etc/kubernetes/kubelet.kubeconfig"
_ENCRYPTION = "encryption.yaml"


def export(stack: Stack, directory: Path) -> list[str]:
    """Write all files to a new directory, which only its owner may read.

    Args:
        stack: which lab.
        directory: it must not exist.

    Returns:
        The paths of the files in it, sorted.

    Raises:
        ToolchainError: nothing was written: the directory exists, the lab was made by kubeadm, or keys are in rotation.
    """
    if directory.exists() or directory.is_symlink():
        raise ToolchainError(f"{directory} exists. Name a directory that does not: nothing is overwritten.")
    if not directory.parent.is_dir():
        raise ToolchainError(f"{directory.parent} is no directory: create it first.")
    if stack.bootstrap == "kubeadm":
        raise ToolchainError(
            f"The lab {stack.name} was made by kubeadm, which issues certificates on the machines: "
            f"`./hardway certs -s {stack.name}` lists them."
        )
    with operations.alone(stack, "./hardway pki export"):
        files = files_of(state_of(stack))
    # Under another name until it is whole: a run that is interrupted leaves no keys.
    with tempfile.TemporaryDirectory(prefix=f".{directory.name}-", dir=directory.parent) as work:
        made = Path(work, directory.name)
        for path, text in files.items():
            file = made / path
            file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            file.touch(mode=0o600, exist_ok=False)
            file.write_text(text)
        for each in (made, *made.rglob("*")):
            if each.is_dir():
                each.chmod(0o700)
        made.rename(directory)
    return sorted(files)


def files_of(deployment: Mapping[str, Any]) -> dict[str, str]:
    """Path -> content, of all that the state has.

    Args:
        deployment: what `pulumi stack export --show-secrets` prints.

    Raises:
        ToolchainError: the state has no lab, or two keys of one kind.
    """
    resources = [each for each in deployment.get("deployment", {}).get("resources", []) if not each.get("delete")]
    pki = next((_name(each) for each in resources if each["type"].endswith(":Pki")), "")
    if not pki:
        raise ToolchainError("The lab has no certificates: run `./hardway up` first.")
    if rotating := sorted(_two_keys(resources)):
        raise ToolchainError(
            f"A rotation is not finished: two keys are in use for {', '.join(rotating)}. "
            "Finish it with `./hardway rotate`, then export."
        )
    files: dict[str, str] = {}
    for each in resources:
        before, _, name = _name(each).partition(_ROTATED)[0].partition(f"{pki}-")
        place = "" if before else _place(name)
        outputs = each.get("outputs", {})
        if not place:
            continue
        if each["type"] in _CERTIFICATES:
            files[f"pki/{place}.pem"] = recorded.plain(outputs["certPem"])
        elif each["type"] == _KEY:
            files[f"pki/{place}-key.pem"] = recorded.plain(outputs["privateKeyPem"])
            if place.startswith("service-account/"):
                # No certificate is issued for it: the API server verifies with the public key.
                files[f"pki/{place}.pem"] = recorded.plain(outputs["publicKeyPem"])
    return files | dict(_configurations(deployment))


def _configurations(deployment: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for machine in recorded.read(recorded.steps(deployment)).values():
        for path, file in machine.files.items():
            text = (file.content or b"").decode()
            if path == _KUBELET:
                yield f"configs/clients/{machine.name}.kubeconfig", text
            elif path in _CONFIGS:
                yield f"configs/{_CONFIGS[path]}", text
            elif path.endswith(f"/{_ENCRYPTION}"):
                yield "data-encryption/encryption-config.yaml", text
    outputs = next(each.get("outputs", {}) for each in deployment["deployment"]["resources"] if _is_stack(each))
    if "kubeconfig" in outputs:
        yield "configs/admin/admin.kubeconfig", recorded.plain(outputs["kubeconfig"])


def _two_keys(resources: list[dict[str, Any]]) -> set[str]:
    names = [_name(each).partition(_ROTATED)[0] for each in resources if each["type"] == _KEY]
    return {name for name in names if names.count(name) > 1}


def _is_stack(resource: Mapping[str, Any]) -> bool:
    return bool(resource["type"] == "pulumi:pulumi:Stack")


def _name(resource: Mapping[str, Any]) -> str:
    return str(resource["urn"]).rpartition("::")[2]


def _place(name: str) -> str:
    if name in _PLACES:
        return _PLACES[name]
    return next(
        (place + name.removeprefix(start) for start, place in _OF_MACHINES.items() if name.startswith(start)), ""
    )
