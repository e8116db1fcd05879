"""`./hardway rotate` on a lab of kubeadm whose certificates kubeadm issues: the SSH key alone.

test_external.py rotates the certificates that the stack issues in kubeadm's external CA mode.
"""

from pathlib import Path

import pytest

from lab.cluster import Cluster
from lab.commands import settings_file
from labs.dev.test_rotation import logins
from labs.kubeadm.conftest import STACK, live

pytestmark = pytest.mark.long


def test_keys_that_kubeadm_has_made_are_refused_by_name(cluster: Cluster) -> None:
    """A lab that is half rotated, or a settings file that says so; a reader who does not learn what to do."""
    settings = settings_file(STACK).read_bytes()
    before = _certificates(cluster)
    refused = live("rotate", "leaves", "ssh")
    assert refused.code == 1
    assert "leaves cannot be rotated there; nothing was changed" in refused.output
    assert "`kubeadm certs renew all`" in refused.output and "Here rotate ssh alone." in refused.output
    assert settings_file(STACK).read_bytes() == settings
    assert _certificates(cluster) == before


def test_the_ssh_key_is_rotated_and_the_old_one_is_refused(cluster: Cluster, tmp_path: Path) -> None:
    """A machine with the old key; static pods that restart; a lab that is no longer its own."""
    old = tmp_path / "ssh_key"
    old.touch(mode=0o600)
    old.write_bytes((cluster.directory / "ssh_key").read_bytes())
    assert logins(cluster, old) == {0}
    api_servers = _api_servers(cluster)
    rotated = live("rotate", "ssh")
    assert rotated.code == 0, rotated.output
    assert logins(cluster, old) == {255}
    assert logins(cluster, cluster.directory / "ssh_key") == {0}
    assert _api_servers(cluster) == api_servers
    for command in ("status", "drift"):
        said = live(command)
        assert said.code == 0, said.output
    up = live("up")
    assert up.code == 0 and up.summary.keys() == {"unchanged"}, up.output


def _certificates(cluster: Cluster) -> dict[str, str]:
    """Controller -> what stands for the certificates there."""
    command = "find /etc/kubernetes/pki -name '*.crt' | sort | xargs sha256sum"
    return {each.name: cluster.ssh(each.name, command) for each in cluster.controllers}


def _api_servers(cluster: Cluster) -> dict[str, str]:
    """Controller -> when its API server started."""
    command = "ps -o lstart= -p $(pgrep -x kube-apiserver)"
    return {each.name: cluster.ssh(each.name, command) for each in cluster.controllers}
