"""The verbs of etcd.sh, run by a real bash with an etcdctl that keeps its list of members in a file."""

import os
import subprocess
from pathlib import Path

import pytest

from toolchain import paths

COMPONENTS = paths.checkout() / "components"
PEER = "https://10.0.0.{}:2380"
FOUNDERS = "a=https://10.0.0.1:2380,b=https://10.0.0.2:2380,c=https://10.0.0.3:2380"

ETCDCTL = r"""#!/bin/bash
# A cluster of one file: a line for each member, as `member list` prints it. No file: nobody answers.
words=()
for word; do
  case $word in --peer-urls=*) peer=${word#*=} ;; --learner) learner=true ;; --*) ;; *) words+=("$word") ;; esac
done
echo "${words[*]}" >>"$ETCDCTL_LOG"
# As the real one does when an endpoint is slow, and succeeds nevertheless.
echo '{"level":"warn","msg":"retrying of unary invoker failed"}' >&2
[ -e "$MEMBERS" ] || { echo "context deadline exceeded" >&2; exit 1; }
case "${words[*]:0:2}" in
  "member list") cat "$MEMBERS" ;;
  "member add")
    if grep -q ', true$' "$MEMBERS"; then echo "etcdserver: too many learner members in cluster" >&2; exit 1; fi
    echo "new$RANDOM, unstarted, , $peer, , ${learner:-false}" >>"$MEMBERS" ;;
  "member remove") sed -i "/^${words[2]},/d" "$MEMBERS" ;;
  "member promote") sed -i "s/^\(${words[2]},.*\), true$/\1, false/" "$MEMBERS" ;;
  "lock /hardway/turn") echo key; exec sleep 60 ;;
  "endpoint health") ;;
esac
"""


