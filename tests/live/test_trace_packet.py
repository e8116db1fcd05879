"""`trace packet`: what is made of lines that machines of labs have printed (`recorded/trace-packet`)."""

import json
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from small_lab import cluster

from config.machines import Role
from live.cluster import Cluster, LiveMachine
from live.probe import parse as parse_answers
from live.trace import packet_events as events
from live.trace import packet_hops, packet_machines, packet_objects
from live.trace.packet import PacketTrace, lines
from live.trace.packet_hops import Hop, Observed
from live.trace.packet_machines import Facts, Request
from live.trace.packet_objects import Endpoint, Target
from toolchain.errors import ToolchainError

RECORDED = Path(__file__).with_name("recorded") / "trace-packet"
WORKERS = {
    name: LiveMachine(name=name, roles=frozenset({Role.WORKER}), address=address)
    for name, address in {"worker-0": "10.141.0.20", "worker-1": "10.141.0.21"}.items()
}
ANSWERED = Request(connected=True, status=200, seconds=(0.002, 0.004), error="")
TIMED_OUT = Request(connected=False, status=0, seconds=(0, 3.1), error="(28) Connection timed out")
REFUSED = Request(connected=False, status=0, seconds=(0, 0.001), error="(7) Failed to connect")

# The same Pod after its machine was started again.
MOVED = Endpoint(address="10.142.1.6", port=8080, pod="shop/web", machine=WORKERS["worker-1"])


def facts(mode: str, machine: str) -> Facts:
    answers = parse_answers((RECORDED / f"{mode}-{machine}.facts").read_text(), seconds=1)
    return packet_machines.read_facts(WORKERS[machine], answers)


def target(**changed: Any) -> Target:
    web = Endpoint(address="10.142.1.5", port=8080, pod="shop/web", machine=WORKERS["worker-1"])
    given = {
        "pod": "shop/client",
        "pod_address": "10.142.0.5",
        "machine": WORKERS["worker-0"],
        "service": "shop/web",
        "address": "10.143.0.143",
        "port": 80,
        "headless": False,
        "tls": False,
        "endpoints": [web],
    }
    return Target(**{**given, **changed})


def observed(case: str, request: Request, *, mode: str = "nftables", **changed: Any) -> Observed:
    followed = target(**changed)
    names = [machine.name for machine in followed.machines]
    return Observed(
        target=followed,
        port=20000,
        facts={name: facts(mode, name) for name in names},
        seen={
            name: packet_machines.read_seen(name, (RECORDED / f"{case}-{name}.watch").read_text(), "") for name in names
        },
        request=request,
    )


def found(case: str, request: Request, **changed: Any) -> list[Hop]:
    return packet_hops.hops(observed(case, request, **changed))


def places(hops: list[Hop], part: str) -> list[tuple[str, str]]:
    return [(hop.machine, hop.interface) for hop in hops if hop.part == part]


def test_a_request_and_its_answer_pass_each_interface_in_order() -> None:
    hops = found("nftables", ANSWERED)
    assert places(hops, "request") == [
        ("shop/client", "eth0"),
        ("worker-0", "veth2707b0c3"),
        ("worker-0", "cni0"),
        ("worker-0", "cni0"),
        ("worker-0", ""),
        ("worker-0", "eth0"),
        ("worker-0", "eth0"),
        ("worker-1", "eth0"),
        ("worker-1", "cni0"),
        ("worker-1", "vethdc5ebabf"),
    ]
    assert places(hops, "answer") == [
        ("shop/web", ""),
        ("worker-1", "vethdc5ebabf"),
        ("worker-1", "cni0"),
        ("worker-1", "eth0"),
        ("worker-1", "eth0"),
        ("worker-0", "eth0"),
        ("worker-0", "cni0"),
        ("worker-0", "cni0"),
        ("worker-0", "veth2707b0c3"),
        ("shop/client", ""),
    ]
    assert not any(hop.ended for hop in hops)


def test_the_rules_that_chose_the_endpoint_are_the_evidence() -> None:
    """A rule of another Service, or one that the packet only passed."""
    dnat = next(hop for hop in found("nftables", ANSWERED) if "DNAT" in hop.what)
    assert "10.143.0.143:80 becomes 10.142.1.5:8080, the Pod shop/web" in dnat.what
    assert dnat.evidence[0] == "ip kube-proxy nat-prerouting: jump services"
    assert dnat.evidence[1].endswith("vmap @service-ips (goto service-452DNVGS-shop/web/tcp/)")
    assert dnat.evidence[2].endswith("dnat ip to numgen random mod 1 map { 0 : 10.142.1.5 . 8080 }")


