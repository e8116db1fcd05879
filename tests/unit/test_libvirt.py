"""What a lab of virtual machines asks of libvirt and of its host, argument by argument."""

import json
import shlex
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from components.substrates.libvirt.substrate import mirror_unit, serve, wait_for_ssh
from config.lab import Lab, parse
from config.settings import LabSettings
from lab.shipped import lab_of
from toolchain import paths, vm_image
from unit.conftest import program
from unit.mocked_engine import Registered, Run, container_id, fingerprint, run_program

CLOUD_IMAGE = {"image": "https://cloud.example/debian-12-generic.qcow2", "image_sha256": "ab" * 32}
COMMAND = "command:local:Command"


def resource(run: Run, kind: str, name: str) -> Registered:
    return run.named(f"machines-{name}", f"libvirt:index/{kind[0].lower()}{kind[1:]}:{kind}")


def run_with(**settings: Any) -> Run:
    return run_with_text(json.dumps(settings))


@cache
def run_with_text(settings: str) -> Run:
    """The program's run for each of these settings, once."""
    return run_program("libvirt", {**lab_of("libvirt"), "libvirt": json.loads(settings)})


@pytest.fixture
def libvirt(no_output_in_a_string: None) -> Run:
    return program("libvirt")


@pytest.fixture(scope="module")
def plain() -> Lab:
    return parse("libvirt", lab_of("libvirt"))


def test_the_network_has_nat_the_labs_range_and_no_dhcp(libvirt: Run) -> None:
    assert resource(libvirt, "Network", "network").inputs == {
        "name": "hardway-libvirt",
        "mode": "nat",
        "addresses": ["10.248.0.0/24"],
        "dhcp": {"enabled": False},
        "autostart": True,
    }


def test_disks_are_in_a_directory_of_the_labs_own(libvirt: Run) -> None:
    assert resource(libvirt, "Pool", "pool").inputs == {
        "name": "hardway-libvirt",
        "type": "dir",
        "target": {"path": "/var/lib/libvirt/hardway/libvirt"},
    }


def test_the_images_files_are_uploaded_once(libvirt: Run) -> None:
    own = vm_image.own()
    for name, file in (("image", own.disk), ("kernel", own.kernel), ("initrd", own.initrd)):
        assert resource(libvirt, "Volume", name).inputs == {
            "name": f"hardway-libvirt-{name}",
            "pool": "hardway-libvirt",
            "source": str(file),
        }


@pytest.mark.parametrize(
    ("name", "vcpus", "memory", "disk", "mac"),
    [
        ("controller-0", 2, 2048, 10, "52:54:0A:F8:00:0A"),
        ("worker-0", 2, 2048, 20, "52:54:0A:F8:00:14"),
        ("worker-1", 2, 2048, 20, "52:54:0A:F8:00:15"),
        ("load-balancer-0", 1, 512, 4, "52:54:0A:F8:00:05"),
    ],
)
def test_domain_has_exactly_these_arguments(
    libvirt: Run, name: str, vcpus: int, memory: int, disk: int, mac: str
) -> None:
    assert resource(libvirt, "Volume", f"{name}-disk").inputs == {
        "name": f"hardway-libvirt-{name}.qcow2",
        "pool": "hardway-libvirt",
        "baseVolumeId": "id-machines-image",
        "size": disk << 30,
    }
    assert resource(libvirt, "Domain", name).inputs == {
        "name": f"hardway-libvirt-{name}",
        "description": "hardway-libvirt",
        "type": "kvm",
        "vcpu": vcpus,
        "memory": memory,
        "cpu": {"mode": "host-passthrough"},
        "kernel": "id-machines-kernel",
        "initrd": "id-machines-initrd",
        "cmdlines": [{"console": "ttyS0", "root": "/dev/vda"}],
        "cloudinit": f"id-machines-{name}-cloud-init",
        "disks": [{"volumeId": f"id-machines-{name}-disk"}],
        # No addresses: those are leases, and the provider waits for them.
        "networkInterfaces": [{"networkId": "id-machines-network", "mac": mac}],
        "consoles": [{"type": "pty", "targetPort": "0", "targetType": "serial"}],
        "graphics": {"type": "vnc", "listenType": "socket"},
        "autostart": True,
    }


def test_every_machine_of_the_lab_is_one_domain(libvirt: Run) -> None:
    domains = libvirt.of_type("libvirt:index/domain:Domain")
    assert [each.name for each in domains] == [f"machines-{each['name']}" for each in libvirt.outputs["machines"]]


