import hashlib
import re
import shutil
from pathlib import Path

import pytest
from upstream_server import Upstream

from config import machine_images
from toolchain import node_image, vm_image
from toolchain.errors import ToolchainError
from toolchain.progress import Report


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the recipe that may be changed."""
    copy = tmp_path / "vm-image"
    shutil.copytree(machine_images.VM_RECIPE, copy)
    packages = tmp_path / "packages"
    shutil.copyfile(machine_images.PACKAGES, packages)
    monkeypatch.setattr(machine_images, "VM_RECIPE", copy)
    monkeypatch.setattr(machine_images, "PACKAGES", packages)
    return copy


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """mmdebstrap, mke2fs and qemu-img that note what they are asked and make small files."""
    directory = tmp_path / "bin"
    directory.mkdir()
    root = tmp_path / "made-root"
    (root / "boot").mkdir(parents=True)
    (root / "boot" / "vmlinuz-6.1.0").write_text("the kernel")
    (root / "boot" / "initrd.img-6.1.0").write_text("the initrd")
    for name, act in (
        ("mmdebstrap", f'for last; do :; done; tar -cf "$last" -C {root} .'),
        ("mke2fs", 'for last in "$@"; do [ "${last%.raw}" = "$last" ] || : >"$last"; done'),
        ("qemu-img", 'for last; do :; done; echo disk >"$last"'),
    ):
        program = directory / name
        program.write_text(f'#!/bin/sh\necho "{name} $*" >>{tmp_path}/asked\n{act}\n')
        program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{directory}:/usr/bin:/bin")
    return tmp_path / "asked"


def test_its_place_is_of_the_recipe_alone(recipe: Path, cache: Path) -> None:
    before = vm_image.own()
    assert re.fullmatch(r"[0-9a-f]{12}", before.disk.parent.name)
    assert before.disk.is_relative_to(cache)
    (recipe / "packages").touch()
    assert vm_image.own() == before


@pytest.mark.parametrize("file", ["packages", "customise.sh", "../packages"])
def test_another_recipe_is_another_image(recipe: Path, cache: Path, file: str) -> None:
    before = vm_image.own()
    with (recipe / file).open("a") as text:
        text.write("\n")
    assert vm_image.own() != before


def test_it_has_what_a_machine_that_is_a_container_has_and_a_kernel() -> None:
    packages = vm_image.packages()
    assert set(node_image.packages()) <= set(packages)
    assert {"cloud-init", "systemd-resolved", "udev", "initramfs-tools"} <= set(packages)
    assert re.fullmatch(r"linux-image-(amd64|arm64)", next(name for name in packages if "linux-image" in name))
    assert all(re.fullmatch(r"[a-z0-9][a-z0-9.+-]+", name) for name in packages)


def test_it_is_made_whole_and_once(programs: Path, recipe: Path, cache: Path, report: Report) -> None:
    vm_image.ensure(report)
    image = vm_image.own()
    assert image.kernel is not None and image.initrd is not None
    assert (image.kernel.read_text(), image.initrd.read_text()) == ("the kernel", "the initrd")
    assert image.disk.read_text() == "disk\n"
    assert sorted(path.name for path in image.disk.parent.iterdir()) == ["disk.qcow2", "initrd.img", "vmlinuz"]
    made = programs.read_text().splitlines()
    assert [line.split()[0] for line in made] == ["mmdebstrap", "mke2fs", "qemu-img"]
    assert f"customize-hook=chroot \"$1\" sh < '{recipe}/customise.sh'" in made[0]
    vm_image.ensure(report)
    assert programs.read_text().splitlines() == made


def test_a_part_that_fails_leaves_no_image(
    programs: Path, recipe: Path, cache: Path, report: Report, tmp_path: Path
) -> None:
    (tmp_path / "bin" / "qemu-img").write_text("#!/bin/sh\nexit 3\n")
    with pytest.raises(ToolchainError, match="qemu-img"):
        vm_image.ensure(report)
    assert not vm_image.own().disk.parent.exists()
    assert not (cache / "scratch" / "vm-image").exists()


def test_a_cloud_image_is_downloaded_with_its_checksum(upstream: Upstream, cache: Path, report: Report) -> None:
    upstream.files["debian.qcow2"] = b"a disk"
    url, sha256 = f"{upstream.base_url}/debian.qcow2", hashlib.sha256(b"a disk").hexdigest()
    vm_image.ensure(report, url=url, sha256=sha256)
    assert vm_image.downloaded(url, sha256).disk.read_bytes() == b"a disk"


def test_a_cloud_image_with_another_checksum_is_refused(upstream: Upstream, cache: Path, report: Report) -> None:
    upstream.files["debian.qcow2"] = b"another disk"
    url, sha256 = f"{upstream.base_url}/debian.qcow2", hashlib.sha256(b"a disk").hexdigest()
    with pytest.raises(ToolchainError, match=sha256):
        vm_image.ensure(report, url=url, sha256=sha256)
    assert not vm_image.downloaded(url, sha256).disk.exists()
