"""worker_turns.sh, run by a real bash: workers restart in turns, drained by budgets; a killed run is continued."""

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab.polling import eventually
from scripts.node_api import NodeApi, serving
from toolchain import paths

COMPONENTS = paths.checkout() / "components"
SYSTEMCTL = """#!/bin/bash
case "$*" in
  *ActiveEnterTimestamp*) echo "Thu 2026-01-01 00:00:05 UTC" ;;
  *MainPID*) cat "$MAIN_PID" ;;
esac
"""
DRAINS = "gets_another_version() { :; }"
TURN = "take_turn kubelet.service\necho restarted\nend_turn"


class Worker:
    """A worker's step under a scratch root."""

    def __init__(self, name: str, directory: Path, api: NodeApi) -> None:
        self.name, self.directory, self.api = name, directory / name, api
        self.step, tools = self.directory / "step", self.directory / "bin"
        self.kubeconfig = self.directory / "kubelet.kubeconfig"
        for each in (self.step, tools):
            each.mkdir(parents=True)
        self.kubeconfig.write_text(f"clusters:\n- cluster:\n    server: {api.url}\n")
        for program, text in (("systemctl", SYSTEMCTL), ("dig", '#!/bin/bash\necho "$DNS_SAYS"\n')):
            (tools / program).write_text(text)
            (tools / program).chmod(0o755)
        self.environment = {
            "PATH": f"{tools}:{os.environ['PATH']}",
            "MAIN_PID": str(self.directory / "pid"),
            "DNS_SAYS": "10.32.0.1",
            "no_proxy": "*",
            "LC_ALL": "C",
        }

    def script(self, text: str, *, at_once: int = 1, drains: str = "yes", slow: bool = False) -> list[str]:
        lines = [
            f". {COMPONENTS / 'step.sh'}",
            f". {COMPONENTS / 'worker_turns.sh'}",
            f"step={self.step} KUBELET_KUBECONFIG={self.kubeconfig}",
            "declare -A ready_check=([kubelet.service]=true)",
            f"turns {self.name} {at_once} {drains} kubernetes.default.svc.cluster.local 10.32.0.10 10.32.0.1",
            # It only turns the clock, in tests where only the deadline ends a wait.
            "" if slow else "sleep() { SECONDS=$((SECONDS + 10)); }\nnap() { sleep; }",
            "" if "gets_another_version" in text else "gets_another_version() { return 1; }",
            text,
        ]
        return ["bash", "-c", "\n".join(lines)]

    def run(
        self, text: str, *, at_once: int = 1, drains: str = "yes", slow: bool = False
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.script(text, at_once=at_once, drains=drains, slow=slow),
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )

    def start(self, text: str, *, at_once: int = 1) -> subprocess.Popen[str]:
        return subprocess.Popen(
            self.script(text, at_once=at_once, slow=True),
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    @property
    def is_free(self) -> bool:
        """Whether nothing says that it is in a turn, and it takes pods."""
        node = self.api.nodes[self.name]
        return (
            node["metadata"]["annotations"] == {"other": "kept"}
            and "unschedulable" not in node["spec"]
            and not [each for each in self.api.turns.values() if each["data"]["holder"] == self.name]
            and not list(self.step.iterdir())
        )


@pytest.fixture
def api() -> Iterator[NodeApi]:
    with serving() as api:
        for name in ("worker-0", "worker-1"):
            api.node(name)
        yield api


@pytest.fixture
def worker(api: NodeApi, tmp_path: Path) -> Worker:
    return Worker("worker-0", tmp_path, api)


@pytest.fixture
def other(api: NodeApi, tmp_path: Path) -> Worker:
    return Worker("worker-1", tmp_path, api)


def test_the_first_start_asks_the_api_nothing(worker: Worker) -> None:
    worker.kubeconfig.unlink()
    done = worker.run(f"{TURN}\nend_turn {worker.step}/own-node.json")
    assert (done.returncode, done.stdout) == (0, "restarted\n"), done.stderr
    assert worker.api.asked == []


def test_units_made_by_hand_are_taken_over_without_the_api(worker: Worker) -> None:
    """docs/by-hand.md: their kubeconfig may lead nowhere."""
    worker.kubeconfig.write_text("clusters:\n- cluster:\n    server: https://127.0.0.1:1\n")
    done = worker.run(f"declare -A elsewhere=(); echo 0 >$step/owners\n{TURN}")
    assert (done.returncode, done.stdout) == (0, "restarted\n"), done.stderr
    assert worker.api.asked == []


@pytest.mark.parametrize("known", ["echo 1 >$step/owners", "echo 0 >$step/owners; elsewhere['unit kubelet.service']=x"])
def test_units_of_the_program_take_a_turn(worker: Worker, known: str) -> None:
    """Also where this step is new, and a step of an earlier version had the unit."""
    done = worker.run(f"declare -A elsewhere=(); {known}\n{TURN}")
    assert (done.returncode, done.stdout) == (0, "restarted\n"), done.stderr
    assert worker.api.asked


def test_a_turn_belongs_to_the_node_and_nothing_of_it_stays(worker: Worker) -> None:
    done = worker.run(f"take_turn kubelet.service\ncat {worker.step}/turn\nend_turn")
    assert (done.returncode, done.stdout) == (0, "0\n"), done.stderr
    assert worker.is_free
    # The mark is there before the turn, and goes after it: no killed run leaves a turn that nothing tells of.
    changes = [each.split("/")[-1] for each in worker.api.asked if not each.startswith("GET")]
    assert changes == ["worker-0", "configmaps", "hardway-turn-0", "worker-0"]


def test_a_workers_units_restart_in_one_turn(worker: Worker) -> None:
    """kube-proxy starts after the kubelet: with a turn of its own each worker would wait for all others once more."""
    script = "take_turn kubelet.service\ngive_turn\ntake_turn kube-proxy.service\ngive_turn"
    assert worker.run(script).returncode == 0
    assert not worker.is_free
    assert worker.run(f"{script}\nend_turn").returncode == 0
    assert worker.is_free
    assert len([each for each in worker.api.asked if each.startswith("POST")]) == 1


@pytest.mark.parametrize(("at_once", "waits"), [(1, True), (2, False)])
def test_no_more_workers_than_permitted_are_in_a_turn(worker: Worker, other: Worker, at_once: int, waits: bool) -> None:
    (worker.directory / "hold").touch()
    hold = f"take_turn kubelet.service\nwhile [ -e {worker.directory}/hold ]; do command sleep 0.05; done\nend_turn"
    first = worker.start(hold, at_once=at_once)
    eventually("the first turn", lambda: worker.api.turns, seconds=10)
    assert worker.api.turns["hardway-turn-0"]["metadata"]["ownerReferences"][0]["uid"] == "uid-worker-0"
    second = other.start(TURN, at_once=at_once)
    if waits:
        # Its mark, and a look at the turn that it does not get.
        asked = "GET /api/v1/namespaces/kube-node-lease/configmaps/hardway-turn-0"
        eventually("the second waiting", lambda: worker.api.asked.count(asked) > 2, seconds=10)
        assert second.poll() is None
    else:
        assert second.communicate(timeout=10)[0] == "restarted\n"
    (worker.directory / "hold").unlink()
    assert first.wait(timeout=10) == 0
    second.communicate(timeout=10)
    assert second.returncode == 0
    assert worker.is_free and other.is_free


def test_pods_with_a_controller_are_evicted_before_another_version_starts(worker: Worker) -> None:
    for name, owner in (("web-1", "ReplicaSet"), ("agent", "DaemonSet"), ("mirror", "Node"), ("alone", None)):
        worker.api.pod(name, "worker-0", owner)
    worker.api.pod("elsewhere", "worker-1")
    tries = []
    worker.api.evicts = lambda pod: tries.append(pod) or len(tries) > 3  # type: ignore[func-returns-value]
    done = worker.run(f"{DRAINS}\ntake_turn kubelet.service\necho restarted")
    assert (done.returncode, done.stdout) == (0, "restarted\n"), done.stderr
    assert set(worker.api.pods) == {"agent", "mirror", "alone", "elsewhere"}
    assert tries == ["web-1"] * 4, "an eviction that a budget does not permit yet is tried again"
    assert worker.api.nodes["worker-0"]["spec"]["unschedulable"] is True
    assert worker.run("end_turn").returncode == 0
    assert worker.is_free


@pytest.mark.parametrize("because", ["the same version", "no other worker"])
def test_pods_stay_where_a_drain_is_of_no_use(worker: Worker, because: str) -> None:
    worker.api.pod("web-1", "worker-0")
    alone = because == "no other worker"
    script = f"{DRAINS if alone else 'gets_another_version() { return 1; }'}\n{TURN}"
    assert worker.run(script, drains="no" if alone else "yes").returncode == 0
    assert set(worker.api.pods) == {"web-1"}
    assert not [each for each in worker.api.asked if "pods" in each]


def test_a_drain_that_budgets_do_not_permit_is_reverted_and_says_which(worker: Worker) -> None:
    worker.api.pod("web-1", "worker-0")
    worker.api.evicts = lambda pod: False
    done = worker.run(f"{DRAINS}\n{TURN}")
    assert (done.returncode, done.stdout) == (1, "")
    assert "worker-0 cannot be drained within 300 s; nothing restarted there" in done.stderr
    assert "pod web/web-1: 429 it would violate the pod's disruption budget." in done.stderr
    assert worker.is_free


def test_a_worker_that_the_user_cordoned_stays_cordoned(worker: Worker) -> None:
    worker.api.node("worker-0", cordoned=True)
    worker.api.pod("web-1", "worker-0")
    assert worker.run(f"{DRAINS}\n{TURN}").returncode == 0
    assert worker.api.nodes["worker-0"]["spec"]["unschedulable"] is True
    assert "hardway/turn" not in worker.api.nodes["worker-0"]["metadata"]["annotations"]
    assert worker.api.pods == {}


@pytest.mark.parametrize("remembers", ["the step", "the Node alone"])
def test_what_a_killed_run_took_is_given_back_by_the_next(worker: Worker, remembers: str) -> None:
    done = worker.run(f"{DRAINS}\ntake_turn kubelet.service\nkill -KILL $$")
    assert done.returncode == -signal.SIGKILL
    assert worker.api.turns and worker.api.nodes["worker-0"]["spec"]["unschedulable"] is True
    node = worker.step / "own-node.json"
    if remembers == "the Node alone":
        # The machine was recreated.
        for file in worker.step.iterdir():
            file.unlink()
        node.write_text('"annotations": {\n  "hardway/turn": "cordoned"\n}')
    done = worker.run(f"end_turn {node}")
    assert done.returncode == 0, done.stderr
    node.unlink(missing_ok=True)
    assert worker.is_free


def test_a_killed_run_does_not_wait_for_its_own_turn(worker: Worker) -> None:
    worker.run("take_turn kubelet.service\nkill -KILL $$")
    assert worker.run(TURN).returncode == 0
    assert worker.is_free


def test_a_worker_that_does_not_serve_stops_those_that_wait(worker: Worker, other: Worker) -> None:
    """Else the next one would be broken, too."""
    worker.run("take_turn kubelet.service")
    waiting = other.start(TURN)
    asked = "GET /api/v1/namespaces/kube-node-lease/configmaps/hardway-turn-0"
    eventually("the second waiting", lambda: worker.api.asked.count(asked) > 2, seconds=10)
    worker.run('turn_failed "kubelet.service on worker-0 does not serve"')
    printed, said = waiting.communicate(timeout=10)
    assert (waiting.returncode, printed) == (1, "")
    assert "worker-1 was not changed, and nothing restarted there: kubelet.service on worker-0 does not serve" in said
    assert other.is_free
    # The next run: the first worker serves, and both are changed.
    waiting = other.start(TURN)
    assert worker.run(TURN).returncode == 0
    assert waiting.communicate(timeout=10)[0] == "restarted\n"
    assert worker.is_free and other.is_free


def test_a_turn_that_the_api_refuses_is_an_error_and_nothing_restarts(worker: Worker) -> None:
    worker.api.refused = True
    done = worker.run(TURN)
    assert (done.returncode, done.stdout) == (1, "")
    assert "403 configmaps is forbidden" in done.stderr
    assert worker.is_free


def test_a_turn_that_does_not_end_is_an_error_that_names_its_worker(worker: Worker, other: Worker) -> None:
    other.run("take_turn kubelet.service")
    done = worker.run(TURN)
    assert (done.returncode, done.stdout) == (1, "")
    assert "the turn of worker-1 did not end for 600 s" in done.stderr


def test_units_that_do_not_serve_restart_without_a_turn(worker: Worker) -> None:
    """Nothing is lost by that, and it may repair the worker."""
    done = worker.run(f"ready_check[kubelet.service]=false\n{TURN}")
    assert (done.returncode, done.stdout) == (0, "restarted\n")
    assert worker.api.asked == []


@pytest.mark.parametrize(("ready", "heard"), [("False", "2026-01-01T00:00:10Z"), ("True", "2026-01-01T00:00:04Z")])
def test_a_node_that_is_not_ready_since_the_restart_keeps_the_turn(worker: Worker, ready: str, heard: str) -> None:
    worker.run("take_turn kubelet.service")
    worker.api.node("worker-0", ready=ready)
    worker.api.nodes["worker-0"]["status"]["conditions"][1]["lastHeartbeatTime"] = heard
    done = worker.run("end_turn")
    assert done.returncode == 1
    assert "the Node worker-0 is not Ready after its units restarted" in done.stderr
    assert "worker-0 is not Ready" in worker.api.turns["hardway-turn-0"]["data"]["failed"]


def test_dns_that_answered_before_answers_after_the_turn(worker: Worker) -> None:
    done = worker.run("take_turn kubelet.service\nDNS_SAYS=\nexport DNS_SAYS\nend_turn")
    assert done.returncode == 1
    assert "DNS does not answer on worker-0" in done.stderr
    worker.environment["DNS_SAYS"] = ""
    assert worker.run(TURN).returncode == 0, "it did not answer before, as in a lab that is not complete"


def test_another_version_is_seen_by_the_file_that_runs(worker: Worker) -> None:
    programs = worker.directory / "programs"
    programs.mkdir()
    for version in ("1", "2"):
        (programs / f"sleep-{version}").write_bytes(Path("/usr/bin/sleep").read_bytes())
        (programs / f"sleep-{version}").chmod(0o755)
    link = programs / "kubelet"
    link.symlink_to("sleep-1")
    with subprocess.Popen([link, "60"]) as process:
        eventually(
            "the program running", lambda: "sleep-1" in str(Path(f"/proc/{process.pid}/exe").readlink()), seconds=5
        )
        Path(worker.environment["MAIN_PID"]).write_text(f"{process.pid}\n")
        ask = f"PROGRAMS={programs}\ngets_another_version kube-proxy.service kubelet.service"
        assert worker.run(ask).returncode == 1
        link.unlink()
        link.symlink_to("sleep-2")
        assert worker.run(ask).returncode == 0
        assert worker.run(f"PROGRAMS={programs}\ngets_another_version kube-proxy.service").returncode == 1
        process.kill()
