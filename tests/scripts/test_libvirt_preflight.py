"""The preflight of labs on virtual machines: its report, with false programs for virsh and ip."""

import argparse
import hashlib
import json
import os
import socket
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from components.substrates.libvirt import preflight as libvirt_preflight
from scripts.preflight_host import problems
from toolchain import paths

PROGRAM = paths.checkout() / "components" / "substrates" / "libvirt" / "preflight.py"
QEMU = "qemu-system-x86_64"

DEFAULT = (
    "<network><name>default</name><bridge name='virbr0'/>"  # without a family, as old libvirt has it
    "<ip address='192.168.122.1' netmask='255.255.255.0'/></network>"
)
DEFAULT_ROUTE = {"dst": "default", "gateway": "192.168.1.1", "dev": "eth0"}


def network(name: str, bridge: str, address: str, prefix: int = 24) -> str:
    """What libvirt says of a network."""
    return (
        f"<network><name>{name}</name><bridge name='{bridge}'/>"
        f"<ip family='ipv4' address='{address}' prefix='{prefix}'/></network>"
    )


@dataclass
class Host:
    """What libvirt and the kernel of a host say."""

    directory: Path
    networks: dict[str, str] = field(default_factory=lambda: {"default": DEFAULT})
    pools: Sequence[str] = ("default",)
    domains: dict[str, str] = field(default_factory=dict)
    """Name -> description."""
    routes: list[dict[str, Any]] = field(default_factory=lambda: [DEFAULT_ROUTE])
    tools: Sequence[str] = ("virsh", "ip", "mkisofs", "ssh-keyscan", QEMU)
    model: str = "none"
    runs: bool = True
    mirror_filled: bool = True
    image: bytes | None = b"a disk"

    def ask(
        self,
        *,
        new: bool = True,
        sha256: str | None = None,
        type_: str = "qemu",
        machines: int = 1,
        memory: int = 1,
        port: int = 8471,
    ) -> list[str]:
        """The problems that the program reports, one line each; none when it is content."""
        tools, mirror = self.directory / "bin", self.directory / "mirror"
        for each in (tools, mirror):
            each.mkdir(exist_ok=True)
        if self.mirror_filled:
            (mirror / "SHA256SUMS").touch()
        if self.image is not None:
            (self.directory / "disk.qcow2").write_bytes(self.image)
        virsh = "virsh -q -c qemu:///system"
        down = "error: failed to connect to the hypervisor\nerror: Failed to connect socket: No such file or directory"
        capabilities = f"<capabilities><host><secmodel><model>{self.model}</model></secmodel></host></capabilities>"
        answers = {
            f"{virsh} net-list --all --name": [0, "\n".join(self.networks), ""] if self.runs else [1, "", down],
            f"{virsh} pool-list --all --name": [0, "\n".join(self.pools), ""],
            f"{virsh} list --all --name": [0, "\n".join(self.domains), ""],
            **{f"{virsh} desc {name}": [0, f"{text}\n", ""] for name, text in self.domains.items()},
            f"{virsh} capabilities": [0, capabilities, ""],
            "ip -j -4 route show": [0, json.dumps(self.routes), ""],
            **{f"{virsh} net-dumpxml {name}": [0, text, ""] for name, text in self.networks.items()},
        }
        arguments = [
            *("--uri", "qemu:///system", "--type", type_, "--lab", "hardway-dev"),
            *(["--new"] if new else []),
            *("--image", str(self.directory / "disk.qcow2"), *(["--sha256", sha256] if sha256 else [])),
            *("--mirror", str(mirror), "--pool", str(self.directory / "pool"), "--memory", str(memory)),
            *("--disk", "40", "--machines", str(machines), "--port", str(port)),
            *("--ranges", "10.240.0.0/24", "10.200.0.0/16"),
        ]
        found, said = problems(PROGRAM, arguments, tools, self.tools, answers)
        assert said == ("" if found else "qemu:///system\n")
        return found


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


def test_host_that_meets_all_preconditions_passes_without_output(host: Host) -> None:
    assert host.ask() == []


def test_a_libvirt_that_does_not_run(host: Host) -> None:
    host.runs = False
    (problem,) = host.ask()
    assert "libvirt at qemu:///system does not answer" in problem
    assert "Failed to connect socket" in problem and "systemctl start libvirtd" in problem


@pytest.mark.parametrize("tool", ["mkisofs", "ssh-keyscan", QEMU, "ip", "virsh"])
def test_a_program_that_is_missing(host: Host, tool: str) -> None:
    host.tools = [each for each in host.tools if each != tool]
    (problem,) = host.ask()
    assert problem.startswith(f"{tool} is not installed: run `./hardway setup`, or install ")


