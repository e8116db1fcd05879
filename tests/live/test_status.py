"""What a lab's machines say, put together and judged."""

import dataclasses
import json
import subprocess
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

import pytest
from small_lab import (
    CERTIFICATES,
    HEALTHY_OBJECTS,
    NOW,
    cluster,
    dead,
    issued,
    lease,
    member_list,
    member_state,
    node,
    objects,
    ok,
    saying,
    well,
)

from config.chapters import NAMES
from config.machines import Role
from live import probe
from live import status as status_of_lab
from live.cluster import Cluster
from live.probe import Answer, Probe, questions
from live.status import Status, check_health, judge, table
from toolchain.errors import ToolchainError


@pytest.fixture
def lab(tmp_path: Path) -> Cluster:
    return cluster(tmp_path)


def judged(lab: Cluster, probes: Sequence[Probe], *, endpoint: str = "ok") -> Status:
    return judge(lab, probes, endpoint_says=endpoint, certificates=CERTIFICATES, now=NOW)


@pytest.mark.parametrize("controllers", [1, 3])
def test_a_lab_where_all_is_well_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str], controllers: int) -> None:
    lab = cluster(tmp_path, controllers=controllers)
    status = judged(lab, well(lab))
    assert status.problems == []
    assert status.well
    table.show(status)
    assert capsys.readouterr().out.splitlines()[-1] == "The lab is healthy."


@pytest.mark.parametrize("until", NAMES[:-1])
def test_of_a_part_of_a_lab_only_that_part_is_asked_and_judged(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], until: str
) -> None:
    """What a later chapter creates is not there: no answer to it is missing."""
    lab = dataclasses.replace(cluster(tmp_path), until=until)
    status = judged(lab, well(lab))
    assert status.problems == []
    table.show(status)
    assert capsys.readouterr().out.splitlines()[-1] == f"The lab is healthy, up to the chapter {until}."
    asked = {question for machine in lab.machines for question in questions(lab, machine)}
    assert ("etcd" in asked) == lab.has("etcd") and ("readyz" in asked) == lab.has("control-plane")
    assert ("backends" in asked) == lab.has("load-balancer") and ("routes" in asked) == lab.has("pod-network")


def test_the_json_has_the_documented_shape(lab: Cluster) -> None:
    said = json.loads(judged(lab, well(lab)).json())
    assert list(said) == [
        "stack",
        "time",
        "until",
        "well",
        "problems",
        "endpoint",
        "machines",
        "etcd",
        "leases",
        "api_servers",
        "backends",
        "seen_by",
        "nodes",
        "nodes_not_listed",
        "dns",
        "renewal_days",
        "certificates",
        "firewalls",
        "pod_network",
        "snapshots",
    ]
    assert said["stack"] == "paper"
    assert said["time"] == "2026-11-21T12:00:00Z"
    assert said["seen_by"] == "controller-0"
    assert said["endpoint"] == {
        "url": "https://10.0.0.5:6443",
        "ready": True,
        "message": "",
        "held_by": ["load-balancer-0"],
    }
    assert said["etcd"][1] == {
        "machine": "controller-1",
        "name": "controller-1",
        "id": "a2",
        "role": "leader",
        "healthy": True,
        "message": "",
        "term": 4,
        "revision": 1162,
        "raft_index": 2000,
        "db_size": 4096000,
        "db_size_in_use": 2048000,
        "alarms": [],
        "version": "3.6.14",
        "cluster_id": "c1",
        "hash": 77,
        "compacted": 900,
        "hash_message": "",
    }
    assert [each["role"] for each in said["etcd"]] == ["follower", "leader", "follower"]
    assert said["leases"][0]["holder"] == "controller-2"
    assert said["leases"][0]["age_seconds"] == 1.5
    assert said["backends"] == [
        {
            "balancer": "load-balancer-0",
            "backend": "api-servers",
            "server": "controller-0",
            "up": True,
            "status": "UP",
            "check": "L7OK",
        }
    ]
    assert said["nodes"][0]["version"] == "v1.36.4"
    assert said["certificates"][0]["days_left"] == 365.0
    assert said["certificates"][0]["ends_soon"] is False