def test_a_size_may_be_changed_in_part() -> None:
    larger = resource(run_with(worker={"memory_mib": 4096}), "Domain", "worker-0")
    assert (larger.inputs["vcpu"], larger.inputs["memory"]) == (2, 4096)


def test_an_emulated_machine_has_all_that_the_emulation_has() -> None:
    emulated = run_with(type="qemu")
    for domain in emulated.of_type("libvirt:index/domain:Domain"):
        assert (domain.inputs["type"], domain.inputs["cpu"]) == ("qemu", {"mode": "maximum"})
    for step in emulated.of_type("command:remote:Command"):
        assert "\nTIMEOUT_FACTOR=8\nbegin " in step.script


def test_a_cloud_image_boots_by_itself() -> None:
    cloud = run_with(**CLOUD_IMAGE)
    volumes = [each.name for each in cloud.of_type("libvirt:index/volume:Volume")]
    assert "machines-image" in volumes and not {"machines-kernel", "machines-initrd"} & set(volumes)
    file = paths.cache() / "vm-image" / ("ab" * 32) / "debian-12-generic.qcow2"
    assert resource(cloud, "Volume", "image").inputs["source"] == str(file)
    for domain in cloud.of_type("libvirt:index/domain:Domain"):
        assert not {"kernel", "initrd", "cmdlines"} & domain.inputs.keys()


def test_local_image_is_used_at_its_path() -> None:
    assert resource(run_with(image="/srv/my.qcow2"), "Volume", "image").inputs["source"] == "/srv/my.qcow2"


def test_cloud_init_brings_the_pinned_host_key_and_the_users_key(libvirt: Run) -> None:
    disk = resource(libvirt, "CloudInitDisk", "worker-0-cloud-init")
    assert "userData" in disk.secret
    head, _, body = disk.inputs["userData"].partition("\n")
    assert head == "#cloud-config"
    given = yaml.safe_load(body)
    assert given["ssh_keys"] == {
        "ed25519_private": "PRIVATE-KEY-machines-worker-0-host-key-openssh\n",
        "ed25519_public": "ssh-ed25519 PUBLIC-machines-worker-0-host-key",
    }
    assert given["users"] == [
        {"name": "root", "lock_passwd": False, "ssh_authorized_keys": ["ssh-ed25519 PUBLIC-machines-ssh"]}
    ]
    assert (given["disable_root"], given["ssh_pwauth"], given["ssh_deletekeys"]) == (False, False, True)
    assert given["manage_etc_hosts"] is False
    assert (given["hostname"], given["fqdn"]) == ("worker-0", "worker-0.libvirt.hardway.internal")
    assert "MaxStartups 500:30:1000" in given["write_files"][0]["content"]
    connection = libvirt.named("host-worker-0").inputs["connection"]
    assert connection["hostKey"] == given["ssh_keys"]["ed25519_public"]


def test_keys_are_for_root_and_qemu_alone_before_they_are_used(libvirt: Run) -> None:
    """The provider makes the disk with mode 0644: it is in a closed directory from the first moment on."""
    pool = "/var/lib/libvirt/hardway/libvirt"
    closed = libvirt.named("machines-pool-closed", COMMAND)
    assert (
        f"\nas_root python3 components/substrates/libvirt/keys.py --uri 'qemu:///system' {pool}\n"
        in (closed.inputs["create"])
    )
    assert closed.inputs["create"].endswith("\n# the pool id-machines-pool") and "update" not in closed.inputs
    for each in libvirt.of_type("libvirt:index/volume:Volume", "libvirt:index/cloudInitDisk:CloudInitDisk"):
        assert "machines-pool-closed" in libvirt.before(each), each.name
    for machine in libvirt.outputs["machines"]:
        name = machine["name"]
        disk = libvirt.named(f"machines-{name}-cloud-init-closed", COMMAND)
        file = resource(libvirt, "CloudInitDisk", f"{name}-cloud-init").inputs["name"]
        assert f" {pool}/{file}\n# the disk id-machines-{name}-cloud-init" in disk.inputs["create"]
        assert f"machines-{name}-cloud-init-closed" in libvirt.before(resource(libvirt, "Domain", name))


def test_addresses_are_fixed_by_the_network_configuration(libvirt: Run) -> None:
    for machine in libvirt.outputs["machines"]:
        disk = resource(libvirt, "CloudInitDisk", f"{machine['name']}-cloud-init")
        given = yaml.safe_load(disk.inputs["networkConfig"])
        interface = given["ethernets"]["eth0"]
        domain = resource(libvirt, "Domain", machine["name"])
        assert given["version"] == 2
        assert interface["match"]["macaddress"].upper() == domain.inputs["networkInterfaces"][0]["mac"]
        assert interface["addresses"] == [f"{machine['address']}/24"]
        assert interface["routes"] == [{"to": "0.0.0.0/0", "via": "10.248.0.1"}]
        assert interface["nameservers"] == {"addresses": ["10.248.0.1"]}
        meta = yaml.safe_load(disk.inputs["metaData"])
        assert meta == {"instance-id": f"hardway-libvirt-{machine['name']}", "local-hostname": machine["name"]}