def test_the_entry_of_connection_tracking_has_both_directions() -> None:
    entry = next(hop for hop in found("nftables", ANSWERED) if "connection tracking keeps" in hop.what).evidence[0]
    assert "src=10.142.0.5 dst=10.143.0.143" in entry and "src=10.142.1.5 dst=10.142.0.5" in entry


def test_the_answer_has_the_address_of_the_service_again() -> None:
    hops = found("nftables", ANSWERED)
    back = next(hop for hop in hops if "translates back" in hop.what)
    assert back.evidence[0].startswith("10.142.1.5:8080 > 10.142.0.5:")
    assert hops[-2].evidence[0].startswith("10.143.0.143:80 > 10.142.0.5:")


def test_the_name_is_what_dns_answers() -> None:
    first = found("nftables", ANSWERED)[0]
    assert (first.part, first.what) == ("name", "CoreDNS resolves web: 10.143.0.143")


def test_a_rule_that_drops_ends_the_path() -> None:
    hops = found("dropped", TIMED_OUT)
    assert places(hops, "answer") == []
    last = hops[-1]
    assert last.ended and (last.machine, last.what) == ("worker-1", "the packet ends here: a rule drops it")
    assert last.evidence == ["ip closed f: tcp dport 8080 drop", "curl: (28) Connection timed out"]


def test_a_repeated_packet_is_shown_once() -> None:
    """Two first packets by the kernel's retransmission, as if they had gone twice through the machine."""
    lines = (RECORDED / "dropped-worker-0.watch").read_text()
    assert lines.count("request packet: iif") > 1
    assert len([hop for hop in found("dropped", TIMED_OUT) if "comes out of the Pod" in hop.what]) == 1


def test_a_port_that_nothing_listens_on_is_told_from_a_lost_packet() -> None:
    closed = Endpoint(address="10.142.1.5", port=8081, pod="shop/web", machine=WORKERS["worker-1"])
    last = found("closed", REFUSED, endpoints=[closed])[-1]
    assert last.ended and last.what == "the connection was refused: nothing listens on 10.142.1.5:8081"


def test_a_packet_that_leaves_one_machine_and_does_not_arrive_ended_between_them() -> None:
    seen = observed("nftables", TIMED_OUT)
    lost = {"worker-1": replace(seen.seen["worker-1"], visits=[])}
    out = [visit for visit in seen.seen["worker-0"].visits if visit.direction == "request"]
    seen.seen = {"worker-0": replace(seen.seen["worker-0"], visits=out), **lost}
    last = packet_hops.hops(seen)[-1]
    assert last.what == "the packet ends behind eth0: it left worker-0 and did not arrive at worker-1"


def test_a_packet_without_a_route_ends_before_it_is_forwarded() -> None:
    """The route to the Service, which no packet takes: the endpoint has been chosen before."""
    seen = observed("no-route", REFUSED, pod_address="10.142.0.6", endpoints=[MOVED])
    assert seen.questions() == [("worker-0", ("10.142.1.6", "10.142.0.6", "cni0"))]
    seen.routes = dict.fromkeys(seen.questions(), "RTNETLINK answers: No route to host")
    last = packet_hops.hops(seen)[-1]
    assert (last.machine, last.what) == ("worker-0", "the packet ends here: the machine does not pass it on")
    assert last.evidence[1] == "ip route get: RTNETLINK answers: No route to host"


def test_a_pod_that_is_chosen_by_its_own_service_is_masqueraded() -> None:
    myself = Endpoint(address="10.142.0.5", port=8080, pod="shop/client", machine=WORKERS["worker-0"])
    hops = found("hairpin", ANSWERED, endpoints=[myself], service="shop/myself", address="10.143.0.36")
    masquerade = next(hop for hop in hops if "masquerade (SNAT)" in hop.what)
    assert "the source 10.142.0.5:26670 becomes 10.142.0.1:" in masquerade.what
    assert "masquerade fully-random" in masquerade.evidence[1]
    assert any("undoes the masquerade" in hop.what for hop in hops if hop.part == "answer")


