"""What set-up does for each substrate, and how little a preview wants."""

import os
from pathlib import Path
from typing import Any

import pytest

from config.libvirt import LibvirtSettings
from toolchain import apparmor, artifacts, images, node_image, paths, plugins, prepare, pulumi_cli, system, vm_image
from toolchain.errors import ToolchainError
from toolchain.progress import Report
from toolchain.stack import Stack

FEATURES = frozenset({"rare"})


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
    monkeypatch.setattr(images, "are_pulled", lambda features, arch: False)
    monkeypatch.setattr(pulumi_cli, "ensure", lambda report: tmp_path / "bin" / "pulumi")
    monkeypatch.setattr(system, "ensure", lambda report, packages: calls.update(system={p.name for p in packages}))
    monkeypatch.setattr(plugins, "ensure", lambda report, cli, wanted, retry=False: calls.update(plugins=set(wanted)))
    monkeypatch.setattr(artifacts, "ensure", lambda report, version, features, only: calls.update(artifacts=only))
    monkeypatch.setattr(images, "ensure", lambda report, features: calls.update(images=features))
    monkeypatch.setattr(node_image, "ensure", lambda report, engine: calls.update(node_image=engine))
    monkeypatch.setattr(vm_image, "ensure", lambda report, **what: calls.update(vm_image=what))
    monkeypatch.setattr(apparmor, "ensure", lambda report, pool: calls.update(apparmor=str(pool)))
    return calls


def stack(substrate: str, libvirt: dict[str, Any] | None = None) -> Stack:
    return Stack(
        name="x",
        project="hardway",
        settings_file=Path("Pulumi.x.yaml"),
        substrate=substrate,
        engine="podman",
        kubernetes="1.36.4",
        libvirt=LibvirtSettings.model_validate(libvirt or {}),
        features=FEATURES,
    )


def test_containers_want_an_engine_a_mirror_and_an_image(asked: dict[str, Any], report: Report) -> None:
    prepare.everything(report, stack("containers"))
    assert {"podman", "mmdebstrap", "gcc", "openssh-client"} <= asked["system"]
    assert asked["plugins"] == {"command", "tls"}
    assert (asked["artifacts"], asked["images"], asked["node_image"]) == (None, FEATURES, "podman")


@pytest.mark.parametrize("are_pulled", [True, False])
def test_skopeo_is_wanted_where_images_are_to_be_pulled(
    asked: dict[str, Any], report: Report, monkeypatch: pytest.MonkeyPatch, are_pulled: bool
) -> None:
    monkeypatch.setattr(images, "are_pulled", lambda features, arch: are_pulled and features == FEATURES)
    prepare.everything(report, stack("libvirt"))
    assert ("skopeo" in asked["system"]) == are_pulled
    assert not {"podman", "docker.io"} & asked["system"]


def test_virtual_machines_want_libvirt_its_plugin_a_mirror_and_an_image(asked: dict[str, Any], report: Report) -> None:
    prepare.everything(report, stack("libvirt"))
    assert {"libvirt-daemon-system", "genisoimage", "mmdebstrap", "openssh-client"} <= asked["system"]
    assert not {"podman", "netavark"} & asked["system"]
    assert asked["plugins"] == {"command", "tls", "libvirt"}
    assert (asked["artifacts"], asked["images"], asked["vm_image"]) == (None, FEATURES, {})
    assert asked["apparmor"] == "/var/lib/libvirt/hardway"
    assert "node_image" not in asked


@pytest.mark.parametrize(
    ("settings", "wanted"),
    [
        (
            {"image": "https://cloud.example/d.qcow2", "image_sha256": "ab" * 32},
            {"url": "https://cloud.example/d.qcow2", "sha256": "ab" * 32},
        ),
        # The user's own file; and settings that the program refuses.
        ({"image": "/srv/d.qcow2"}, None),
        ({"image": "https://cloud.example/d.qcow2"}, None),
    ],
)
def test_the_image_that_the_settings_name_is_had(
    asked: dict[str, Any], report: Report, settings: dict[str, Any], wanted: dict[str, str] | None
) -> None:
    prepare.everything(report, stack("libvirt", settings))
    assert asked.get("vm_image") == wanted


def test_apparmor_is_told_of_the_pool_that_the_settings_name(asked: dict[str, Any], report: Report) -> None:
    prepare.everything(report, stack("libvirt", {"pool": "/srv/disks"}))
    assert asked["apparmor"] == "/srv/disks"


def test_google_cloud_wants_its_plugin_and_a_kubectl(
    asked: dict[str, Any], report: Report, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    prepare.everything(report, stack("gcp"))
    assert asked["system"] == {package.name for package in system.ACCESS}
    assert asked["plugins"] == {"command", "tls", "gcp"}
    assert asked["artifacts"] == ("kubectl",)
    assert not {"images", "node_image"} & asked.keys()


@pytest.mark.parametrize("substrate", ["containers", "libvirt", "gcp"])
def test_a_preview_wants_plugins_and_nothing_else_of_anybody(
    asked: dict[str, Any], report: Report, monkeypatch: pytest.MonkeyPatch, substrate: str
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    workshop = prepare.for_preview(report, stack(substrate))
    assert asked.keys() == {"plugins"}
    assert workshop.environment["PULUMI_BACKEND_URL"].startswith("file://")


@pytest.mark.parametrize("substrate", ["containers", "libvirt"])
def test_only_root_may_create_machines_on_the_pulumi_host(
    asked: dict[str, Any], report: Report, monkeypatch: pytest.MonkeyPatch, substrate: str
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(ToolchainError, match="only root may do"):
        prepare.everything(report, stack(substrate))
    assert not asked