def test_another_cloud_init_is_another_machine_with_another_disk(libvirt: Run) -> None:
    for machine in libvirt.outputs["machines"]:
        name = machine["name"]
        cloud_init, disk = (
            resource(libvirt, "CloudInitDisk", f"{name}-cloud-init"),
            resource(libvirt, "Volume", f"{name}-disk"),
        )
        domain = resource(libvirt, "Domain", name)
        assert list(disk.request.replace_with) == [cloud_init.urn]
        assert set(domain.request.replace_with) == {cloud_init.urn, disk.urn}
        assert {"cloudinit", "networkInterfaces", "kernel", "initrd"} <= set(domain.request.replaceOnChanges)


def test_libvirt_resources_are_deleted_before_they_are_replaced(libvirt: Run) -> None:
    mine = [each for each in libvirt.resources if each.type.startswith("libvirt:")]
    assert len(mine) == 2 + 3 + 3 * 4
    provider = libvirt.named("machines-libvirt", "pulumi:providers:libvirt")
    assert provider.inputs["uri"] == container_id("machines-preflight"), "what the preflight prints"
    for each in mine:
        assert each.request.deleteBeforeReplace, each.name
        assert each.request.provider.startswith(provider.urn), each.name


def test_a_first_preview_does_not_know_where_to_connect() -> None:
    first = run_program("libvirt", lab_of("libvirt"), preview=True)
    assert "uri" in first.named("machines-libvirt", "pulumi:providers:libvirt").unknown


def test_no_libvirt_resource_is_created_before_the_checks(libvirt: Run) -> None:
    for each in libvirt.resources:
        if each.type.startswith("libvirt:"):
            assert {"machines-preflight", "machines-quorum"} <= libvirt.before(each), each.name


def test_a_machine_is_used_once_it_answers_with_its_own_key(libvirt: Run) -> None:
    waiting = libvirt.named("machines-worker-0-ssh", COMMAND)
    assert "ssh-keyscan -T 2 -t ed25519 10.248.0.20" in waiting.inputs["create"]
    assert "grep -qF 'ssh-ed25519 PUBLIC-machines-worker-0-host-key'" in waiting.inputs["create"]
    assert "virsh -q -c 'qemu:///system' ttyconsole hardway-libvirt-worker-0" in waiting.inputs["create"]
    assert waiting.inputs["create"].endswith("\necho id-machines-worker-0")
    assert libvirt.at(waiting.request.deletedWith).name == "machines-worker-0"
    named = {each["address"]: each["name"] for each in libvirt.outputs["machines"]}
    for step in libvirt.of_type("command:remote:Command"):
        assert f"machines-{named[step.inputs['connection']['host']]}-ssh" in libvirt.before(step)


def test_emulation_is_given_more_time_to_boot() -> None:
    def seconds(type_: str) -> int:
        script = wait_for_ssh(
            LabSettings.model_validate({"libvirt": {"type": type_}}),
            "d",
            parse("x", {}).machines[0].address,
            identity="i",
            host_key="k",
        )
        return int(script.split("deadline=$((SECONDS + ")[1].split(")")[0])

    assert seconds("qemu") > 2 * seconds("kvm")


def test_machines_fetch_artifacts_from_their_gateway(libvirt: Run, plain: Lab) -> None:
    assert plain.artifacts.base_url == "http://10.248.0.1:8471"
    assert "fetch http://10.248.0.1:8471/github.com/etcd-io/" in libvirt.script("etcd-controller-0")


def test_the_mirror_is_served_before_a_machine_is_made_and_to_the_lab_alone(libvirt: Run, plain: Lab) -> None:
    assert "machines-host" in libvirt.before(resource(libvirt, "Domain", "worker-0"))
    unit = mirror_unit("hardway-libvirt", plain)
    (command,) = [line for line in unit.splitlines() if line.startswith("ExecStart=")]
    words = shlex.split(command.removeprefix("ExecStart="))
    assert words == [
        *("/usr/bin/env", "python3", "-m", "http.server", "--bind", "10.248.0.1"),
        *("--directory", str(plain.mirror), "8471"),
    ]
    assert "IPAddressDeny=any\nIPAddressAllow=10.248.0.0/24\n" in unit
    assert "Restart=always" in unit and "WantedBy=multi-user.target" in unit


