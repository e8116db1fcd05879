"""`hardway view`: lines of machines, events between two moments, the large lines, the page, the server."""

import asyncio
import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from small_lab import cluster, own_backend

from config.machines import Role
from lab.polling import eventually
from live import cluster as live_cluster
from live.cluster import Cluster
from live.https_api import Api, ApiError
from live.status.certificates import CertificateStatus
from live.view import machines, observer, server
from live.view.api import Watch
from live.view.events import Event, events
from live.view.machines import Facts, Follower, Program
from live.view.now import (
    FOLLOWER,
    LEADER,
    BackendNow,
    LabNow,
    LeaseNow,
    MachineNow,
    MemberNow,
    NodeNow,
    PodNow,
    ServiceNow,
    machine_now,
    member_now,
    pod_now,
)
from live.view.page import PARTS, ROWS, Page, Timeline
from live.view.tiles import Tiles
from toolchain import exclusive, paths

AT = datetime(2026, 11, 29, 12, 0, 0)


def machine(name: str, *, answers: bool | None = True, **states: str) -> MachineNow:
    programs = tuple(
        Program(name=f"{each.replace('_', '-')}.service", state=state, pid="17") for each, state in states.items()
    )
    return MachineNow(name=name, roles=("controller",), address="10.0.0.10", answers=answers, programs=programs)


def member(name: str, role: str, term: int = 7, *, answers: bool = True) -> MemberNow:
    return MemberNow(machine=name, answers=answers, role=role, term=term, message="" if answers else "refused")


LAB = LabNow(
    machines=(
        machine("controller-0", etcd="active", kube_scheduler="active"),
        machine("controller-1", etcd="active", kube_scheduler="active"),
    ),
    members=(member("controller-0", LEADER), member("controller-1", FOLLOWER)),
    leases=(LeaseNow(name="kube-scheduler", holder="controller-0", holder_runs=True, renewed=1.0),),
    api_ready=True,
    backends=(BackendNow(balancer="load-balancer-0", server="api/controller-0", status="UP", check="L7OK"),),
    nodes=(NodeNow(name="worker-0", ready=True, schedulable=True, version="v1.36.4"),),
    pods=(PodNow(name="default/web", node="worker-0", state="Running", ready=True, ip="10.200.0.2", restarts=0),),
    services=(ServiceNow(name="default/web", ready=("10.200.0.2",), all=1),),
)


def texts(found: list[Event]) -> list[str]:
    return [f"{each.level} {each.what}: {each.text}" for each in found]


