"""No secret stands where it can be read: in the plain state, in what `up` prints, on any command line."""

import base64

import pytest
import yaml

from lab import secrets_of
from lab.cluster import Cluster
from lab.commands import exported
from lab.process_watch import command_lines


@pytest.fixture(scope="module")
def traces(cluster: Cluster) -> set[str]:
    """What only a leak puts anywhere: parts of every private key of the lab, and the encryption key."""
    keys = secrets_of.private_keys(exported(secrets=True))
    # Three CAs, their leaves, the service accounts, SSH.
    assert len(keys) > 15
    shown = cluster.ssh(cluster.controller.name, "cat /etc/kubernetes/config/encryption.yaml")
    encryption = yaml.safe_load(shown)["resources"][0]["providers"][0]["secretbox"]["keys"][0]["secret"]
    user = yaml.safe_load((cluster.directory / "kubeconfig").read_text())["users"][0]["user"]
    found = {encryption}.union(*map(secrets_of.traces, keys))
    # The search would find the kubeconfig's key, in both of its forms.
    forms = (user["client-key-data"], base64.b64decode(user["client-key-data"]).decode())
    recognised = [_found(found, form) for form in forms]
    assert recognised == [True, True]
    return found


def test_the_state_holds_no_secret_in_clear(traces: set[str]) -> None:
    """A key in a resource's inputs or outputs that is not marked secret."""
    state = exported()
    # By a name of its own: pytest would print what the assertion is made of.
    leaked = _found(traces, state)
    assert not leaked, "the plain state holds a secret"
    assert "PRIVATE KEY" not in state


def test_up_prints_no_secret(cluster: Cluster, traces: set[str]) -> None:
    """A key in a log line, a diff or an output."""
    leaked = _found(traces, cluster.up.output)
    assert not leaked, "the output of `up` holds a secret"
    assert "PRIVATE KEY" not in cluster.up.output


def test_no_command_line_shows_a_secret(cluster: Cluster, traces: set[str]) -> None:
    """Scripts with keys in their text: everybody on a machine reads command lines."""
    lines = cluster.command_lines | command_lines()
    assert any("kube-apiserver" in line for line in lines), "the machines' processes were not seen"
    assert any("sshd" in line for line in lines)
    leaking = [line[:60] for line in lines if _found(traces, line)]
    assert leaking == []
    assert not [line[:60] for line in lines if "PRIVATE KEY-" in line]


def _found(traces: set[str], text: str) -> bool:
    return any(trace in text for trace in traces)