def test_a_processor_that_the_provider_makes_no_cd_drive_for(
    host: Host, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    args = argparse.Namespace(
        **{"mirror": tmp_path, "image": tmp_path, "sha256": None, "new": False, "type": "qemu", "port": 1}
    )
    monkeypatch.setattr("shutil.which", lambda _: None)
    assert "the processor of the Pulumi host is aarch64" in "\n".join(libvirt_preflight.problems(args))


def test_an_image_that_is_missing(host: Host) -> None:
    host.image = None
    (problem,) = host.ask()
    assert "disk.qcow2 is not there: run `./hardway setup`" in problem


def test_an_image_with_another_checksum_is_not_used(host: Host) -> None:
    (problem,) = host.ask(sha256="ab" * 32)
    assert hashlib.sha256(b"a disk").hexdigest() in problem
    assert f"lab.libvirt.image_sha256 wants {'ab' * 32}: it is not used" in problem


def test_an_image_with_its_checksum(host: Host) -> None:
    assert host.ask(sha256=hashlib.sha256(b"a disk").hexdigest()) == []


def test_a_mirror_that_is_empty(host: Host) -> None:
    host.mirror_filled = False
    (problem,) = host.ask()
    assert "mirror is empty: run `./hardway setup`" in problem


def test_too_little_memory_and_disk_for_a_lab_that_is_not_there_yet(host: Host) -> None:
    memory, disk = host.ask(memory=1 << 40, machines=1 << 30)
    assert "MiB of memory are free, the machines want" in memory
    assert "MiB of disk are free in" in disk and "may grow to 40 GiB" in disk
    assert host.ask(memory=1 << 40, machines=1 << 30, new=False) == []


def test_two_labs_on_one_range_are_refused(host: Host) -> None:
    host.networks["hardway-other"] = network("hardway-other", "virbr1", "10.240.0.1")
    (problem,) = host.ask()
    assert (
        problem
        == "10.240.0.0/24 overlaps 10.240.0.0/24, another lab's network hardway-other: take another (lab.network)"
    )


def test_overlapping_network_of_the_user_is_reported(host: Host) -> None:
    host.networks["mine"] = network("mine", "virbr1", "10.200.7.1", 26)
    (problem,) = host.ask()
    assert problem.startswith("10.200.0.0/16 overlaps 10.200.7.0/26, the libvirt network mine")


def test_two_labs_of_one_name_are_refused(host: Host) -> None:
    host.networks["hardway-dev"] = network("hardway-dev", "virbr1", "10.77.0.1")
    host.pools = ("default", "hardway-dev")
    host.domains = {
        "hardway-dev-controller-0": "hardway-dev",
        "hardway-dev-two-worker-0": "hardway-dev-two",
        "else": "No description for domain: else",
    }
    (host.directory / "pool").mkdir()
    (host.directory / "pool" / "disk").touch()
    (problem,) = host.ask()
    assert "the Pulumi host already has a lab with this name" in problem
    for words in ("network hardway-dev,", "pool hardway-dev,", "machine hardway-dev-controller-0,", "files in "):
        assert words in problem
    assert "two-worker" not in problem, "another lab, whose name begins like this one's"


def test_own_network_and_routes_do_not_conflict(host: Host) -> None:
    host.networks["hardway-dev"] = network("hardway-dev", "virbr1", "10.240.0.1")
    host.pools, host.domains = ("hardway-dev",), {"hardway-dev-worker-0": "hardway-dev"}
    host.routes += [
        {"dst": "10.240.0.0/24", "dev": "virbr1", "scope": "link"},
        {"dst": "10.200.0.0/24", "gateway": "10.240.0.20", "dev": "virbr1"},
    ]
    assert host.ask(new=False) == []


def test_another_labs_routes_to_its_pods(host: Host) -> None:
    host.networks["hardway-other"] = network("hardway-other", "virbr1", "10.77.0.1")
    host.routes += [{"dst": "10.200.0.0/24", "gateway": "10.77.0.20", "dev": "virbr1"}]
    (problem,) = host.ask()
    assert problem.startswith("10.200.0.0/16 overlaps 10.200.0.0/24, a route by virbr1")


def test_overlapping_route_is_reported(host: Host) -> None:
    host.routes += [{"dst": "10.240.0.0/16", "dev": "podman1"}, {"dst": "10.9.0.0/16", "type": "blackhole"}]
    (problem,) = host.ask()
    assert problem.startswith("10.240.0.0/24 overlaps 10.240.0.0/16, a route by podman1")


def test_port_in_use_on_all_addresses_is_reported(host: Host) -> None:
    with socket.create_server(("0.0.0.0", 0)) as server:
        (problem,) = host.ask(port=server.getsockname()[1])
    assert "of all addresses, which the mirror needs" in problem


def test_a_port_that_another_labs_mirror_has_on_its_own_address(host: Host) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        assert host.ask(port=server.getsockname()[1]) == []


def test_a_host_without_kvm(host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(libvirt_preflight, "_KVM", tmp_path / "kvm")
    (problem,) = libvirt_preflight._kvm()
    assert "type: qemu below lab.libvirt" in problem
    (tmp_path / "kvm").touch()
    assert list(libvirt_preflight._kvm()) == []


@pytest.mark.parametrize(
    ("rules", "allowed"),
    [
        ("", False),
        ("/somewhere/else/** rwk,\n", False),
        ("{parent}/** r,\n", False),
        ("# {parent}/** rwk,\n", False),
        ("{parent}/** rwk,\n", True),
        ('  "{parent}/**" rwk,\n', True),
    ],
)
def test_apparmor_that_would_deny_the_disks(
    host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rules: str, allowed: bool
) -> None:
    pool = tmp_path / "pools" / "dev"
    file = tmp_path / "libvirt-qemu"
    file.write_text(rules.format(parent=pool.parent))
    monkeypatch.setattr(libvirt_preflight, "_ABSTRACTIONS", file)

    def said(model: str) -> list[str]:
        text = f"<capabilities><host><secmodel><model>{model}</model></secmodel></host></capabilities>"
        answer = subprocess.CompletedProcess([], 0, stdout=text, stderr="")
        monkeypatch.setattr(libvirt_preflight, "_virsh", lambda *_: answer)
        return list(libvirt_preflight._security("qemu:///system", pool))

    assert said("none") == []
    found = said("apparmor")
    assert found == ([] if allowed else found) and bool(found) is not allowed
    if found:
        assert "run `./hardway setup`" in found[0]
        assert f"add the line `{pool.parent}/** rwk,` to {file}" in found[0]


def directories(pool: Path, monkeypatch: pytest.MonkeyPatch, *, uid: int = 64055, gid: int = 994) -> str:
    """What is said of a pool's directories to a libvirt whose qemu is this user."""
    text = (
        "<capabilities><host><secmodel><model>dac</model><doi>0</doi>"
        f"<baselabel type='kvm'>+{uid}:+{gid}</baselabel></secmodel></host></capabilities>"
    )
    answer = subprocess.CompletedProcess([], 0, stdout=text, stderr="")
    monkeypatch.setattr(libvirt_preflight, "_virsh", lambda *_: answer)
    return "\n".join(libvirt_preflight._security("qemu:///system", pool))


@pytest.fixture
def pools(tmp_path: Path) -> Iterator[Path]:
    """A directory that everybody may enter, as far as `/`: pytest's own is root's alone."""
    with TemporaryDirectory(prefix="hardway-pools-") as made:
        Path(made).chmod(0o755)
        yield Path(made)


def test_a_pool_that_qemu_may_use(pools: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pool = pools / "hardway" / "dev"
    assert directories(pool, monkeypatch) == "", "it is not there yet"
    pool.mkdir(parents=True)
    pool.chmod(0o711)
    pool.parent.chmod(0o755)
    assert directories(pool, monkeypatch) == ""


def test_a_directory_that_qemu_may_not_enter(pools: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pool in somebody's home, say."""
    pools.chmod(0o750)
    said = directories(pools / "hardway" / "dev", monkeypatch)
    assert f"qemu, which is user 64055 here, may not enter {pools}: chmod o+x {pools}" in said
    assert directories(pools / "hardway" / "dev", monkeypatch, gid=pools.stat().st_gid) == ""
    assert directories(pools / "hardway" / "dev", monkeypatch, uid=0) == ""


def test_pool_that_others_can_write_is_reported(pools: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = pools / "hardway"
    directory.mkdir()
    directory.chmod(0o777)
    assert f"every user may write to {directory}" in directories(directory / "dev", monkeypatch)
    directory.chmod(0o755)
    os.chown(directory, 4711, 0)
    assert f"{directory} belongs to user 4711" in directories(directory / "dev", monkeypatch)
    assert directories(directory / "dev", monkeypatch, uid=4711) == ""


def test_missing_libvirt_capabilities_are_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answer = subprocess.CompletedProcess([], 1, stdout="", stderr="error: failed to get capabilities\n")
    monkeypatch.setattr(libvirt_preflight, "_virsh", lambda *_: answer)
    (said,) = libvirt_preflight._security("qemu:///system", tmp_path)
    assert "does not report its capabilities: error: failed to get capabilities" in said


def test_all_failed_preconditions_are_in_one_report(host: Host) -> None:
    host.mirror_filled = False
    host.tools = [each for each in host.tools if each != "mkisofs"]
    host.networks["hardway-other"] = network("hardway-other", "virbr1", "10.240.0.1")
    host.routes.append({"dst": "10.200.4.0/24", "dev": "tun0"})
    host.pools = ("hardway-dev",)
    found = "\n".join(host.ask(machines=1 << 30, memory=1 << 40, sha256="0" * 64))
    for words in (
        *(
            "mirror",
            "memory",
            "disk are free",
            "sha256",
            "mkisofs",
            "already has a lab with this name",
            "another lab's network",
        ),
        "a route by tun0",
    ):
        assert words in found, words