class TestMachines:
    """What a machine prints."""

    def test_lines_add_up_to_facts(self) -> None:
        facts = Facts()
        for line in (
            "units etcd.service=active:12 etcd-snapshot.timer=active:\n",
            "programs kube-proxy=inactive:0\n",
            "etcd 161 162 9 voter\n",
            "backends api/controller-0=UP_1/2:L7OK api/controller-1=DOWN:L4CON\n",
            "holds yes\n",
            "what no version says\n",
        ):
            facts = machines.read(facts, line)
        assert [(each.name, each.runs) for each in facts.programs or ()] == [
            ("etcd.service", True),
            ("etcd-snapshot.timer", True),
            ("kube-proxy", False),
        ]
        assert facts.member == ("161", "162", "9", "voter")
        assert facts.backends == {"api/controller-0": ("UP 1/2", "L7OK"), "api/controller-1": ("DOWN", "L4CON")}
        assert facts.holds is True

    @pytest.mark.parametrize(
        ("line", "role", "answers"),
        [
            ("etcd 161 161 9 voter", LEADER, True),
            ("etcd 161 162 9 voter", FOLLOWER, True),
            ("etcd 161 0 9 voter", "knows no leader", True),
            ("etcd 161 162 9 learner", "learner", True),
            ("etcd - 7 000 Failed to connect to 127.0.0.1", "", False),
        ],
    )
    def test_a_member_is_what_it_says(self, line: str, role: str, answers: bool) -> None:
        found = member_now("controller-0", machines.read(Facts(), line), True)
        assert (found.role, found.answers) == (role, answers)

    @pytest.mark.parametrize(
        ("said", "message"),
        [("7 000 Failed to connect", "connection refused"), ("28 000 Timeout", "no answer"), ("0 503 ", "HTTP 503")],
    )
    def test_why_a_member_does_not_answer(self, said: str, message: str) -> None:
        assert member_now("controller-0", machines.read(Facts(), f"etcd - {said}"), True).message == message

    def test_the_member_of_a_silent_machine_does_not_lead(self) -> None:
        found = member_now("controller-0", machines.read(Facts(), "etcd 161 161 9 voter"), False)
        assert (found.role, found.answers) == ("", False)

    def test_a_machine_that_has_printed_little_is_given_time(self, tmp_path: Path) -> None:
        """Its first lines come late while connections are made."""
        lab = cluster(tmp_path)
        follower = Follower(lab, lab.machine("controller-0"))
        follower.hear(100.0, first=True)
        assert machine_now(follower, 104.0, connecting=10).answers
        assert not machine_now(follower, 106.0, connecting=10).answers

    def test_a_machine_answers_while_it_prints(self, tmp_path: Path) -> None:
        lab = cluster(tmp_path)
        follower = Follower(lab, lab.machine("controller-0"))
        began = follower.began

        def answers(now: float) -> bool | None:
            return machine_now(follower, now, connecting=10).answers

        assert answers(began + 1) is None
        assert answers(began + 11) is False
        follower.message = "Connection refused"
        assert answers(began + 1) is False
        for moment in range(9):
            follower.hear(began + 2 + moment / 4)
        assert answers(began + 4.7) is True
        assert answers(began + 4.8) is False
        # Where lines come late it is given more time.
        follower.hear(began + 5)
        assert answers(began + 6.9) is True
        assert answers(began + 7.1) is False
        # The time without a connection says nothing about that.
        follower.hear(began + 15, first=True)
        assert answers(began + 17.1) is False

    def test_the_script_prints_changes_and_signs_of_life(self, tmp_path: Path) -> None:
        """By a real bash, with false programs: HAProxy's row changes, etcd answers, and a program is missing."""
        tools = tmp_path / "bin"
        tools.mkdir()
        state = tmp_path / "state"
        state.write_text("UP")
        unit = tmp_path / "unit"
        unit.write_text("active")
        row = ",".join(["api", "controller-0", *[""] * 15, "$(cat STATE)", *[""] * 18, "* L7OK", ""])
        body = '{"header":{"member_id":"161"},"leader":"161","raftTerm":"9"}'
        for name, text in {
            "systemctl": f"printf 'Id=haproxy.service\\nActiveState=%s\\nMainPID=5\\n' $(cat {unit})",
            # It says something once, when the unit has failed.
            "journalctl": f"until grep -q failed {unit}; do sleep 0.05; done; echo Failed; exec sleep 60",
            "socat": f'cat >/dev/null; echo "# pxname,svname"; echo "{row}"'.replace("STATE", str(state)),
            "curl": f"echo '{body}'; echo '= 0 200 '; echo '= 7 000 Failed to connect'; sleep 0.5",
            "ip": "echo",
        }.items():
            (tools / name).write_text(f"#!/bin/bash\n{text}\n")
            (tools / name).chmod(0o755)
        lab = cluster(tmp_path)
        script = machines.script(lab, lab.machine("load-balancer-0"))
        given = script.replace("member=''", "member=1").replace("programs=''", "programs=no-such-program")
        given = given.replace(". /etc/etcd/etcdctl.env", ":")
        environment = os.environ | {"PATH": f"{tools}:{os.environ['PATH']}"}
        with subprocess.Popen(["bash", "-c", given], stdout=subprocess.PIPE, text=True, env=environment) as process:
            assert process.stdout is not None
            seen: list[str] = []
            failed_at = 0
            for line in process.stdout:
                seen.append(line.strip())
                if "backends api/controller-0=UP:L7OK" in seen:
                    state.write_text("DOWN")
                # Right after all units were asked: the next time is three seconds away, but for the journal.
                if "backends api/controller-0=DOWN:L7OK" in seen and seen.count(".") % 12 == 1 and not failed_at:
                    unit.write_text("failed")
                    failed_at = seen.count(".")
                if "units haproxy.service=failed:5" in seen:
                    break
                assert seen.count(".") < 100, seen
            # It ends with its reader.
            process.stdout.close()
            assert process.wait(timeout=10) is not None
        assert {"units haproxy.service=active:5", "programs no-such-program=inactive:0", "etcd 161 161 9 voter"} < {
            *seen
        }
        assert "etcd - 7 000 Failed to connect" in seen
        assert seen.count(".") - failed_at < 8, seen
        assert not subprocess.run(["pgrep", "-f", f"{tools}/journalctl"], capture_output=True, check=False).stdout
        assert seen.count("backends api/controller-0=UP:L7OK") == 1