def test_routes_of_removed_workers_are_deleted_on_the_host(plain: Lab) -> None:
    script = serve("hardway-libvirt", plain)
    flush = script.index("as_root ip -4 route flush root 10.208.0.0/16")
    assert flush < script.index("ip route replace")


def test_changes_on_the_host_are_reverted(libvirt: Run) -> None:
    host = libvirt.named("machines-host", COMMAND)
    for words in (
        "systemctl -q disable --now hardway-libvirt.service",
        "rm -f /etc/systemd/system/hardway-libvirt.service",
        "rm -f /run/hardway-libvirt.pid",
        "ip -4 route flush root 10.208.0.0/16",
        "-name 'hardway-libvirt-*.log*' -delete",
    ):
        assert words in host.inputs["delete"]


def test_preflight_requires_what_the_lab_uses(libvirt: Run, plain: Lab) -> None:
    command = libvirt.named("machines-preflight", COMMAND)
    (line,) = [line for line in command.inputs["create"].splitlines() if "libvirt/preflight.py" in line]
    words = shlex.split(line)
    script = Path(next(word for word in words if word.endswith("libvirt/preflight.py")))
    assert (paths.checkout() / script).exists()

    def after(option: str, count: int = 1) -> list[str]:
        return words[words.index(option) + 1 :][:count]

    assert after("--uri") == ["qemu:///system"]
    assert after("--type") == ["kvm"]
    assert after("--lab") == ["hardway-libvirt"]
    assert after("--image") == [str(vm_image.own().disk)]
    assert after("--mirror") == [str(plain.mirror)]
    assert after("--pool") == ["/var/lib/libvirt/hardway/libvirt"]
    assert after("--memory") == [str(3 * 2048 + 512)]
    assert after("--disk") == [str(10 + 2 * 20 + 4)]
    assert after("--machines") == ["4"]
    assert after("--ranges", 2) == ["10.248.0.0/24", "10.208.0.0/16"]
    assert after("--port") == ["8471"]
    # Only before the first `up` whatever has the lab's name is another lab's.
    assert "--new" in words
    *lines, last = command.inputs["create"].splitlines()
    assert command.inputs["update"] == "\n".join(lines).replace(" --new", "")
    owner = "as_root python3 components/substrates/libvirt/owner.py --uri 'qemu:///system' --lab libvirt --key "
    assert last == f"{owner}'{fingerprint('machines-ssh')}' take", "when all else is right"
    assert lines.index(line) == len(lines) - 1
    assert lines[-2].endswith(f" || {owner}'{fingerprint('machines-ssh')}' check")
    assert fingerprint("machines-ssh") in command.inputs["delete"]


@pytest.mark.parametrize(("answers", "status"), [(False, 0), (True, 1)])
def test_names_of_another_lab_stop_the_preflight_and_a_stopped_libvirt_is_reported(
    libvirt: Run, tmp_path: Path, answers: bool, status: int
) -> None:
    create = libvirt.named("machines-preflight", COMMAND).inputs["create"]
    for name, line in (("virsh", f"exit {0 if answers else 1}"), ("python3", 'echo "$*" >&2; [ "${!#}" != check ]')):
        (tmp_path / name).write_text(f"#!/bin/bash\n{line}\n")
        (tmp_path / name).chmod(0o755)
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin"}
    done = subprocess.run(["bash", "-c", create], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == status
    asked = [line.split()[-1] for line in done.stderr.splitlines()]
    assert asked == (["check"] if answers else ["8471", "take"])


def test_a_checksum_that_is_written_is_checked_before_the_image_is_used() -> None:
    cloud = run_with(**CLOUD_IMAGE)
    assert f"--sha256 {'ab' * 32}" in cloud.named("machines-preflight", COMMAND).inputs["create"]
    assert "machines-preflight" in cloud.before(resource(cloud, "Volume", "image"))


@pytest.mark.parametrize(
    "change",
    [
        {"controller": {"memory_mib": 4096}},
        {"type": "qemu"},
        CLOUD_IMAGE,
        {"pool": "/srv/disks"},
    ],
    ids=["size", "type", "image", "pool"],
)
def test_quorum_guard_detects_changes_that_replace_a_machine(libvirt: Run, change: dict[str, Any]) -> None:
    before = libvirt.named("machines-quorum", COMMAND).inputs["create"]
    assert run_with(**change).named("machines-quorum", COMMAND).inputs["create"] != before
