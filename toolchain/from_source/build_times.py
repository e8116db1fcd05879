"""How long it takes to build what cannot be downloaded: said before it begins."""

from collections.abc import Collection

from toolchain.progress import Report

_SECONDS = {
    "pulumi": 260,
    "kubernetes": 340,
    "etcd": 40,
    "containerd": 60,
    "runc": 15,
    "cni-plugins": 10,
    "calicoctl": 80,
    "coredns": 135,
    "calico-node": 105,
    "calico-kube-controllers": 15,
    "agnhost": 35,
    "sample-apiserver": 60,
    "conformance tests": 180,
    "node image": 50,
}
"""Measured on 2 cores with empty caches; what is not here takes a few seconds."""


def announce(report: Report, why: str, names: Collection[str], *, how: str) -> None:
    """Say what is built, why, and about how long that takes.

    Args:
        report: shows it.
        why: why it is not downloaded, as the beginning of a sentence.
        names: what is built, as versions.yaml names it.
        how: from what, e.g. "from Go modules".
    """
    seconds = sum(_SECONDS.get(name, 5) for name in names)
    takes = f"{round(seconds / 60)} minutes" if seconds >= 90 else "1 minute" if seconds > 30 else f"{seconds} s"
    report.note(f"{why}: building {', '.join(names)} {how} takes about {takes} on 2 cores.")
