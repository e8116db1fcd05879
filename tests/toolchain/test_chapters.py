"""An earlier chapter than that of the lab is refused: Pulumi would delete what comes after it."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from config.errors import UserError
from live import cluster
from toolchain import access, chapters
from toolchain.errors import ToolchainError
from toolchain.stack import Stack

FACTS = {"endpoint": "https://10.0.0.1:6443", "machines": [], "certificates": []}


@pytest.fixture
def stack(tmp_path: Path) -> Stack:
    return Stack(
        name="toy",
        project="toy",
        settings_file=tmp_path / "Pulumi.toy.yaml",
        substrate="libvirt",
        engine="podman",
        kubernetes="1.36.4",
    )


def state(*kinds: str, deleted: str = "") -> dict[str, Any]:
    resources: list[dict[str, Any]] = [{"type": f"hardway:index:{kind}"} for kind in kinds]
    resources += [{"type": f"hardway:index:{deleted}", "delete": True}] if deleted else []
    return {"deployment": {"resources": [{"type": "command:remote:Command"}, *resources]}}


def test_what_the_state_has_decides(stack: Stack) -> None:
    chapters.check(state("Host", "Pki", "Etcd"), stack, "etcd")
    chapters.check(state("Host", "Pki", "Etcd"), stack, "workers")
    chapters.check(state("Host", "Pki", "Etcd"), stack, "")
    chapters.check(state("Host", deleted="Etcd"), stack, "machines")
    chapters.check({}, stack, "machines")
    with pytest.raises(ToolchainError, match="has the chapter 'etcd' already, and `--until encryption` would delete"):
        chapters.check(state("Host", "Pki", "Etcd"), stack, "encryption")


def test_a_lab_of_kubeadm_has_none(stack: Stack) -> None:
    with pytest.raises(UserError, match="kubeadm init"):
        chapters.check({}, replace(stack, bootstrap="kubeadm"), "etcd")
    chapters.check({}, replace(stack, bootstrap="kubeadm"), "")


def test_a_command_for_whole_labs_refuses_a_part(stack: Stack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(access, "read", lambda stack, *, halted_too=False: FACTS | {"until": "etcd"})
    with pytest.raises(ToolchainError, match="needs a whole lab, and toy is built up to the chapter 'etcd'"):
        cluster.find(stack)
    part = cluster.find(stack, part_too=True)
    assert part.has("etcd") and not part.has("control-plane")
    monkeypatch.setattr(access, "read", lambda stack, *, halted_too=False: FACTS)
    assert cluster.find(stack).has("dns")