class TestEvents:
    """What changed between two moments."""

    def test_nothing_changed(self) -> None:
        assert events(LAB, LAB) == []

    def test_what_becomes_known_is_no_change(self) -> None:
        assert events(LabNow(), LAB) == []
        unknown = replace(
            LAB,
            machines=tuple(replace(each, answers=None, programs=None) for each in LAB.machines),
            leases=(LeaseNow(name="kube-scheduler"),),
            api_ready=None,
            backends=(),
            nodes=None,
            pods=None,
            services=None,
        )
        assert events(unknown, LAB) == []

    def test_a_lost_leader(self) -> None:
        lost = replace(LAB, members=(member("controller-0", "", answers=False), member("controller-1", FOLLOWER)))
        assert texts(events(LAB, lost)) == [
            "bad etcd: the member on controller-0 does not answer (refused)",
            "bad etcd: etcd has lost its leader controller-0 (term 7)",
        ]
        again = replace(LAB, members=(member("controller-0", "", answers=False), member("controller-1", LEADER, 8)))
        assert texts(events(lost, again)) == ["good etcd: controller-1 is etcd's leader, term 8"]

    def test_a_leader_that_was_moved(self) -> None:
        moved = replace(LAB, members=(member("controller-0", FOLLOWER, 8), member("controller-1", LEADER, 8)))
        assert texts(events(LAB, moved)) == [
            "plain etcd: controller-1 is etcd's leader, term 8; before: controller-0, term 7"
        ]

    def test_machines_and_units(self) -> None:
        first, second = LAB.machines
        lost = replace(LAB, machines=(replace(first, answers=False, message="no answer"), second))
        assert texts(events(LAB, lost)) == ["bad machine: controller-0 does not answer (no answer)"]
        assert texts(events(lost, LAB)) == ["good machine: controller-0 answers"]
        down = replace(LAB, machines=(first, machine("controller-1", etcd="failed", kube_scheduler="active")))
        assert texts(events(LAB, down)) == ["bad unit: etcd on controller-1 is failed"]
        programs = tuple(replace(each, pid="99") for each in first.programs or ())
        restarted = replace(LAB, machines=(replace(first, programs=programs[:1] + (first.programs or ())[1:]), second))
        assert texts(events(LAB, restarted)) == ["plain unit: etcd on controller-0 has restarted (process 99)"]

    def test_machines_that_up_adds_and_removes(self) -> None:
        fewer = replace(LAB, machines=LAB.machines[:1])
        assert texts(events(fewer, LAB)) == ["plain machine: controller-1 was added to the lab"]
        assert texts(events(LAB, fewer)) == ["plain machine: controller-1 was removed from the lab"]

    def test_leases(self) -> None:
        (lease,) = LAB.leases
        stopped = replace(LAB, leases=(replace(lease, holder_runs=False),))
        free = replace(LAB, leases=(replace(lease, holder=None, holder_runs=None),))
        taken = replace(LAB, leases=(replace(lease, holder="controller-1"),))
        assert texts(events(LAB, stopped)) == [
            "bad lease: kube-scheduler on controller-0 does not run; it holds the lease"
        ]
        assert texts(events(LAB, free)) == ["bad lease: the lease of kube-scheduler is free; before: controller-0"]
        assert texts(events(free, taken)) == ["good lease: controller-1 holds the lease of kube-scheduler"]

    def test_the_api_and_what_it_lists(self) -> None:
        (backend,), (node,), (pod,), (service,) = LAB.backends, LAB.nodes or (), LAB.pods or (), LAB.services or ()
        after = replace(
            LAB,
            api_ready=False,
            api_message="refused",
            backends=(replace(backend, status="DOWN", check="L4CON"),),
            nodes=(replace(node, ready=False),),
            pods=(replace(pod, ready=False, state="CrashLoopBackOff", restarts=1), replace(pod, name="default/new")),
            services=(replace(service, ready=()),),
        )
        assert texts(events(LAB, after)) == [
            "bad API: the endpoint does not answer (refused)",
            "bad load balancer: load-balancer-0: api/controller-0 is DOWN (L4CON)",
            "bad node: worker-0 is not Ready",
            "bad pod: default/web: CrashLoopBackOff, restarts: 1, not Ready",
            "plain pod: default/new was created",
            "bad service: the Service default/web has 0 ready endpoints; before: 1",
        ]
        assert texts(events(LAB, replace(LAB, pods=()))) == ["plain pod: default/web was deleted"]

    def test_a_command_at_work(self) -> None:
        assert texts(events(LAB, replace(LAB, command="./hardway drill"))) == [
            "plain command: ./hardway drill: started"
        ]