def test_a_dead_controller_is_a_row_and_the_others_are_asked(lab: Cluster, capsys: pytest.CaptureFixture[str]) -> None:
    status = judged(lab, dead(well(lab), "controller-0"))
    assert [each.reached for each in status.machines] == [True, False, True, True, True]
    assert status.seen_by == "controller-1"
    gone = status.etcd[0]
    assert (gone.machine, gone.id, gone.healthy, gone.role) == ("controller-0", "a1", False, None)
    assert gone.message == status.api_servers[0].message == "No route to host"
    assert status.problems == ["controller-0 does not answer: No route to host"]
    table.show(status)
    assert capsys.readouterr().out.splitlines()[-2:] == [
        "Not healthy:",
        "  controller-0 does not answer: No route to host",
    ]


def test_a_lab_without_any_machine_is_a_status_and_no_traceback(
    lab: Cluster, capsys: pytest.CaptureFixture[str]
) -> None:
    status = judged(lab, dead(well(lab), *(machine.name for machine in lab.machines)), endpoint="no answer")
    assert not status.well
    assert status.seen_by is None
    assert "no etcd member that answers is the leader" in status.problems
    assert "no API server lists leases and nodes" in status.problems
    assert "the endpoint's address is held by no machine that answers" in status.problems
    json.loads(status.json())
    table.show(status)
    assert "nodes: no machine could be asked" in capsys.readouterr().out


def test_etcd_without_a_quorum_still_tells_its_numbers(lab: Cluster) -> None:
    probes = dead(well(lab), "controller-1", "controller-2")
    probes = saying(probes, "controller-0", "health", ok('{"health":"false","reason":"RAFT NO LEADER"}'))
    alone = ok(member_state("controller-0", leader="nobody", errors=["etcdserver: no leader"]))
    status = judged(lab, saying(probes, "controller-0", "etcd", alone))
    member = status.etcd[0]
    assert (member.healthy, member.role, member.revision) == (False, None, 1161)
    assert member.message == "RAFT NO LEADER"
    assert "no etcd member that answers is the leader" in status.problems


def test_alarms_learners_and_strange_members_are_not_well(lab: Cluster) -> None:
    full = ok(member_state("controller-0", errors=["memberID:161 alarm:NOSPACE "]))
    learner = ok(member_state("controller-2", isLearner=True))
    probes = saying(saying(well(lab), "controller-0", "etcd", full), "controller-2", "etcd", learner)
    latest = ok(member_list("controller-0", "controller-1", "controller-2", unknown=255))
    status = judged(lab, saying(probes, "controller-2", "members", latest))
    assert status.etcd[0].alarms == ("NOSPACE",)
    assert status.etcd[2].role == "learner"
    assert status.problems == [
        "the etcd member controller-0 has raised the alarm NOSPACE",
        "the etcd member controller-2 is still a learner",
        "the etcd member unknown: the lab has no machine for it",
    ]