def on_calico() -> list[Hop]:
    """kube-proxy with iptables, Pods by Calico with VXLAN."""
    web = replace(MOVED, address="10.142.1.3")
    return found("calico", ANSWERED, mode="calico", pod_address="10.142.0.4", address="10.143.0.236", endpoints=[web])


def test_rules_of_iptables_are_the_evidence() -> None:
    """The chains of Calico before them, one of which has the word dnat in its name."""
    dnat = next(hop for hop in on_calico() if "DNAT" in hop.what)
    assert "10.143.0.236:80 becomes 10.142.1.3:8080" in dnat.what
    chains = [line.split()[2].split("-")[:2] for line in dnat.evidence]
    assert chains == [["PREROUTING:"], ["KUBE", "SERVICES:"], ["KUBE", "SVC"], ["KUBE", "SEP"]]
    assert dnat.evidence[-1].endswith("dnat to 10.142.1.3:8080")


def test_a_tunnel_is_shown_with_the_packet_that_carries_it() -> None:
    hops = on_calico()
    assert [place for place in places(hops, "request") if place[1] in ("vxlan.calico", "eth0")] == [
        ("shop/client", "eth0"),
        ("worker-0", "vxlan.calico"),
        ("worker-0", "vxlan.calico"),
        ("worker-0", "eth0"),
        ("worker-1", "eth0"),
        ("worker-1", "vxlan.calico"),
    ]
    outer = [hop for hop in hops if "VXLAN" in hop.what]
    assert outer[0].what == "it leaves in a packet of VXLAN from worker-0 to worker-1"
    assert outer[0].evidence[0].endswith(" > 10.141.0.21:4789 UDP")
    assert outer[-1].what == "it arrives in a packet of VXLAN from worker-1 to worker-0"


def test_a_machine_without_nft_is_named() -> None:
    seen = observed("nftables", ANSWERED)
    seen.seen = {**seen.seen, "worker-1": packet_machines.read_seen("worker-1", "missing nft is not installed\n", "")}
    hops = packet_hops.hops(seen)
    assert [hop.what for hop in hops if hop.machine == "worker-1"] == ["not watched here: nft is not installed"]


def test_an_output_that_is_cut_is_no_answer() -> None:
    """A connection that broke: what was seen until then looks like a packet that was lost."""
    whole = (RECORDED / "nftables-worker-0.watch").read_text()
    with pytest.raises(ToolchainError, match="worker-0 did not say"):
        packet_machines.read_seen("worker-0", whole.removesuffix("done\n"), "Connection closed\n")


def test_headers_that_nft_prints_as_numbers() -> None:
    """Leading zeros that nft leaves out: port 80 is 0x0050."""
    line = (
        'trace id 1 netdev hardway-trace-packet egress packet: oif "vethp" '
        "@nh,0,160 0x4500003c000040003e0628a30a0800070a090002 @th,0,160 0x50afcb3cef44f96e1187fca012fe8814480000"
    )
    (visit,) = events.parse([line])
    assert str(visit.packet) == "10.8.0.7:80 > 10.9.0.2:45003 SYN,ACK"


def test_traces_of_others_are_ignored() -> None:
    """Somebody else's rule `meta nftrace set 1` on the same machine."""
    packet = "ip saddr 1.1.1.1 ip daddr 2.2.2.2 tcp sport 1 tcp dport 2 tcp flags == syn"
    line = f'trace id 2 ip mine c packet: iif "eth0" {packet}'
    assert events.parse([line, "trace id 2 ip mine c policy accept"]) == []


def test_the_form_of_programs_and_of_mermaid() -> None:
    hops = found("nftables", ANSWERED)
    trace = PacketTrace(
        stack="paper",
        pod="shop/client",
        service="shop/web",
        address="10.143.0.143:80",
        endpoint="10.142.1.5:8080",
        proxy_mode="nftables",
        pod_network="routes",
        answered=True,
        hops=hops,
    )
    assert len(json.loads(trace.json())["hops"]) == len(hops)
    drawn = trace.mermaid().splitlines()
    assert drawn[0] == "sequenceDiagram" and "CoreDNS resolves web: 10.143.0.143" in trace.mermaid()
    assert sum("->>" in line for line in drawn) == len(hops)
    printed = list(lines(trace))
    assert printed[-1] == "shop/client to shop/web (10.143.0.143:80): answered by 10.142.1.5:8080, 21 hops."
    assert printed[1].split()[:4] == ["1", "shop/client", "CoreDNS", "resolves"]