class TestTiles:
    """The large lines."""

    def test_a_lost_leader_is_the_first_line(self) -> None:
        tiles = Tiles()
        etcd = tiles.make(LAB, 100.0)[0]
        assert (etcd.level, etcd.text) == ("good", "controller-0")
        assert etcd.note == "term 7 · 2 of 2 members answer"
        lost = replace(LAB, members=(member("controller-0", "", answers=False), member("controller-1", FOLLOWER)))
        tiles.make(lost, 110.0)
        etcd = tiles.make(lost, 111.3)[0]
        assert (etcd.level, etcd.text) == ("bad", "NO LEADER")
        assert etcd.note == "for 1.3 s; it was controller-0 · 1 of 2 members answer"
        again = replace(LAB, members=(member("controller-0", "", answers=False), member("controller-1", LEADER, 8)))
        etcd = tiles.make(again, 111.5)[0]
        assert (etcd.level, etcd.text) == ("changed", "controller-1")
        assert etcd.note == "term 8 · 1 of 2 members answer · 0 s ago, before: controller-0, lost for 1.5 s"
        assert tiles.make(again, 180.0)[0].level == "good"

    def test_a_holder_that_does_not_run(self) -> None:
        (lease,) = LAB.leases
        tile = Tiles().make(replace(LAB, leases=(replace(lease, holder_runs=False, renewed=3.0),)), 1.0)[2]
        assert (tile.level, tile.note) == ("bad", "does not run; its lease is free in 12 s")

    def test_what_is_not_known_is_not_lost(self) -> None:
        lab = LabNow(members=(MemberNow(machine="controller-0", answers=None),), leases=(LeaseNow(name="x"),))
        assert {tile.level for tile in Tiles().make(lab, 1.0)} == {"unknown"}


def test_a_pod_is_in_the_state_of_its_container() -> None:
    item = {
        "metadata": {"namespace": "default", "name": "web"},
        "spec": {"nodeName": "worker-0"},
        "status": {
            "phase": "Running",
            "conditions": [{"type": "Ready", "status": "False"}],
            "containerStatuses": [{"restartCount": 3, "state": {"waiting": {"reason": "CrashLoopBackOff"}}}],
        },
    }
    found = pod_now(item)
    assert (found.name, found.state, found.ready, found.restarts) == ("default/web", "CrashLoopBackOff", False, 3)


def parts(lab: LabNow = LAB) -> dict[str, str]:
    timeline = Timeline()
    timeline.add([Event(level="bad", what="pod", text="<script>alert(1)</script>")], AT)
    certificate = CertificateStatus(
        name="pki-admin",
        subject="CN=admin",
        not_after="2027-11-21T12:00:00Z",
        days_left=356.9,
        ends_soon=False,
        renewed_by="./hardway up",
    )
    return Page("paper", "https://10.0.0.5:6443").parts(lab, Tiles().make(lab, 1.0), timeline.lines, [certificate], AT)


def test_an_event_changes_one_object_and_notes_when() -> None:
    watch = Watch(Api.__new__(Api), "/api/v1/pods")
    first, second = ({"metadata": {"uid": uid, "resourceVersion": "1"}} for uid in ("a", "b"))
    watch._apply("ADDED", first)
    watch._apply("ADDED", second)
    noted = dict(watch.changed_at)
    before = watch.items
    # As after a new connection, which tells of objects that have not changed.
    watch._apply("MODIFIED", first)
    assert watch.changed_at == noted
    watch._apply("MODIFIED", {"metadata": {"uid": "a", "resourceVersion": "2"}})
    assert watch.changed_at["a"] > noted["a"] and watch.changed_at["b"] == noted["b"]
    assert before["a"] is first, "who reads has one moment"
    watch._apply("DELETED", second)
    assert watch.items.keys() == watch.changed_at.keys() == {"a"}


