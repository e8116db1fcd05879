"""Every rendered systemd unit, read by systemd itself."""

import re
from collections import defaultdict
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.substrates.containers.substrate import boot_unit
from components.substrates.libvirt.substrate import mirror_unit
from components.systemd import oneshot_unit, systemd_unit
from config.lab import parse
from lab.shipped import lab_of
from unit.mocked_engine import Run
from unit.node_tools import NodeTools

# What systemd says of a unit whose program, or whose neighbour, stands on another machine.
ELSEWHERE = re.compile(r"is not executable: No such file or directory|^Unit \S+ not found|Failed to create \S+/start")


def units(lab: Run) -> dict[str, str]:
    """step/unit -> text, of all units that the program writes."""
    return {
        f"{step.name}/{path.rsplit('/', 1)[1]}": lab.file(step.name, path)
        for step in lab.of_type("command:remote:Command")
        for path in lab.files(step.name)
        if path.startswith("/etc/systemd/system/")
    }


def complaints(tools: NodeTools, name: str, text: str, directory: Path) -> list[str]:
    """What systemd does not like about a unit."""
    file = directory / name
    file.write_text(text)
    result = tools.run("systemd-analyze", "verify", "--man=no", str(file))
    return [
        line
        for line in result.stderr.splitlines()
        if name in line and not ELSEWHERE.search(line) and not line.startswith("Failed to")
    ]


def test_systemd_accepts_every_unit(dev: Run, shared: Run, tmp_path: Path, tools: NodeTools) -> None:
    found = units(dev) | units(shared)
    assert {name.split("/")[1] for name in found} == {
        "containerd.service",
        "etcd-snapshot.service",
        "etcd-snapshot.timer",
        "etcd.service",
        "hardway-hosts.service",
        "hardway-pod-network.service",
        "hardway-processes.service",
        "keepalived.service",
        "kube-apiserver.service",
        "kube-controller-manager.service",
        "kube-proxy.service",
        "kube-scheduler.service",
        "kubelet.service",
    }
    for text in sorted(set(found.values())):
        name = next(name.split("/")[1] for name in found if found[name] == text)
        assert complaints(tools, name, text, tmp_path) == []


def test_clients_of_an_api_server_restart_with_it_where_it_restarts_repeatedly(dev: Run) -> None:
    """client-go waits for up to a minute after repeated refusals: the controller manager would take Nodes for lost."""
    script = dev.script("control-plane-controller-0")
    first, second = script.split("\nstart\n")[:2]
    assert "unit kube-apiserver.service" in first and "follows" not in first
    for client in ("kube-controller-manager", "kube-scheduler"):
        assert f"\nfollows {client}.service kube-apiserver.service\n" in second


def test_systemd_accepts_the_unit_of_the_pulumi_host(tmp_path: Path, tools: NodeTools) -> None:
    text = boot_unit("podman", "hardway-dev", ["worker-0"], [("10.200.0.0/24", "10.240.0.20")])
    assert complaints(tools, "hardway-dev.service", text, tmp_path) == []
    assert "\nExecStart=/usr/bin/env podman start hardway-dev-worker-0\n" in text
    assert "\nExecStart=/usr/bin/env ip route replace 10.200.0.0/24 via 10.240.0.20\n" in text
    # Without br_netfilter pods' packets do not pass kube-proxy's rules: most queries to the DNS Service are lost.
    started = [line for line in text.splitlines() if line.startswith("ExecStart=")]
    assert "modprobe -a overlay br_netfilter" in started[0]
    assert "firewall.sh open" in started[2]


def test_unit_of_the_pulumi_host_starts_with_the_docker_daemon(tmp_path: Path, tools: NodeTools) -> None:
    """An upgrade of docker restarts its daemon, and leaves all containers stopped."""
    text = boot_unit("docker", "hardway-dev", ["worker-0"], [("10.200.0.0/24", "10.240.0.20")])
    assert complaints(tools, "hardway-dev.service", text, tmp_path) == []
    assert "\nAfter=network-online.target docker.service\nPartOf=docker.service\n" in text
    assert text.endswith("\nWantedBy=multi-user.target docker.service")


def test_systemd_accepts_the_unit_of_the_pulumi_host_for_virtual_machines(tmp_path: Path, tools: NodeTools) -> None:
    text = mirror_unit("hardway-libvirt", parse("libvirt", lab_of("libvirt")))
    assert complaints(tools, "hardway-libvirt.service", text, tmp_path) == []


@pytest.mark.parametrize("wrong", ["[Service]\nExecStrat=/bin/true", "[Service]\nExecStart=/bin/true\nRestrat=always"])
def test_invalid_unit_is_found(tmp_path: Path, wrong: str, tools: NodeTools) -> None:
    assert complaints(tools, "wrong.service", wrong, tmp_path)


def test_every_service_restarts_after_a_crash_and_a_reboot(lab: Run) -> None:
    found = units(lab)
    for name, text in found.items():
        if name.endswith(".timer"):
            assert "\n[Install]\nWantedBy=timers.target\n" in text, name
            continue
        if name.replace(".service", ".timer") in found:
            # Started by its timer, again and again: it must neither start at boot nor stay.
            assert "[Install]" not in text, name
            assert "RemainAfterExit" not in text, name
            continue
        assert "\n[Install]\nWantedBy=multi-user.target\n" in text, name
        if "Type=oneshot" not in text:
            assert "\nRestart=always\n" in text, name
            assert "\nStartLimitIntervalSec=0\n" in text, f"{name} would give up while its peers are still away"


def test_changed_file_restarts_the_unit_that_reads_it(lab: Run) -> None:
    for step in lab.of_type("command:remote:Command"):
        written = lab.files(step.name)
        watched: dict[str, set[str]] = defaultdict(set)
        for words in (line.split() for line in step.script.splitlines()):
            if words[:1] in (["unit"], ["reloads"]):
                watched[words[1]] |= set(words[2:])
        for path in (path for path in written if path.startswith("/etc/systemd/system/")):
            name = path.rsplit("/", 1)[1]
            # A name inside a longer one is not a mention of it: ca.crt in etcd-ca.crt.
            read = {
                other for other in written if re.search(re.escape(other) + r"(?![\w.-])", lab.file(step.name, path))
            }
            # What a timer starts is read again when its timer starts again.
            timer = name.replace(".service", ".timer")
            watches = watched[name] if name in watched else watched[timer]
            assert read - {path, "/etc/hardway/hosts"} <= watches, f"{step.name}: {name}"


def test_flags_keep_their_order_and_booleans_are_lower_case() -> None:
    text = systemd_unit(
        description="d", documentation="https://d", program="/bin/p", flags={"b": True, "a": 1, "c": False, "d": "x"}
    )
    assert "ExecStart=/bin/p \\\n  --b=true \\\n  --a=1 \\\n  --c=false \\\n  --d=x\n" in text


@given(
    start=st.lists(st.sampled_from(["/bin/a 1", "-/bin/b", "/bin/c"]), min_size=1),
    stop=st.lists(st.just("-/bin/undo")),
)
def test_a_oneshot_runs_all_of_its_commands_in_order(start: list[str], stop: list[str]) -> None:
    lines = oneshot_unit(description="d", start=start, stop=stop).splitlines()
    assert [line.removeprefix("ExecStart=") for line in lines if line.startswith("ExecStart=")] == start
    assert [line.removeprefix("ExecStop=") for line in lines if line.startswith("ExecStop=")] == stop
    assert "RemainAfterExit=yes" in lines
