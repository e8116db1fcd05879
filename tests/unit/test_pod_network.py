"""Routes between the workers' pods, and the masquerade of what leaves the lab."""

from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

from unit.mocked_engine import Run
from unit.node_tools import NodeTools

TABLE = "/etc/hardway/masquerade.nft"
ROUTES = "/etc/hardway/pod-routes"


def routes(batch: str) -> set[tuple[str, str]]:
    words = [line.split() for line in batch.splitlines()]
    assert all(each[:2] == ["route", "replace"] for each in words)
    return {(each[2], each[4]) for each in words}


def test_every_machine_knows_the_way_to_every_other_workers_pods(lab: Run) -> None:
    machines = lab.outputs["machines"]
    for machine in machines:
        expected = {
            (other["pod_cidr"], other["address"])
            for other in machines
            if other.get("pod_cidr") and other["name"] != machine["name"]
        }
        assert routes(lab.file(f"neighbours-{machine['name']}", ROUTES)) == expected


def test_the_routes_are_a_unit_that_is_there_after_a_reboot(lab: Run) -> None:
    for machine in lab.outputs["machines"]:
        script = lab.script(f"neighbours-{machine['name']}")
        assert "\nunit hardway-pod-network.service" in script
        assert "WantedBy=multi-user.target" in script


def test_the_host_itself_knows_the_way_now_and_after_a_reboot(lab: Run) -> None:
    script = lab.named("machines-boot", "command:local:Command").inputs["create"]
    for machine in lab.outputs["machines"]:
        if machine.get("pod_cidr"):
            route = f"ip route replace {machine['pod_cidr']} via {machine['address']}"
            assert f"as_root {route}\n" in script
            assert f"ExecStart=/usr/bin/env {route}\n" in script


def test_nft_takes_the_table(lab: Run, tmp_path: Path, tools: NodeTools) -> None:
    for machine in lab.outputs["machines"]:
        if machine.get("pod_cidr"):
            file = tmp_path / f"{machine['name']}.nft"
            file.write_text(lab.file(f"neighbours-{machine['name']}", TABLE))
            result = tools.run("nft", "-c", "-f", str(file))
            assert result.returncode == 0, result.stderr


def test_only_workers_masquerade_and_only_what_leaves_the_lab(lab: Run) -> None:
    for machine in lab.outputs["machines"]:
        step = f"neighbours-{machine['name']}"
        if not machine.get("pod_cidr"):
            assert TABLE not in lab.files(step)
            continue
        (rule,) = (line.split() for line in lab.file(step, TABLE).splitlines() if "masquerade" in line)
        assert rule[:3] == ["ip", "saddr", machine["pod_cidr"]]
        kept = [IPv4Network(word.strip(",")) for word in rule if "/" in word][1:]
        for other in lab.outputs["machines"]:
            assert any(IPv4Address(other["address"]) in each for each in kept)
            assert not other.get("pod_cidr") or any(IPv4Network(other["pod_cidr"]).subnet_of(each) for each in kept)