class TestPage:
    """The HTML."""

    def test_every_part_is_in_the_page_without_javascript(self) -> None:
        made = parts()
        assert tuple(made) == PARTS
        whole = Page("paper", "https://10.0.0.5:6443").whole(made)
        for text in ("controller-0", "NO LEADER", "default/web", "pki-admin", "10.200.0.2", "L7OK", "12:00:00.000"):
            assert (text in whole) == (text != "NO LEADER"), text
        assert all(f'sse-swap="{name}"' in whole for name in PARTS)

    def test_text_is_escaped(self) -> None:
        assert "<script>" not in "".join(parts().values())
        assert "&lt;script&gt;alert(1)" in parts()["timeline"]

    def test_the_page_loads_nothing_from_elsewhere(self) -> None:
        whole = Page("paper", "https://10.0.0.5:6443").whole(parts())
        loaded = [word for word in whole.replace("'", '"').split() if word.startswith(("src=", "href="))]
        assert loaded and all(word.split('"')[1].startswith("/static/") for word in loaded)
        assert "style=" not in whole and " on" not in "".join(word for word in whole.split() if word.startswith("on"))

    def test_of_very_many_pods_those_that_are_not_ready_are_shown_and_the_others_counted(self) -> None:
        pod = PodNow(name="", node="", state="Running", ready=True, ip="", restarts=0)
        pods = tuple(replace(pod, name=f"default/web-{number:04}", ready=number != 4000) for number in range(5000))
        shown = parts(replace(LAB, pods=pods))["pods"]
        assert shown.count("<tr class=") == ROWS
        assert "default/web-4000" in shown and "default/web-0000" in shown
        assert f"{5000 - ROWS} further ones are not shown" in shown
        assert "further ones" not in parts()["pods"]

    @pytest.mark.parametrize("lab", [LabNow(), LabNow(halted="The lab paper is stopped."), replace(LAB, pods=None)])
    def test_a_page_with_nothing_known(self, lab: LabNow) -> None:
        made = parts(lab)
        assert lab.halted in made["tiles"]


class Shown:
    """A page that is served."""

    def __init__(self) -> None:
        self.parts = {"clock": "12:00\n", "etcd": "<p>one</p>\n<p>two</p>"}

    def page(self) -> str:
        return "<p>the page</p>"


@pytest.fixture
def ask(tmp_path: Path) -> Iterator[Callable[..., tuple[int, dict[str, str], str]]]:
    """Ask the server: status, headers and body."""
    (tmp_path / "htmx-2.min.js").write_text("// htmx")
    shown, rounds = Shown(), iter([False, False, True])
    app = server.application(shown, tmp_path, is_ending=lambda: next(rounds))

    def asked(path: str = "/", *, host: str = "127.0.0.1:8000", method: str = "GET") -> tuple[int, dict[str, str], str]:
        sent: list[Any] = []

        async def receive() -> Any:
            await asyncio.sleep(3600 if sent else 0)
            return {"type": "http.request", "body": b"", "more_body": False}

        async def send(message: Any) -> None:
            sent.append(message)

        scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "method": method,
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "root_path": "",
            "headers": [(b"host", host.encode())],
            "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 8000),
        }
        asyncio.run(asyncio.wait_for(app(scope, receive, send), 10))
        head = sent[0]
        body = b"".join(message.get("body", b"") for message in sent[1:])
        return head["status"], {name.decode(): value.decode() for name, value in head["headers"]}, body.decode()

    yield asked


class TestServer:
    """What it answers, and what it refuses."""

    def test_the_page(self, ask: Callable[..., tuple[int, dict[str, str], str]]) -> None:
        status, headers, body = ask()
        assert (status, body) == (200, "<p>the page</p>")
        policy = dict(part.strip().split(" ", 1) for part in headers["content-security-policy"].split(";"))
        assert policy["default-src"] == "'none'"
        assert {value for name, value in policy.items() if name != "default-src"} == {"'self'", "'none'"}
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["cache-control"] == "no-store"

    @pytest.mark.parametrize("host", ["a.example", "a.example:8000", "127.0.0.1.a.example", "10.0.0.5:8000", ""])
    @pytest.mark.parametrize("path", ["/", "/changes", "/static/htmx.js"])
    def test_another_host_is_refused(
        self, ask: Callable[..., tuple[int, dict[str, str], str]], path: str, host: str
    ) -> None:
        status, headers, body = ask(path, host=host)
        assert status == 400 and "page" not in body
        assert "content-security-policy" in headers

    @pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS"])
    def test_only_get(self, ask: Callable[..., tuple[int, dict[str, str], str]], method: str) -> None:
        assert ask(method=method)[0] == 405

    def test_static_files_are_a_list(self, ask: Callable[..., tuple[int, dict[str, str], str]]) -> None:
        assert ask("/static/htmx.js")[2] == "// htmx"
        assert ask("/static/page.css")[0] == 200
        assert {ask(path)[0] for path in ("/static/server.py", "/static/../server.py", "/kubeconfig")} == {404}

    def test_changes_are_server_sent_events(self, ask: Callable[..., tuple[int, dict[str, str], str]]) -> None:
        status, headers, body = ask("/changes")
        assert status == 200 and headers["content-type"].startswith("text/event-stream")
        assert body == "event: clock\ndata: 12:00\n\nevent: etcd\ndata: <p>one</p>\ndata: <p>two</p>\n\n"

    def test_only_what_changed_is_sent(self) -> None:
        assert server.changed({"a": "1", "b": "2"}, {"a": "1", "b": "3"}) == "event: b\ndata: 3\n\n"
        assert server.changed({"a": "1"}, {"a": "1"}) == ""


