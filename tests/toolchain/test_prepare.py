"""What set-up does for each substrate, and how little a preview wants."""

import os
from pathlib import Path
from typing import Any

import pytest

from toolchain import artifacts, images, node_image, paths, plugins, prepare, pulumi_cli, system
from toolchain.errors import ToolchainError
from toolchain.progress import Report
from toolchain.stack import Stack


@pytest.fixture
def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Each part of set-up -> what it was asked for; none of them does anything."""
    calls: dict[str, Any] = {}
    monkeypatch.setattr(paths, "state", lambda: tmp_path / ".state")
    for name in [name for name in os.environ if name.startswith("PULUMI_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PULUMI_HOME", str(tmp_path / "home"))
    (tmp_path / ".state" / "plugins").mkdir(parents=True)
    monkeypatch.setattr(prepare, "_something_in_c_is_built", lambda: True)
    monkeypatch.setattr(pulumi_cli, "ensure", lambda report: tmp_path / "bin" / "pulumi")
    monkeypatch.setattr(system, "ensure", lambda report, packages: calls.update(system={p.name for p in packages}))
    monkeypatch.setattr(plugins, "ensure", lambda report, cli, wanted, retry=False: calls.update(plugins=set(wanted)))
    monkeypatch.setattr(artifacts, "ensure", lambda report, version, only: calls.update(artifacts=only))
    monkeypatch.setattr(images, "ensure", lambda report: calls.update(images=True))
    monkeypatch.setattr(node_image, "ensure", lambda report, engine: calls.update(node_image=engine))
    return calls


def stack(substrate: str) -> Stack:
    return Stack(
        name="x",
        project="hardway",
        settings_file=Path("Pulumi.x.yaml"),
        substrate=substrate,
        engine="podman",
        kubernetes="1.36.4",
    )


def test_containers_want_an_engine_a_mirror_and_an_image(asked: dict[str, Any], report: Report) -> None:
    prepare.everything(report, stack("containers"))
    assert {"podman", "mmdebstrap", "gcc", "openssh-client"} <= asked["system"]
    assert asked["plugins"] == {"command", "tls"}
    assert (asked["artifacts"], asked["images"], asked["node_image"]) == (None, True, "podman")


def test_google_cloud_wants_its_plugin_and_a_kubectl(
    asked: dict[str, Any], report: Report, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    prepare.everything(report, stack("gcp"))
    assert asked["system"] == {package.name for package in system.ACCESS}
    assert asked["plugins"] == {"command", "tls", "gcp"}
    assert asked["artifacts"] == ("kubectl",)
    assert not {"images", "node_image"} & asked.keys()


@pytest.mark.parametrize("substrate", ["containers", "gcp"])
def test_a_preview_wants_plugins_and_nothing_else_of_anybody(
    asked: dict[str, Any], report: Report, monkeypatch: pytest.MonkeyPatch, substrate: str
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    workshop = prepare.for_preview(report, stack(substrate))
    assert asked.keys() == {"plugins"}
    assert workshop.environment["PULUMI_BACKEND_URL"].startswith("file://")


def test_making_containers_is_roots(asked: dict[str, Any], report: Report, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(ToolchainError, match="only root may do"):
        prepare.everything(report, stack("containers"))
    assert not asked