class EtcdMachine:
    """A machine with etcd's directories under a scratch root."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.data, self.members, self.log = directory / "data", directory / "members", directory / "log"
        self.join_env, self.mark, self.running = directory / "join.env", directory / "mark", directory / "running"
        tools = directory / "bin"
        tools.mkdir()
        for name, text in (
            ("etcdctl", ETCDCTL),
            ("systemctl", f'#!/bin/bash\n[ "$1" = stop ] && rm -f {self.running}\n[ -e {self.running} ]\n'),
            ("install", '#!/bin/bash\nexec cat >"${@: -1}"\n'),
            ("curl", '#!/bin/bash\ncat "$CURL_SAYS"\n'),
        ):
            (tools / name).write_text(text)
            (tools / name).chmod(0o755)
        (directory / "client.env").write_text(
            "export ETCDCTL_ENDPOINTS=https://10.0.0.1:2379,https://10.0.0.2:2379,https://10.0.0.3:2379\n"
            "export ETCDCTL_CACERT=ca ETCDCTL_CERT=crt ETCDCTL_KEY=key\n"
        )
        self.environment = {
            "PATH": f"{tools}:{os.environ['PATH']}",
            "MEMBERS": str(self.members),
            "ETCDCTL_LOG": str(self.log),
            "CURL_SAYS": str(directory / "said"),
        }

    def cluster(self, *lines: str) -> None:
        """Have a cluster that answers: "1 started" is the member 10.0.0.1; "3 learner" one that is not promoted."""
        rows = []
        for line in lines:
            number, status = line.split()
            name, learner = ("abcdef"[int(number) - 1] if status != "unstarted" else ""), status == "learner"
            shown = "started" if learner else status
            peer = PEER.format(number)
            rows.append(f"id{number}, {shown}, {name}, {peer}, https://10.0.0.{number}:2379, {str(learner).lower()}\n")
        self.members.write_text("".join(rows))

    def run(self, script: str) -> subprocess.CompletedProcess[str]:
        """Run a script with the verbs; `sleep` only turns the clock."""
        lines = [
            "set -euo pipefail",
            f". {COMPONENTS / 'step.sh'}",
            f". {COMPONENTS / 'etcd.sh'}",
            "own() { :; }",
            "serving() { :; }",
            "declare -A later ready_seconds ready_what ready_check",
            "sleep() { SECONDS=$((SECONDS + 10)); }",
            f"ETCD_DATA={self.data} ETCD_JOIN={self.join_env} ETCD_MARK={self.mark}",
            f"ETCD_CLIENT={self.directory / 'client.env'}",
            script,
        ]
        return subprocess.run(
            ["bash", "-c", "\n".join(lines)],
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )

    def asked(self, *, but: str = "member list") -> list[str]:
        """What etcdctl was asked to do."""
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        return [line for line in lines if line != but]

    @property
    def joins(self) -> dict[str, str]:
        """How etcd is to start."""
        return dict(line.split("=", 1) for line in self.join_env.read_text().splitlines())

    def listed(self) -> list[str]:
        """The peer addresses in the list of members."""
        return [line.split(", ")[3] for line in self.members.read_text().splitlines()]


@pytest.fixture
def machine(tmp_path: Path) -> EtcdMachine:
    return EtcdMachine(tmp_path)


def test_a_founder_founds_and_asks_nobody(machine: EtcdMachine) -> None:
    done = machine.run(f"join c {PEER.format(3)} {FOUNDERS}")
    assert done.returncode == 0, done.stderr
    assert machine.joins == {"ETCD_INITIAL_CLUSTER_STATE": "new", "ETCD_INITIAL_CLUSTER": FOUNDERS}
    assert machine.asked(but="") == []
    # Killed before etcd had any data: it may still found.
    assert not machine.mark.exists()


@pytest.mark.parametrize(
    ("founders", "was_a_member", "waits"),
    [(FOUNDERS, False, False), (FOUNDERS, True, True), ("a=https://10.0.0.1:2380", False, True), ("", False, True)],
)
def test_a_founder_does_not_wait_for_members_that_are_queued_behind_it(
    machine: EtcdMachine, founders: str, was_a_member: bool, waits: bool
) -> None:
    """`pulumi up --parallel 1`: the others start after its step has ended; a step of its own sees that it serves."""
    machine.cluster("1 started")
    if was_a_member:
        machine.mark.touch()
    done = machine.run(f'join c {PEER.format(3)} {founders}\necho "later: ${{later[etcd.service]-}}"')
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == ("later: " if waits else "later: yes")


def test_a_machine_that_was_a_member_founds_nothing(machine: EtcdMachine) -> None:
    """What it would catch: a lab of one whose data were lost comes up empty, as if nothing had happened."""
    machine.run(f"joined {PEER.format(3)}")
    done = machine.run(f"join c {PEER.format(3)} {FOUNDERS}")
    assert done.returncode != 0
    assert "had a cluster: c does not found a second one" in done.stderr
    assert "make restore" in done.stderr
    assert not machine.join_env.exists()


def test_a_machine_made_anew_finds_nobody(machine: EtcdMachine) -> None:
    done = machine.run(f"join c {PEER.format(3)}")
    assert done.returncode != 0
    assert "no member of this lab's etcd answers" in done.stderr


def test_a_machine_made_anew_takes_its_own_place(machine: EtcdMachine) -> None:
    machine.cluster("1 started", "2 started", "3 started")
    done = machine.run(f"join c {PEER.format(3)}")
    assert done.returncode == 0, done.stderr
    assert machine.asked() == ["member remove id3", "member add c"]
    assert machine.joins == {"ETCD_INITIAL_CLUSTER_STATE": "existing", "ETCD_INITIAL_CLUSTER": FOUNDERS}
    assert machine.members.read_text().splitlines()[-1].endswith(", unstarted, , https://10.0.0.3:2380, , true")


def test_a_new_member_is_added_as_a_learner(machine: EtcdMachine) -> None:
    machine.cluster("1 started", "2 started")
    done = machine.run(f"join c {PEER.format(3)}")
    assert done.returncode == 0, done.stderr
    assert machine.asked() == ["member add c"]
    assert machine.joins["ETCD_INITIAL_CLUSTER"] == FOUNDERS


@pytest.mark.parametrize("status", ["unstarted"])
def test_a_member_that_was_added_and_never_started_is_not_added_twice(machine: EtcdMachine, status: str) -> None:
    machine.cluster("1 started", "2 started", f"3 {status}")
    done = machine.run(f"join c {PEER.format(3)}")
    assert done.returncode == 0, done.stderr
    assert machine.asked() == []
    assert machine.joins == {"ETCD_INITIAL_CLUSTER_STATE": "existing", "ETCD_INITIAL_CLUSTER": FOUNDERS}


def test_members_join_one_at_a_time(machine: EtcdMachine) -> None:
    machine.cluster("1 started", "2 learner")
    done = machine.run(
        # The other is promoted while this one waits.
        f"sleep() {{ sed -i 's/true$/false/' {machine.members}; SECONDS=$((SECONDS + 10)); }}\njoin c {PEER.format(3)}"
    )
    assert done.returncode == 0, done.stderr
    assert machine.asked() == ["member add c", "member add c"]


def test_a_learner_that_is_no_more_of_the_lab_does_not_keep_the_room(machine: EtcdMachine) -> None:
    machine.cluster("1 started", "5 learner")
    done = machine.run(f"join c {PEER.format(3)}")
    assert done.returncode == 0, done.stderr
    assert machine.asked() == ["member remove id5", "member add c"]


def test_why_a_member_cannot_join_is_said(machine: EtcdMachine) -> None:
    machine.cluster("1 started", "2 learner")
    done = machine.run(f"join c {PEER.format(3)}")
    assert done.returncode != 0
    assert "c cannot join etcd: etcdserver: too many learner members in cluster" in done.stderr


def test_a_member_with_data_is_left_alone(machine: EtcdMachine) -> None:
    (machine.data / "member").mkdir(parents=True)
    machine.running.touch()
    assert machine.run(f"join c {PEER.format(3)} {FOUNDERS}").returncode == 0
    assert machine.asked(but="") == []
    assert not machine.join_env.exists()


@pytest.mark.parametrize("answers", [True, False])
def test_a_stopped_member_of_the_cluster_keeps_its_data(machine: EtcdMachine, answers: bool) -> None:
    (machine.data / "member").mkdir(parents=True)
    if answers:
        machine.cluster("1 started", "2 started", "3 started")
    assert machine.run(f"join c {PEER.format(3)}").returncode == 0
    assert (machine.data / "member").exists()
    assert machine.asked() == []


def test_a_member_that_was_removed_and_is_wanted_again_joins_anew(machine: EtcdMachine) -> None:
    (machine.data / "member").mkdir(parents=True)
    (machine.data / "member" / "old").touch()
    machine.cluster("1 started", "2 started")
    done = machine.run(f"join c {PEER.format(3)}")
    assert done.returncode == 0, done.stderr
    assert not (machine.data / "member").exists()
    # Kept: nothing that was there is lost.
    assert Path(f"{machine.data}.removed/old").exists()
    assert machine.asked() == ["member add c"]


def test_only_those_leave_that_are_no_more_of_the_lab(machine: EtcdMachine) -> None:
    machine.cluster("1 started", "2 started", "3 started", "4 started", "5 started")
    peers = " ".join(PEER.format(number) for number in (1, 2, 3))
    done = machine.run(f"only_members {peers}")
    assert done.returncode == 0, done.stderr
    # Health before each and after all.
    assert machine.asked() == [
        "endpoint health",
        "member remove id4",
        "endpoint health",
        "member remove id5",
        "endpoint health",
    ]
    assert machine.listed() == peers.split()


def test_a_learner_is_promoted_before_it_counts_as_serving(machine: EtcdMachine) -> None:
    machine.cluster("1 started", "3 learner")
    said = Path(machine.environment["CURL_SAYS"])
    # More than a pipe holds: a reader that ends at its first match would fail.
    said.write_text("etcd_server_is_learner 1\n" + "# filler\n" * 20000 + '{"health":"true"}\n')
    assert machine.run(f"member_serves {PEER.format(3)}").returncode == 0
    assert machine.asked() == ["member promote id3"]
    said.write_text('etcd_server_is_learner 0\n{"health":"true"}\n')
    assert machine.run(f"member_serves {PEER.format(3)}").returncode == 0
    assert machine.asked() == ["member promote id3"]
    said.write_text('etcd_server_is_learner 0\n{"health":"false"}\n')
    assert machine.run(f"member_serves {PEER.format(3)}").returncode != 0


def test_a_turn_is_a_lock_of_etcd_that_falls_with_its_holder(machine: EtcdMachine) -> None:
    machine.cluster("1 started", "2 started", "3 started")
    done = machine.run('take_turn kube-apiserver.service\necho "$turn_PID"\ngive_turn')
    assert done.returncode == 0, done.stderr
    assert machine.asked() == ["lock /hardway/turn"]
    assert not Path(f"/proc/{done.stdout.strip()}").exists()
    machine.log.unlink()
    # However the script ends.
    done = machine.run('take_turn etcd.service\necho "$turn_PID"\nkill -9 $$')
    assert machine.asked() == ["lock /hardway/turn", "endpoint health"]
    assert not _lives(int(done.stdout))


@pytest.mark.parametrize("members", [["1 started"], []])
def test_nobody_waits_for_a_turn_where_nobody_else_is(machine: EtcdMachine, members: list[str]) -> None:
    if members:
        machine.cluster(*members)
    assert machine.run("take_turn etcd.service\ngive_turn").returncode == 0
    assert machine.asked() == []


def _lives(pid: int) -> bool:
    """Whether a process is there after it has had five seconds to end."""
    end = os.times().elapsed + 5
    while os.times().elapsed < end:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            return False
        if state == "Z":
            return False
    return True