@pytest.mark.parametrize(
    ("machine", "question", "answer", "problem"),
    [
        ("worker-0", "units", ok("active\nfailed\nactive"), "kubelet.service on worker-0 does not run"),
        ("worker-0", "failed", ok("x.service loaded failed failed X"), "x.service on worker-0 does not run"),
        (
            "controller-2",
            "readyz",
            ok("[+]ping ok\n[-]etcd failed: reason withheld\n[-]etcd-readiness failed: x\n500"),
            "the API server on controller-2: not ready: etcd, etcd-readiness",
        ),
        ("controller-2", "readyz", ok("Unauthorized\n401"), "the API server on controller-2: /readyz answers 401"),
        (
            "controller-2",
            "readyz",
            Answer(status=7, out="\n000", error="curl: (7) Failed to connect"),
            "the API server on controller-2: curl: (7) Failed to connect",
        ),
        (
            "load-balancer-0",
            "backends",
            ok("# pxname,svname,status,check_status,last_chk\napi-servers,controller-0,DOWN,* L7STS,"),
            "load-balancer-0: controller-0 in api-servers is DOWN (L7STS)",
        ),
        (
            "load-balancer-0",
            "backends",
            Answer(status=1, out="", error="socat: No such file"),
            "HAProxy on load-balancer-0 does not report its state: socat: No such file",
        ),
        (
            "load-balancer-0",
            "addresses",
            ok("2: eth0    inet 10.0.0.55/24"),
            "the endpoint's address is held by no machine that answers",
        ),
        (
            "worker-0",
            "addresses",
            ok("2: eth0    inet 10.0.0.5/24"),
            "the endpoint's address is held by load-balancer-0 and worker-0",
        ),
        (
            "controller-0",
            "objects",
            ok(
                objects(
                    node("worker-0", ready="Unknown"),
                    lease("kube-controller-manager", "controller-2", 1),
                    lease("kube-scheduler", "controller-0", 1),
                )
            ),
            "the node worker-0 is not Ready: PLEG",
        ),
        (
            "controller-0",
            "objects",
            ok(HEALTHY_OBJECTS.replace('"Node"', '"Other"')),
            "worker-0 has no Node in the API",
        ),
        (
            "controller-0",
            "objects",
            ok(objects(node("worker-0"), lease("kube-scheduler", "controller-0", 1))),
            "the lease kube-controller-manager never had a holder",
        ),
        (
            "controller-0",
            "objects",
            ok(
                objects(
                    node("worker-0"),
                    lease("kube-controller-manager", "controller-2", 1),
                    lease("kube-scheduler", "controller-0", 40),
                )
            ),
            "the lease kube-scheduler was last renewed 40.0 s ago, by controller-0",
        ),
    ],
)
def test_what_is_not_well_is_said(lab: Cluster, machine: str, question: str, answer: Answer, problem: str) -> None:
    assert judged(lab, saying(well(lab), machine, question, answer)).problems == [problem]


def test_an_api_server_that_is_gone_tells_of_nothing(lab: Cluster) -> None:
    silent = Answer(status=1, out='{"items": []}', error="connection refused")
    status = judged(lab, saying(well(lab), "controller-0", "objects", silent))
    assert status.seen_by == "controller-1"
    assert status.well


def page(*names: str, others: int = 0) -> str:
    """What an API server answers to the question for the first Nodes; its items do not say what they are."""
    items = [{key: value for key, value in node(name).items() if key != "kind"} for name in names]
    return json.dumps({"metadata": {"remainingItemCount": others} if others else {}, "items": items})


def test_the_labs_nodes_are_found_among_many_others(lab: Cluster, capsys: pytest.CaptureFixture[str]) -> None:
    leases = (lease("kube-controller-manager", "controller-2", 1), lease("kube-scheduler", "controller-0", 1))
    probes = saying(well(lab), "controller-0", "objects", ok(objects(*leases)))
    assert judged(lab, saying(probes, "controller-0", "nodes", ok(f"[{page('a', 'b')}]"))).problems == [
        "worker-0 has no Node in the API"
    ]
    # Of one Node kubectl prints no list.
    own = json.dumps(node("worker-0"))
    status = judged(lab, saying(probes, "controller-0", "nodes", ok(f"[{page('a', 'b', others=998)},{own}]")))
    assert status.well
    assert [each.name for each in status.nodes] == ["a", "b", "worker-0"]
    assert status.nodes_not_listed == 997
    table.show(status)
    assert "997 further Nodes belong to no machine of the lab" in capsys.readouterr().out


def test_an_api_server_that_lists_no_nodes_tells_of_nothing(lab: Cluster) -> None:
    status = judged(lab, saying(well(lab), "controller-0", "nodes", Answer(status=1, out="", error="timed out")))
    assert status.seen_by == "controller-1"


