"""What a lab's machines say when one thing is broken: `status` has exactly the line of that one."""

import json
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest
from small_lab import (
    CERTIFICATES,
    NOW,
    cluster,
    dead,
    dns_pod,
    lease,
    member_hash,
    member_state,
    node,
    objects,
    ok,
    saying,
    well,
)

from components import etcd_snapshots
from config.machine_paths import POD_ROUTES
from config.machines import Role
from live import probe, status
from live.cluster import Cluster, LiveMachine
from live.pod_network import packets_question
from live.probe import Answer, Probe
from live.status import Status, judge, table

WORKER_1 = LiveMachine(name="worker-1", roles=frozenset({Role.WORKER}), address="10.0.0.21")
OBJECTS = (
    node("worker-0"),
    node("worker-1"),
    lease("kube-controller-manager", "controller-2", 1.5),
    lease("kube-scheduler", "controller-0", 2.0),
    dns_pod("10.200.0.2", "worker-0"),
    dns_pod("10.200.1.2", "worker-1"),
)


@pytest.fixture
def lab(tmp_path: Path) -> Cluster:
    """Three controllers and two workers."""
    made = cluster(tmp_path)
    return Cluster(stack=made.stack, endpoint=made.endpoint, machines=[*made.machines, WORKER_1])


@pytest.fixture
def healthy(lab: Cluster) -> list[Probe]:
    """What all of its machines say when nothing is broken."""
    probes = well(lab)
    for controller in ("controller-0", "controller-1", "controller-2"):
        probes = saying(probes, controller, "objects", ok(objects(*OBJECTS)))
    probes = saying(probes, "worker-0", "packets", ok("source 10.200.0.2\nreached 10.200.1.2"))
    return saying(probes, "worker-1", "packets", ok("source 10.200.1.2\nreached 10.200.0.2"))


def judged(lab: Cluster, probes: Sequence[Probe]) -> Status:
    return judge(lab, probes, endpoint_says="ok", certificates=CERTIFICATES, now=NOW)


def test_nothing_is_broken(lab: Cluster, healthy: list[Probe], capsys: pytest.CaptureFixture[str]) -> None:
    found = judged(lab, healthy)
    assert found.problems == []
    assert [(each.source, each.reached) for each in found.pod_network][-2:] == [
        ("10.200.0.2", ("worker-1",)),
        ("10.200.1.2", ("worker-0",)),
    ]
    assert {each.hash for each in found.etcd} == {77}
    table.show(found)
    assert capsys.readouterr().out.splitlines()[-1] == "The lab is healthy."


LOST = "10.200.0.0/24 10.0.0.20 RTNETLINK answers: Network is unreachable"
ELSEWHERE = "10.200.0.0/24 10.0.0.20 10.200.0.0 via 10.0.0.1 dev eth0 src 10.0.0.21 uid 0"
NO_ROUTE = (
    "worker-1 has no route to the pods of worker-0 (10.200.0.0/24 via 10.0.0.20): "
    "`systemctl restart hardway-pod-network.service` there sets its routes again"
)
SPLIT = "source 10.200.0.2\nlost 10.200.1.2"
DROPS = "nft " + json.dumps(
    {
        "nftables": [
            {"chain": {"family": "inet", "table": "x", "name": "f", "hook": "forward", "policy": "drop", "handle": 1}}
        ]
    }
)