POD = {
    "metadata": {"name": "client"},
    "spec": {"nodeName": "worker-0"},
    "status": {"phase": "Running", "podIP": "10.200.0.3"},
}
SERVICE = {"metadata": {}, "spec": {"clusterIP": "10.32.0.7", "ports": [{"port": 80, "protocol": "TCP"}]}}
SLICE = {
    "addressType": "IPv4",
    "ports": [{"name": "", "port": 8080, "protocol": "TCP"}],
    "endpoints": [
        {
            "addresses": ["10.200.0.9"],
            "conditions": {"ready": True},
            "nodeName": "worker-0",
            "targetRef": {"kind": "Pod", "namespace": "shop", "name": "web"},
        }
    ],
}


def read(lab: Cluster, pod: Any = POD, service: Any = SERVICE, slices: Any = (SLICE,)) -> Target:
    return packet_objects.read(lab, "shop/client", pod, "shop/web", service, slices)


def with_spec(thing: dict[str, Any], **spec: Any) -> dict[str, Any]:
    return {**thing, "spec": {**thing["spec"], **spec}}


@pytest.mark.parametrize(
    ("pod", "service", "slices", "said"),
    [
        ({}, {}, [], "there is no Pod shop/client\n  there is no Service shop/web"),
        (with_spec(POD, hostNetwork=True), SERVICE, [SLICE], "the Pod shop/client is on its machine's network"),
        ({**POD, "status": {"phase": "Pending"}}, SERVICE, [SLICE], "does not run, it is Pending"),
        (with_spec(POD, nodeName="elsewhere"), SERVICE, [SLICE], "elsewhere, which is no machine of this lab"),
        (POD, SERVICE, [], "the Service shop/web has no endpoint that is ready"),
        (POD, with_spec(SERVICE, ports=[{"port": 53, "protocol": "UDP"}]), [SLICE], "has no TCP port"),
        (POD, {"spec": {"type": "ExternalName", "externalName": "a.example"}}, [], "is of type ExternalName"),
    ],
)
def test_what_cannot_be_traced_is_said_at_once(tmp_path: Path, pod: Any, service: Any, slices: Any, said: str) -> None:
    with pytest.raises(ToolchainError) as error:
        read(cluster(tmp_path), pod, service, slices)
    assert said in str(error.value)
    assert "nothing was changed" in str(error.value)


def test_an_endpoint_that_is_not_ready_is_none(tmp_path: Path) -> None:
    unready = {**SLICE["endpoints"][0], "conditions": {"ready": False}}  # type: ignore[dict-item]
    with pytest.raises(ToolchainError, match="no endpoint that is ready"):
        read(cluster(tmp_path), slices=[{**SLICE, "endpoints": [unready]}])


def test_a_headless_service_is_followed_to_an_endpoint(tmp_path: Path) -> None:
    followed = read(cluster(tmp_path), service=with_spec(SERVICE, clusterIP="None"))
    assert followed.headless and (followed.address, followed.port) == ("10.200.0.9", 8080)


def test_the_api_is_an_endpoint_on_a_machine(tmp_path: Path) -> None:
    """Endpoints without a Pod and without a node, as those of `kubernetes`."""
    api = {
        "addressType": "IPv4",
        "ports": [{"name": "https", "port": 6443}],
        "endpoints": [{"addresses": ["10.0.0.10"]}],
    }
    service = with_spec(SERVICE, ports=[{"name": "https", "port": 443}])
    followed = read(cluster(tmp_path), service=service, slices=[api])
    assert [machine.name for machine in followed.machines] == ["worker-0", "controller-0"] and followed.tls


@pytest.mark.parametrize("name", ["Shop/web", "a/b/c", "/web", "web/", "-o", "web;reboot"])
def test_words_that_are_no_names_reach_no_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(packet_objects, "ask_api", lambda *_: pytest.fail("the API was asked"))
    with pytest.raises(ToolchainError, match="is not the name of a Pod"):
        packet_objects.find(cluster(tmp_path), name, "web", namespace="default")


def test_the_watch_is_a_script_that_bash_reads() -> None:
    script = Path(packet_machines.__file__).with_name("packet_watch.sh")
    assert subprocess.run(["bash", "-n", script], check=False).returncode == 0