@pytest.mark.parametrize(
    ("first", "own", "expected"),
    [
        ('{"metadata":{}}', "", [{"metadata": {}}]),
        ('{"metadata":{"continue":""}}', "", [{"metadata": {"continue": ""}}]),
        ('{"metadata":{"continue":"x"}}', '{"items":[]}', [{"metadata": {"continue": "x"}}, {"items": []}]),
        ('{"metadata":{"continue":"x"}}', "", [{"metadata": {"continue": "x"}}, None]),
    ],
)
def test_own_nodes_are_asked_for_where_there_are_more_than_a_page(
    tmp_path: Path, first: str, own: str, expected: object
) -> None:
    kubectl = tmp_path / "kubectl"
    kubectl.write_text(
        f"#!/bin/sh\ncase $* in *--raw*) printf %s '{first}' ;; *'nodes a b '*) printf %s '{own}' ;; esac\n"
    )
    kubectl.chmod(0o755)
    question = probe._nodes_question(["a", "b"], str(kubectl))
    done = subprocess.run(["bash", "-c", question], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == expected


def test_an_endpoint_that_does_not_answer_is_not_well(lab: Cluster) -> None:
    assert judged(lab, well(lab), endpoint="EOF").problems == ["the endpoint https://10.0.0.5:6443: EOF"]


def test_a_lab_that_has_no_balancer_of_its_own_misses_none(lab: Cluster) -> None:
    """On Google Cloud the endpoint's address is a forwarding rule's."""
    cluster = dataclasses.replace(lab, machines=[each for each in lab.machines if Role.LOAD_BALANCER not in each.roles])
    assert judged(cluster, well(cluster)).problems == []


def test_a_cordoned_node_is_shown_and_is_no_problem(lab: Cluster, capsys: pytest.CaptureFixture[str]) -> None:
    cordoned = objects(
        node("worker-0", unschedulable=True),
        lease("kube-controller-manager", "controller-2", 1),
        lease("kube-scheduler", "controller-0", 1),
    )
    status = judged(lab, saying(well(lab), "controller-0", "objects", ok(cordoned)))
    assert status.well
    table.show(status)
    assert "stay away" in capsys.readouterr().out


@pytest.mark.parametrize(("hours", "days", "soon"), [(720, 29, True), (720, 31, False), (24, 29, False), (24, 1, True)])
def test_certificates_end_soon_when_an_up_would_renew_them(
    lab: Cluster, capsys: pytest.CaptureFixture[str], hours: int, days: int, soon: bool
) -> None:
    lab = dataclasses.replace(lab, stack=dataclasses.replace(lab.stack, early_renewal_hours=hours))
    end = (NOW + timedelta(days=days)).strftime("%Y-%m-%dT%H:%M:%SZ")
    mine = [{"name": "pki-admin", "subject": "CN=admin", "not_after": end}]
    status = judge(lab, well(lab), endpoint_says="ok", certificates=mine, now=NOW)
    assert status.certificates[0].ends_soon is soon
    assert status.well is not soon
    table.show(status)
    said = capsys.readouterr().out
    assert ("certificates that end within" in said) is soon
    assert "`./hardway up` renews" in said


@pytest.mark.parametrize(("days", "soon"), [(29, True), (31, False)])
def test_what_kubeadm_issued_is_known_where_it_lies(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], days: int, soon: bool
) -> None:
    """Certificates of the control plane that end, and a status that knows the stack's only."""
    lab = cluster(tmp_path, controllers=1, features={"kubeadm"})
    end = (NOW + timedelta(days=days)).strftime("%Y-%m-%dT%H:%M:%SZ")
    nodes = objects(node("controller-0"), node("worker-0"), *json.loads(HEALTHY_OBJECTS)["items"][1:])
    probes = saying(well(lab), "controller-0", "objects", ok(nodes))
    probes = saying(probes, "controller-0", "certificates", ok(issued(apiserver=end, gone="")))
    status = judge(lab, probes, endpoint_says="ok", certificates=[], now=NOW)
    (found,) = status.certificates
    assert (found.name, found.subject, found.not_after) == ("apiserver of controller-0", None, end)
    assert found.ends_soon is soon and status.well is not soon, status.problems
    table.show(status)
    said = capsys.readouterr().out
    assert "`kubeadm certs renew all`" in said and "`./hardway up`" not in said
    assert ("certificates that end within" in said) is soon


def test_a_kubeadm_that_tells_nothing_of_certificates_is_a_problem(tmp_path: Path) -> None:
    """A status that calls everything well because it knows of no certificate."""
    lab = cluster(tmp_path, controllers=1, features={"kubeadm"})
    late = Answer(status=124, out="")
    status = judged(lab, saying(well(lab), "controller-0", "certificates", late))
    assert "kubeadm on controller-0 does not report its certificates: no answer within 5 s" in status.problems