def test_who_holds_a_lock_is_read_without_taking_it(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    assert exclusive.holder(lock) == ""
    with exclusive.held_or_refused(lock, what="./hardway drill, process 1, since then"):
        assert exclusive.holder(lock) == "./hardway drill, process 1, since then"
    assert exclusive.holder(lock) == ""


def test_the_script_of_a_machine_names_its_programs(tmp_path: Path) -> None:
    lab = cluster(tmp_path, features={"kubeadm"})
    script = machines.script(lab, lab.with_role(Role.CONTROLLER)[0])
    assert "programs='etcd kube-apiserver kube-controller-manager kube-scheduler kube-proxy'\nmember=1\n" in script
    assert "kubelet.service" in script


def test_following_ends_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The connection ends with the block, also while a machine says nothing."""
    tools = tmp_path / "bin"
    tools.mkdir()
    (tools / "ssh").write_text("#!/bin/bash\necho 'units etcd.service=active:4'\nexec sleep 60\n")
    (tools / "ssh").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}:{os.environ['PATH']}")
    lab = cluster(tmp_path)
    with Follower(lab, lab.machine("controller-0")) as follower:
        end = time.monotonic() + 10
        while follower.facts.programs is None:
            assert time.monotonic() < end
            time.sleep(0.02)
        began = time.monotonic()
    assert time.monotonic() - began < 2


class NoApi:
    """An API that does not answer."""

    def __init__(self, lab: Cluster) -> None:
        self.endpoint = lab.endpoint

    def get(self, path: str, **_: object) -> None:
        raise ApiError("refused")

    def connection(self, **_: object) -> None:
        raise ApiError("refused")


def test_the_page_follows_the_machines_that_up_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A new worker appears, a removed one disappears, and the connections to the others stay."""
    tools = tmp_path / "bin"
    tools.mkdir()
    (tools / "ssh").write_text(f"#!/bin/bash\necho $$ >>{tmp_path}/calls\nwhile echo .; do sleep 0.1; done\n")
    (tools / "ssh").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}:{os.environ['PATH']}")
    monkeypatch.setattr(paths, "state", lambda: tmp_path)
    own_backend(tmp_path, monkeypatch)
    monkeypatch.setattr(observer, "Api", NoApi)
    lab = cluster(tmp_path)
    directory = lab.stack.directory
    directory.mkdir()
    (directory / "kubeconfig").write_text("one")

    def written(names: list[str]) -> None:
        machines = [
            {"name": each.name, "roles": [str(role) for role in each.roles], "address": each.address, "pod_cidr": None}
            for each in lab.machines
            if each.name in names
        ]
        (directory / "lab.json").write_text(json.dumps({"endpoint": lab.endpoint, "machines": machines}))

    def shows(page: observer.Observer, names: list[str]) -> None:
        end = time.monotonic() + 10
        while [name for name in everything if f'id="machine-{name}"' in page.parts["machines"]] != names:
            assert time.monotonic() < end, page.parts["machines"]
            time.sleep(0.02)

    everything = [each.name for each in lab.machines]
    fewer = everything[:-1]
    written(fewer)
    with observer.Observer(live_cluster.find(lab.stack)) as page:
        shows(page, fewer)
        eventually("all connections", lambda: len((tmp_path / "calls").read_text().split()) == len(fewer), seconds=10)
        written(everything)
        shows(page, everything)
        assert "worker-0 was added to the lab" in page.parts["timeline"]
        eventually("one more", lambda: len((tmp_path / "calls").read_text().split()) == len(everything), seconds=10)
        written(fewer)
        shows(page, fewer)
        # Destroyed, and built again with another key.
        (directory / "lab.json").unlink()
        (directory / "kubeconfig").write_text("two")
        written(everything)
        shows(page, everything)
