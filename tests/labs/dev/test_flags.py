"""config/flags.yaml lists the flags that the programs have."""

import re

import pytest

from config import extra_flags
from lab.cluster import Cluster

_FLAG = re.compile(r"^ +(?:-[a-z], )?--([a-z0-9-]+)", re.MULTILINE)
_NO_SETTINGS = {"help", "version"}


@pytest.mark.parametrize(
    ("program", "machine"),
    [
        ("kube-apiserver", "controller-0"),
        ("kube-controller-manager", "controller-0"),
        ("kube-scheduler", "controller-0"),
        ("kubelet", "worker-0"),
        ("kube-proxy", "worker-0"),
        ("etcd", "controller-0"),
    ],
)
def test_the_list_is_what_the_program_says(program: str, machine: str, cluster: Cluster) -> None:
    said = set(_FLAG.findall(cluster.ssh(machine, f"{program} --help 2>&1"))) - _NO_SETTINGS
    versions = cluster.settings.artifacts.versions
    minor = versions["etcd" if program == "etcd" else "kubernetes"].rpartition(".")[0]
    assert extra_flags.lists()[program][minor] == said