class TestProbe:
    def asked(self, *, seconds: int = 5, **questions: str) -> dict[str, Answer]:
        """The answers of a real shell."""
        script = probe.script(questions, seconds=seconds)
        done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True, timeout=20)
        return probe.parse(done.stdout, seconds=seconds)

    def test_each_answer_comes_back_whole(self) -> None:
        answers = self.asked(
            fine="printf 'a b\\n\\n== fake 0\\n!x'", wrong="echo half; echo 'no such thing' >&2; exit 3", silent="true"
        )
        assert answers["fine"] == Answer(status=0, out="a b\n\n== fake 0\n!x")
        assert answers["wrong"] == Answer(status=3, out="half", error="no such thing")
        assert answers["wrong"].why == "no such thing"
        assert answers["silent"] == Answer(status=0, out="")
        assert answers.keys() == {"fine", "wrong", "silent"}

    def test_what_hangs_costs_no_other_answer(self) -> None:
        answers = self.asked(seconds=1, hangs="sleep 60", fine="echo fine")
        assert answers["hangs"].why == "no answer within 1 s"
        assert answers["fine"].out == "fine"

    def test_every_question_of_every_role_is_sound_bash(self, lab: Cluster) -> None:
        for machine in lab.machines:
            for script in [
                *probe.questions(lab, machine).values(),
                probe.script(probe.questions(lab, machine), seconds=5),
            ]:
                subprocess.run(["bash", "-n", "-c", script], check=True)

    def test_only_machines_with_the_role_are_asked(self, lab: Cluster) -> None:
        asked = {machine.name: probe.questions(lab, machine).keys() for machine in lab.machines}
        assert "backends" in asked["load-balancer-0"]
        assert {"etcd", "members", "health", "readyz", "objects"} <= asked["controller-1"]
        assert asked["worker-0"] == {"clock", "units", "failed", "addresses", "routes", "firewall"}

    def test_a_machine_that_is_not_reached_says_why(self, lab: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
        def refused(*_: object, **__: object) -> subprocess.CompletedProcess[str]:
            return subprocess.CompletedProcess([], 255, stdout="", stderr="x\nssh: No route to host\n")

        monkeypatch.setattr(Cluster, "ssh", refused)
        assert probe.probe(lab, lab.machines[0]).missing == "ssh: No route to host"

        def hung(*_: object, **__: object) -> subprocess.CompletedProcess[str]:
            raise subprocess.TimeoutExpired("ssh", 20)

        monkeypatch.setattr(Cluster, "ssh", hung)
        assert probe.probe(lab, lab.machines[0]).missing == "no answer within 20 s"


@pytest.mark.parametrize(
    ("machine", "question", "answer", "problem"),
    [
        ("worker-0", "units", ok("active\nfailed\nactive"), "kubelet.service on worker-0 does not run"),
        ("controller-2", "readyz", ok("Unauthorized\n401"), "the API server on controller-2 is not ready"),
        ("controller-1", "health", Answer(status=7, out=""), "the etcd member on controller-1 is not healthy"),
    ],
)
def test_a_change_begins_only_while_all_works(
    lab: Cluster, monkeypatch: pytest.MonkeyPatch, machine: str, question: str, answer: Answer, problem: str
) -> None:
    monkeypatch.setattr(status_of_lab, "probe_all", well)
    check_health(lab, "Keys are rotated")
    monkeypatch.setattr(status_of_lab, "probe_all", lambda lab: saying(well(lab), machine, question, answer))
    with pytest.raises(ToolchainError, match="the whole lab works; nothing was changed") as refused:
        check_health(lab, "Keys are rotated")
    assert problem in str(refused.value)
    monkeypatch.setattr(status_of_lab, "probe_all", lambda lab: dead(well(lab), machine))
    with pytest.raises(ToolchainError, match=f"{machine} does not answer: No route to host"):
        check_health(lab, "Keys are rotated")


def test_what_a_stage_has_restarted_is_waited_for(lab: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """An API server that is ready a second after the end of the stage: the next one is not begun, and the run fails."""
    late = saying(well(lab), "controller-2", "readyz", ok("Unauthorized\n401"))
    answers = [late, well(lab)]
    monkeypatch.setattr(status_of_lab, "probe_all", lambda lab: answers.pop(0))
    check_health(lab, "Keys are rotated", seconds=30)
    assert answers == []
    monkeypatch.setattr(status_of_lab, "probe_all", lambda lab: late)
    with pytest.raises(ToolchainError, match="the whole lab works; the next stage was not begun"):
        check_health(lab, "Keys are rotated", seconds=0.1)
