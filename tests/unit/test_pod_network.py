"""Routes between the workers' pods, and the masquerade of what leaves the lab."""

import re
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

from unit.mocked_engine import Run
from unit.node_tools import NodeTools

HOST_ROUTES = ("machines-boot", "machines-host")
TABLE = "/etc/hardway/masquerade.nft"
ROUTES = "/etc/hardway/pod-routes"


def routes(batch: str) -> set[tuple[str, str]]:
    words = [line.split() for line in batch.splitlines() if line]
    assert all(each[:2] == ["route", "replace"] for each in words)
    return {(each[2], each[4]) for each in words}


def encapsulates(lab: Run) -> bool:
    return any(
        '"vxlan.calico"' in lab.script(each.name)
        for each in lab.resources
        if "calico-network" in each.name and not each.is_component
    )


def has_calico(lab: Run) -> bool:
    return "calicoctl" in lab.outputs["versions"]


def test_every_machine_has_routes_to_the_pods_of_other_workers(lab: Run) -> None:
    machines = lab.outputs["machines"]
    if of_network := lab.of_type("gcp:compute/route:Route"):
        # The network does it for all; an instance reaches no neighbour but through it.
        assert {(each.inputs["destRange"], each.inputs["nextHopIp"]) for each in of_network} == {
            (each["pod_cidr"], each["address"]) for each in machines if each.get("pod_cidr")
        }
        assert not any(lab.file(f"neighbours-{machine['name']}", ROUTES).strip() for machine in machines)
        return
    for machine in machines:
        expected = {
            (other["pod_cidr"], other["address"])
            for other in machines
            if other.get("pod_cidr") and other["name"] != machine["name"]
        }
        # Between workers it is Calico that knows the way, if it encapsulates.
        if machine.get("pod_cidr") and encapsulates(lab):
            expected = set()
        assert routes(lab.file(f"neighbours-{machine['name']}", ROUTES)) == expected


def test_routes_are_restored_at_boot(lab: Run) -> None:
    for machine in lab.outputs["machines"]:
        script = lab.script(f"neighbours-{machine['name']}")
        assert "\nunit hardway-pod-network.service" in script
        assert "WantedBy=multi-user.target" in script


def test_pulumi_host_has_routes_now_and_after_a_reboot(lab: Run) -> None:
    if not (boot := [each for each in lab.of_type("command:local:Command") if each.name in HOST_ROUTES]):
        assert lab.substrate in ("Gcp", "Machines"), "only a lab that is not on the Pulumi host needs no routes there"
        return
    script = boot[0].inputs["create"]
    unit = boot[0].inputs.get("stdin", script)
    for machine in lab.outputs["machines"]:
        if machine.get("pod_cidr"):
            route = f"ip route replace {machine['pod_cidr']} via {machine['address']}"
            assert f"as_root {route}\n" in script
            assert re.search(rf"^ExecStart(Post)?=/\S+ .*{re.escape(route)}\b", unit, re.M)


def test_nft_accepts_the_table(lab: Run, tmp_path: Path, tools: NodeTools) -> None:
    """One process reads the tables of all workers."""
    workers = [each["name"] for each in lab.outputs["machines"] if each.get("pod_cidr")]
    file = tmp_path / "all.nft"
    file.write_text("\n".join(lab.file(f"neighbours-{name}", TABLE) for name in workers))
    result = tools.run("nft", "-c", "-f", str(file))
    assert result.returncode == 0, result.stderr


def test_only_workers_masquerade_and_only_traffic_that_leaves_the_lab(lab: Run) -> None:
    for machine in lab.outputs["machines"]:
        step = f"neighbours-{machine['name']}"
        if not machine.get("pod_cidr"):
            assert TABLE not in lab.files(step)
            continue
        if has_calico(lab):
            assert "masquerade" not in lab.file(step, TABLE), "twice: Calico's pools do it"
            continue
        (rule,) = (line.split() for line in lab.file(step, TABLE).splitlines() if "masquerade" in line)
        assert rule[:3] == ["ip", "saddr", machine["pod_cidr"]]
        kept = [IPv4Network(word.strip(",")) for word in rule if "/" in word][1:]
        for other in lab.outputs["machines"]:
            assert any(IPv4Address(other["address"]) in each for each in kept)
            assert not other.get("pod_cidr") or any(IPv4Network(other["pod_cidr"]).subnet_of(each) for each in kept)


def test_pods_reach_the_metadata_address_for_dns_only(lab: Run) -> None:
    for machine in lab.outputs["machines"]:
        if machine.get("pod_cidr"):
            table = lab.file(f"neighbours-{machine['name']}", TABLE)
            chain = table[table.index("chain forward") :].splitlines()
            accept, drop = (line.split() for line in chain if "ip saddr" in line)
            assert accept[:6] == drop[:6] == ["ip", "saddr", machine["pod_cidr"], "ip", "daddr", "169.254.0.0/16"]
            assert accept[6:] == ["meta", "l4proto", "{", "tcp,", "udp", "}", "th", "dport", "53", "accept"]
            assert drop[6:] == ["drop"]