@pytest.mark.parametrize(
    ("broken", "line"),
    [
        ({("worker-1", "routes"): ok(LOST)}, NO_ROUTE),
        ({("worker-1", "routes"): ok(ELSEWHERE)}, NO_ROUTE),
        # A lost route stops packets, too: that is the same problem.
        (
            {
                ("worker-1", "routes"): ok(LOST),
                ("worker-0", "packets"): ok(SPLIT),
                ("worker-1", "packets"): ok("source 10.200.1.2\nlost 10.200.0.2"),
            },
            NO_ROUTE,
        ),
        (
            {("worker-1", "routes"): Answer(status=1, out="", error="bash: /etc/hardway/pod-routes: No such file")},
            "the routes of worker-1 to pods cannot be read: bash: /etc/hardway/pod-routes: No such file",
        ),
        ({("worker-0", "packets"): ok(SPLIT)}, "packets from pods on worker-0 do not reach pods on worker-1"),
        (
            {("worker-0", "packets"): ok(SPLIT), ("worker-1", "packets"): ok("source 10.200.1.2\nlost 10.200.0.2")},
            "pods on worker-0 and pods on worker-1 do not reach each other",
        ),
        (
            {("worker-0", "packets"): Answer(status=124, out="source 10.200.0.2")},
            "no packet can be sent from a pod on worker-0: no answer within 5 s",
        ),
        (
            {("worker-0", "firewall"): ok(DROPS), ("worker-0", "packets"): ok(SPLIT)},
            "worker-0: its firewall drops what it forwards for pods: table inet x, chain f, policy drop. "
            "Let the lab pass: `nft insert rule inet x f ip saddr { 10.200.0.0/16 } accept && "
            "nft insert rule inet x f ip daddr { 10.200.0.0/16 } accept`, and keep that for the next boot",
        ),
        (
            {("controller-2", "hash"): ok(member_hash(78))},
            "the etcd members hold different data: controller-0 and controller-1 hash 77, controller-2 hash 78",
        ),
        (
            {("controller-2", "hash"): ok(member_hash(78, compacted=901))},
            "the data of the etcd members cannot be compared, they have compacted to different revisions: "
            "controller-0 and controller-1 900, controller-2 901",
        ),
        (
            {("controller-2", "hash"): Answer(status=1, out="null", error="Error: permission denied")},
            "the data of the etcd member controller-2 cannot be compared: Error: permission denied",
        ),
        (
            {
                ("controller-2", "etcd"): ok(
                    member_state(
                        "controller-2", header={"cluster_id": 193, "member_id": 163, "revision": 1_000_001_163}
                    )
                ),
                # What the others have is compacted there.
                ("controller-2", "hash"): Answer(status=1, out="null", error="required revision has been compacted"),
            },
            "the etcd member controller-0 is at revision 1161, 1000000002 behind controller-2\n"
            "the etcd member controller-1 is at revision 1162, 1000000001 behind controller-2",
        ),
        (
            {
                ("controller-2", "etcd"): ok(
                    member_state("controller-2", header={"cluster_id": 194, "member_id": 163, "revision": 1163})
                ),
                ("controller-2", "hash"): ok(member_hash(78)),
            },
            "the etcd members belong to different clusters: controller-0 and controller-1 c1, controller-2 c2",
        ),
        (
            {
                ("controller-1", "failed"): ok(
                    "etcd-snapshot.service loaded failed failed A snapshot of this etcd member"
                ),
                ("controller-1", "snapshot"): ok("failed no space left on device"),
            },
            "the last snapshot of etcd on controller-1 failed: no space left on device",
        ),
        (
            {("controller-1", "snapshot"): Answer(status=124, out="")},
            "the last snapshot of etcd on controller-1 is not known: no answer within 5 s",
        ),
    ],
)
def test_what_is_broken_has_its_line_and_nothing_else_does(
    lab: Cluster,
    healthy: list[Probe],
    broken: dict[tuple[str, str], Answer],
    line: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    probes = healthy
    for (machine, question), answer in broken.items():
        probes = saying(probes, machine, question, answer)
    found = judged(lab, probes)
    assert found.problems == line.splitlines()
    table.show(found)
    shown = capsys.readouterr().out.splitlines()
    assert shown[shown.index("Not healthy:") + 1 :] == [f"  {each}" for each in line.splitlines()]


def test_a_dead_worker_explains_lost_packets(lab: Cluster, healthy: list[Probe]) -> None:
    probes = dead(saying(healthy, "worker-0", "packets", ok(SPLIT)), "worker-1")
    assert judged(lab, probes).problems == ["worker-1 does not answer: No route to host"]


def test_a_machine_that_another_checkout_recreated(
    lab: Cluster, healthy: list[Probe], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the words of a real ssh; another reason is another line."""
    refusal = "@ WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED! @\nHost key verification failed.\n"

    def refused(*_: object, **__: object) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess([], 255, stdout="", stderr=refusal)

    monkeypatch.setattr(Cluster, "ssh", refused)
    probes = [probe.probe(lab, each.machine) if each.machine.name == "worker-0" else each for each in healthy]
    (line,) = judged(lab, probes).problems
    assert line.startswith("worker-0 was recreated from another checkout or another state: its SSH host key is not")
    refusal = "root@10.0.0.20: Permission denied (publickey).\n"
    probes = [probe.probe(lab, each.machine) if each.machine.name == "worker-0" else each for each in healthy]
    assert judged(lab, probes).problems == [f"worker-0 does not answer: {refusal.strip()}"]


class Asked:
    """Takes the place of ssh: what each machine is asked in the second round, and answers that a test names."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *hashes: int) -> None:
        self.rounds: list[dict[str, dict[str, str]]] = []
        self._compacted = list(hashes)
        monkeypatch.setattr(status, "ask_more", self)

    def __call__(self, _: Cluster, probes: Sequence[Probe], asked: dict[str, dict[str, str]]) -> list[Probe]:
        self.rounds.append(asked)
        for name, questions in asked.items():
            if "hash" in questions:
                apart = self._compacted[min(len(self.rounds), len(self._compacted)) - 1] if name[-1] == "2" else 0
                probes = saying(probes, name, "hash", ok(member_hash(compacted=900 + apart)))
        return list(probes)


def test_the_second_round_asks_members_for_one_revision_and_nodes_for_packets(
    lab: Cluster, healthy: list[Probe], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = Asked(monkeypatch, 0)
    status._ask_what_depends(lab, healthy)
    (only,) = asked.rounds
    hashed = {name for name, questions in only.items() if "hash" in questions}
    assert hashed == {"controller-0", "controller-1", "controller-2"}
    assert {only[name]["hash"].rpartition(" ")[2] for name in hashed} == {"--rev=1161"}
    assert [name for name, questions in only.items() if "packets" in questions] == ["worker-0", "worker-1"]


@pytest.mark.parametrize(("compacted", "rounds"), [([0], 1), ([1, 0], 2), ([1, 1], 2)])
def test_a_compaction_in_between_is_asked_again_once(
    lab: Cluster, healthy: list[Probe], monkeypatch: pytest.MonkeyPatch, compacted: list[int], rounds: int
) -> None:
    asked = Asked(monkeypatch, *compacted)
    probes = status._ask_what_depends(lab, healthy)
    assert len(asked.rounds) == rounds
    assert bool(judged(lab, probes).problems) is (compacted[-1] == 1)


def test_a_lab_of_one_member_has_nothing_to_compare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lab = cluster(tmp_path, controllers=1)
    asked = Asked(monkeypatch, 0)
    status._ask_what_depends(lab, well(lab))
    assert not [questions for questions in asked.rounds[0].values() if questions]


NSENTER = """#!/bin/bash
space=${1##*/cni-}
case $2 in
  ip) echo "2: eth0    inet 10.200.0.$space/24 scope global eth0" ;;
  bash) echo "$space $4" >>"$TAKEN"; [[ $4 != *10.200.1.2/* ]] ;;
esac
"""


@pytest.mark.parametrize(
    ("features", "spaces", "said"),
    [
        ((), ("7", "2"), ["source 10.200.0.2", "lost 10.200.1.2", "reached 10.200.2.2"]),
        ((), ("7",), ["source 10.200.0.7", "lost 10.200.1.2", "reached 10.200.2.2"]),
        # A policy may forbid a user's pod to send.
        (("calico",), ("7",), []),
        ((), (), []),
    ],
)
def test_packets_are_sent_from_a_pod_of_dns_if_there_is_one(
    tmp_path: Path, features: tuple[str, ...], spaces: tuple[str, ...], said: list[str]
) -> None:
    """The question itself, by a real bash with an nsenter that connects to one pod and to another not."""
    lab = cluster(tmp_path, features=features)
    (tmp_path / "nsenter").write_text(NSENTER)
    (tmp_path / "nsenter").chmod(0o755)
    (tmp_path / "netns").mkdir()
    for space in spaces:
        (tmp_path / "netns" / f"cni-{space}").touch()
    worker = next(each for each in well(lab) if each.machine.name == "worker-0")
    pods = [dns_pod("10.200.0.2", "worker-0"), dns_pod("10.200.1.2", "worker-1"), dns_pod("10.200.2.2", "worker-2")]
    question = packets_question(lab, worker, pods)
    assert question is not None
    done = subprocess.run(
        ["bash", "-c", question.replace("/run/netns", str(tmp_path / "netns"))],
        env={"PATH": f"{tmp_path}:/usr/bin:/bin", "TAKEN": str(tmp_path / "taken")},
        capture_output=True,
        text=True,
        timeout=20,
        check=True,
    )
    # They are tried side by side.
    assert sorted(done.stdout.splitlines()) == sorted(said)


def test_a_node_is_asked_for_packets_only_where_a_pod_on_another_node_may_answer(lab: Cluster) -> None:
    probes = {each.machine.name: each for each in well(lab)}
    alone = [dns_pod("10.200.0.2", "worker-0")]
    assert packets_question(lab, probes["worker-0"], alone) is None
    assert packets_question(lab, probes["controller-0"], alone) is None
    going = dns_pod("10.200.1.2", "worker-1")
    going["metadata"]["deletionTimestamp"] = "2026-11-21T12:00:00Z"
    starting = dns_pod("10.200.1.3", "worker-1")
    starting["status"]["conditions"][0]["status"] = "False"
    assert packets_question(lab, probes["worker-0"], [going, starting]) is None


def test_routes_are_those_of_the_machine_and_as_its_kernel_has_them(lab: Cluster, tmp_path: Path) -> None:
    """The question itself, by a real bash with an ip that has one of two routes; the last line has no newline."""
    (tmp_path / "ip").write_text(
        '#!/bin/bash\n[ "$4" = 10.200.0.0 ] && echo "10.200.0.0 via 10.0.0.20 dev eth0" && exit\n'
        'echo "RTNETLINK answers: Network is unreachable" >&2\nexit 2\n'
    )
    (tmp_path / "ip").chmod(0o755)
    table = "\n".join(f"route replace 10.200.{n}.0/24 via 10.0.0.2{n} proto 240" for n in (0, 1))
    (tmp_path / "pod-routes").write_text(table)
    question = probe.questions(lab, lab.machines[0])["routes"]
    done = subprocess.run(
        ["bash", "-c", question.replace("/etc/hardway/pod-routes", str(tmp_path / "pod-routes"))],
        env={"PATH": f"{tmp_path}:/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=20,
        check=True,
    )
    assert done.stdout.splitlines() == [
        "10.200.0.0/24 10.0.0.20 10.200.0.0 via 10.0.0.20 dev eth0",
        "10.200.1.0/24 10.0.0.21 RTNETLINK answers: Network is unreachable",
    ]


def test_status_asks_for_what_the_program_makes() -> None:
    """`live` does not import the program, which takes half a second: its names stand there once more."""
    assert probe.SNAPSHOT_SERVICE == etcd_snapshots._SERVICE
    assert POD_ROUTES in probe._ROUTES
