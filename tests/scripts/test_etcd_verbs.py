"""The verbs of etcd.sh, run by a real bash with an etcdctl that keeps its list of members in a file."""

import os
import subprocess
import time
from pathlib import Path

import pytest

from toolchain import paths

COMPONENTS = paths.checkout() / "components"
PEER = "https://10.0.0.{}:2380"
INITIAL_MEMBERS = "a=https://10.0.0.1:2380,b=https://10.0.0.2:2380,c=https://10.0.0.3:2380"

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
# A query that fails beside others that do not.
if [ -s "$MEMBERS.fails" ] && [[ ${words[*]} =~ $(head -n 1 "$MEMBERS.fails") ]]; then
  sed -i 1d "$MEMBERS.fails"
  echo "etcdserver: request timed out" >&2
  exit 1
fi
case "${words[*]:0:2}" in
  "member list") cat "$MEMBERS" ;;
  "member add")
    if grep -q ', true$' "$MEMBERS"; then echo "etcdserver: too many learner members in cluster" >&2; exit 1; fi
    echo "new$RANDOM, unstarted, , $peer, , ${learner:-false}" >>"$MEMBERS" ;;
  "member remove") sed -i "/^${words[2]},/d" "$MEMBERS" ;;
  "member promote") sed -i "s/^\(${words[2]},.*\), true$/\1, false/" "$MEMBERS" ;;
  "lock /hardway/turn")
    echo "$ETCDCTL_ENDPOINTS" >"$MEMBERS.asked"
    [ -e "$MEMBERS.held" ] || echo /hardway/turn/1f
    exec sleep 60 ;;
  "lease keep-alive")
    echo "$ETCDCTL_ENDPOINTS" >"$MEMBERS.renews"
    [ ! -e "$MEMBERS.lost" ] || exit 1
    echo kept
    exec sleep 60 ;;
  "endpoint health") ;;
  "get /hardway/turn-failed") cat "$MEMBERS.failed" 2>/dev/null ;;
  "put /hardway/turn-failed") echo "${words[*]:2}" >"$MEMBERS.failed" ;;
  "del /hardway/turn-failed") rm -f "$MEMBERS.failed" ;;
esac
"""


class EtcdMachine:
    """A machine with etcd's directories under a scratch root."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.data, self.members, self.log = directory / "data", directory / "members", directory / "log"
        self.mask = directory / "mask"
        self.join_env, self.mark, self.running = directory / "join.env", directory / "mark", directory / "running"
        tools = directory / "bin"
        tools.mkdir()
        for name, text in (
            ("etcdctl", ETCDCTL),
            ("systemctl", f'#!/bin/bash\n[ "$1" = stop ] && rm -f {self.running}\n[ -e {self.running} ]\n'),
            ("install", '#!/bin/bash\nexec cat >"${@: -1}"\n'),
            # What members say: one for all, or each its own.
            (
                "curl",
                "#!/bin/bash\n"
                '[[ "$*" =~ 10\\.0\\.0\\.([0-9]) ]]\n'
                'cat "$CURL_SAYS${BASH_REMATCH:+.${BASH_REMATCH[1]}}"\n',
            ),
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

    def says(self, health: bool, *numbers: int) -> None:
        """Have these members say of themselves whether they are healthy."""
        for number in numbers:
            Path(f"{self.environment['CURL_SAYS']}.{number}").write_text(f'{{"health":"{str(health).lower()}"}}\n')

    def run(self, script: str) -> subprocess.CompletedProcess[str]:
        """Run a script with the verbs; `sleep` and `nap` only turn the clock."""
        lines = [
            "set -euo pipefail",
            f". {COMPONENTS / 'step.sh'}",
            f". {COMPONENTS / 'etcd_health.sh'}",
            f". {COMPONENTS / 'etcd.sh'}",
            "own() { :; }",
            "serving() { :; }",
            "declare -A later ready_seconds ready_what ready_check",
            "sleep() { SECONDS=$((SECONDS + 10)); }\nnap() { sleep; }",
            f"ETCD_DATA={self.data} ETCD_JOIN={self.join_env} ETCD_MARK={self.mark}",
            f"ETCD_CLIENT={self.directory / 'client.env'} ETCD_MASK={self.mask}",
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

    def has_data(self) -> None:
        """Have the data of a member that has served."""
        (self.data / "member/wal").mkdir(parents=True)
        (self.data / "member/wal/0000000000000000-0000000000000000.wal").touch()

    def fails(self, *queries: str) -> None:
        """Have the next calls that fit these expressions fail, in this order, while others succeed."""
        Path(f"{self.members}.fails").write_text("".join(f"{query}\n" for query in queries))

    def asked(self, *, but: str = "member list") -> list[str]:
        """What etcdctl was asked to do."""
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        return [line for line in lines if line not in (but, "get /hardway/turn-failed")]

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
    done = machine.run(f"join c {PEER.format(3)} {INITIAL_MEMBERS}")
    assert done.returncode == 0, done.stderr
    assert machine.joins == {"ETCD_INITIAL_CLUSTER_STATE": "new", "ETCD_INITIAL_CLUSTER": INITIAL_MEMBERS}
    assert machine.asked(but="") == []
    # Killed before etcd had any data: it may still found.
    assert not machine.mark.exists()


@pytest.mark.parametrize("listed", ["started", "unstarted"])
def test_a_founder_joins_a_cluster_that_serves(machine: EtcdMachine, listed: str) -> None:
    """After `pulumi up --replace` or `pulumi state delete`, etcd-founders lists a new machine as an initial member."""
    machine.cluster("1 started", "2 started", f"3 {listed}")
    machine.says(False, 1, 3)
    machine.says(True, 2)
    done = machine.run(f"join c {PEER.format(3)} {INITIAL_MEMBERS}")
    assert done.returncode == 0, done.stderr
    assert machine.joins == {"ETCD_INITIAL_CLUSTER_STATE": "existing", "ETCD_INITIAL_CLUSTER": INITIAL_MEMBERS}
    assert machine.asked() == (["member remove id3", "member add c"] if listed == "started" else [])


def test_a_founder_that_starts_after_the_others_serve_founds_with_them(machine: EtcdMachine) -> None:
    """As a learner it would wait 5 s until etcd lets its place go, and two of them would wait for each other."""
    machine.cluster("1 started", "2 started", "3 started")
    machine.members.write_text(machine.members.read_text().replace(", https://10.0.0.3:2379,", ", ,"))
    machine.says(True, 1, 2, 3)
    done = machine.run(f'join c {PEER.format(3)} {INITIAL_MEMBERS}\necho "later: ${{later[etcd.service]-}}"')
    assert (done.returncode, done.stdout) == (0, "later: yes\n"), done.stderr
    assert machine.joins == {"ETCD_INITIAL_CLUSTER_STATE": "new", "ETCD_INITIAL_CLUSTER": INITIAL_MEMBERS}
    assert machine.asked() == []


def test_founders_do_not_wait_for_each_other(machine: EtcdMachine) -> None:
    """One that has started accepts connections, and answers once a majority has started: this one is part of it."""
    hangs = machine.directory / "bin" / "curl"
    # As curl does: it gives up the handshake by --connect-timeout, and else after --max-time.
    hangs.write_text(
        '#!/bin/bash\n[[ "$*" =~ --connect-timeout\\ ([0-9.]+) ]] && seconds=${BASH_REMATCH[1]}\n'
        'exec sleep "${seconds:-20}"\n'
    )
    since = time.monotonic()
    done = machine.run(f"unset -f sleep\njoin c {PEER.format(3)} {INITIAL_MEMBERS}")
    assert done.returncode == 0, done.stderr
    assert machine.joins["ETCD_INITIAL_CLUSTER_STATE"] == "new"
    # All three at once, half a second each.
    assert time.monotonic() - since < 10


@pytest.mark.parametrize("interrupted", [False, True])
def test_a_founder_that_joins_as_a_learner_waits_until_it_serves(machine: EtcdMachine, interrupted: bool) -> None:
    """There is room for one learner: the next machine's step ends only after its promotion, which is in this step."""
    machine.cluster("1 started", "2 started", "3 started")
    machine.says(True, 1, 2, 3)
    join = f"join c {PEER.format(3)} {INITIAL_MEMBERS}"
    if interrupted:
        # Killed when its etcd had data, and before it was promoted.
        assert machine.run(join).returncode == 0
        machine.has_data()
        machine.running.touch()
    done = machine.run(f'{join}\necho "later: ${{later[etcd.service]-}}"')
    assert (done.returncode, done.stdout) == (0, "later: \n"), done.stderr
    assert machine.joins["ETCD_INITIAL_CLUSTER_STATE"] == "existing"


@pytest.mark.parametrize(
    ("initial", "was_a_member", "waits"),
    [
        (INITIAL_MEMBERS, False, False),
        (INITIAL_MEMBERS, True, True),
        ("a=https://10.0.0.1:2380", False, False),
        ("a=https://10.0.0.1:2380", True, True),
        ("", False, True),
    ],
)
def test_a_founder_does_not_wait_until_it_serves(
    machine: EtcdMachine, initial: str, was_a_member: bool, waits: bool
) -> None:
    """`pulumi up --parallel 1`: the others start after its step has ended; a step of its own sees that it serves.

    With one member, too: the control plane is prepared meanwhile.
    """
    machine.cluster("1 started")
    if was_a_member:
        machine.mark.touch()
    done = machine.run(f'join c {PEER.format(3)} {initial}\necho "later: ${{later[etcd.service]-}}"')
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == ("later: " if waits else "later: yes")


def test_a_machine_that_was_a_member_founds_nothing(machine: EtcdMachine) -> None:
    """What it would catch: a lab of one whose data were lost comes up empty, as if nothing had happened."""
    machine.run(f"joined {PEER.format(3)} serving")
    done = machine.run(f"join c {PEER.format(3)} {INITIAL_MEMBERS}")
    assert done.returncode != 0
    assert "had a cluster: c must not bootstrap a second one" in done.stderr
    assert "./hardway restore" in done.stderr
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
    assert machine.joins == {"ETCD_INITIAL_CLUSTER_STATE": "existing", "ETCD_INITIAL_CLUSTER": INITIAL_MEMBERS}
    assert machine.members.read_text().splitlines()[-1].endswith(", unstarted, , https://10.0.0.3:2380, , true")


def test_a_new_member_is_added_as_a_learner(machine: EtcdMachine) -> None:
    machine.cluster("1 started", "2 started")
    done = machine.run(f"join c {PEER.format(3)}")
    assert done.returncode == 0, done.stderr
    assert machine.asked() == ["member add c"]
    assert machine.joins["ETCD_INITIAL_CLUSTER"] == INITIAL_MEMBERS


@pytest.mark.parametrize("status", ["unstarted"])
def test_a_member_that_was_added_and_never_started_is_not_added_twice(machine: EtcdMachine, status: str) -> None:
    machine.cluster("1 started", "2 started", f"3 {status}")
    done = machine.run(f"join c {PEER.format(3)}")
    assert done.returncode == 0, done.stderr
    assert machine.asked() == []
    assert machine.joins == {"ETCD_INITIAL_CLUSTER_STATE": "existing", "ETCD_INITIAL_CLUSTER": INITIAL_MEMBERS}


def test_members_join_one_at_a_time(machine: EtcdMachine) -> None:
    machine.cluster("1 started", "2 learner")
    done = machine.run(
        # The other is promoted while this one waits.
        f"sleep() {{ sed -i 's/true$/false/' {machine.members}; SECONDS=$((SECONDS + 10)); }}\njoin c {PEER.format(3)}"
    )
    assert done.returncode == 0, done.stderr
    assert machine.asked() == ["member add c", "member add c"]


def test_a_voter_that_is_no_more_of_the_lab_leaves_before_another_joins(machine: EtcdMachine) -> None:
    """A controller with another address: etcd adds no member beside a voter that is gone ("unhealthy cluster")."""
    machine.cluster("1 started", "2 started", "4 started")
    done = machine.run(f"join c {PEER.format(3)}")
    assert done.returncode == 0, done.stderr
    assert machine.asked() == ["member remove id4", "member add c"]
    assert machine.joins["ETCD_INITIAL_CLUSTER"] == INITIAL_MEMBERS


def test_a_voter_that_serves_stays_until_the_others_have_joined(machine: EtcdMachine) -> None:
    """One controller less and another one more, in one run: its API server still has its member."""
    machine.cluster("1 started", "2 started", "4 started", "5 started")
    machine.says(True, 4)
    machine.says(False, 5)
    done = machine.run(f"join c {PEER.format(3)}")
    assert done.returncode == 0, done.stderr
    assert machine.asked() == ["member remove id5", "member add c"]
    assert machine.listed() == [PEER.format(number) for number in (1, 2, 4, 3)]


def test_voters_leave_one_at_a_time_and_a_learner_first(machine: EtcdMachine) -> None:
    machine.cluster("1 started", "2 started", "4 started", "5 started", "6 learner")
    done = machine.run(f"join c {PEER.format(3)}")
    assert done.returncode == 0, done.stderr
    assert machine.asked(but="") == [
        *("member list", "member remove id6"),
        # Whether anybody answers is asked once.
        *("member list", "member list", "member remove id4"),
        *("member list", "member remove id5", "member add c", "member list"),
    ]


def test_a_voter_that_etcd_does_not_let_go_is_reported(machine: EtcdMachine) -> None:
    machine.cluster("1 started", "2 started", "4 started")
    refuses = '"member remove"*) echo "etcdserver: re-configuration failed" >&2; return 1 ;;'
    ctl = f'ctl() {{ case "$*" in {refuses} esac; (. "$ETCD_CLIENT" && exec etcdctl "$@"); }}'
    done = machine.run(f"{ctl}\njoin c {PEER.format(3)}")
    assert done.returncode != 0
    assert "c cannot join etcd: etcdserver: re-configuration failed" in done.stderr
    assert machine.asked() == []


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
    machine.has_data()
    machine.running.touch()
    assert machine.run(f"join c {PEER.format(3)} {INITIAL_MEMBERS}").returncode == 0
    assert machine.asked(but="") == []
    assert not machine.join_env.exists()


@pytest.mark.parametrize("answers", [True, False])
def test_a_stopped_member_of_the_cluster_keeps_its_data(machine: EtcdMachine, answers: bool) -> None:
    machine.has_data()
    if answers:
        machine.cluster("1 started", "2 started", "3 started")
    assert machine.run(f"join c {PEER.format(3)}").returncode == 0
    assert (machine.data / "member").exists()
    assert machine.asked() == []


def test_a_member_that_was_removed_and_is_wanted_again_joins_anew(machine: EtcdMachine) -> None:
    machine.has_data()
    (machine.data / "member" / "old").touch()
    machine.cluster("1 started", "2 started")
    done = machine.run(f"join c {PEER.format(3)}")
    assert done.returncode == 0, done.stderr
    assert not (machine.data / "member").exists()
    # Kept: nothing that was there is lost.
    assert Path(f"{machine.data}.removed/old").exists()
    assert machine.asked() == ["member add c"]


@pytest.mark.parametrize("found", ["nothing", "a database", "a WAL that is no file of etcd's"])
def test_a_member_directory_without_a_wal_is_no_data(machine: EtcdMachine, found: str) -> None:
    """etcd panics on it at every start: the machine joins as one that has lost its data."""
    (machine.data / "member/snap").mkdir(parents=True)
    if found == "a database":
        (machine.data / "member/snap/db").touch()
    if found.startswith("a WAL"):
        (machine.data / "member/wal").mkdir()
        (machine.data / "member/wal/0.tmp").touch()
    machine.cluster("1 started", "2 started", "3 started")
    done = machine.run(f"join c {PEER.format(3)}")
    assert done.returncode == 0, done.stderr
    assert machine.asked() == ["member remove id3", "member add c"]
    assert machine.joins["ETCD_INITIAL_CLUSTER_STATE"] == "existing"
    assert not (machine.data / "member").exists()
    assert Path(f"{machine.data}.removed/snap").exists()


def test_a_founder_that_was_killed_before_it_had_a_wal_founds(machine: EtcdMachine) -> None:
    (machine.data / "member/snap").mkdir(parents=True)
    assert machine.run(f"join c {PEER.format(3)} {INITIAL_MEMBERS}").returncode == 0
    assert machine.joins == {"ETCD_INITIAL_CLUSTER_STATE": "new", "ETCD_INITIAL_CLUSTER": INITIAL_MEMBERS}


def test_nothing_starts_where_a_restore_has_not_finished(machine: EtcdMachine) -> None:
    """`up` between a restore that failed and the next one."""
    machine.has_data()
    machine.mask.symlink_to("/dev/null")
    done = machine.run(f"join c {PEER.format(3)} {INITIAL_MEMBERS}")
    assert done.returncode != 0
    assert "etcd is masked on" in done.stderr
    assert "./hardway restore FILE" in done.stderr
    assert machine.asked(but="") == []


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


def test_a_list_that_cannot_be_had_is_not_one_without_the_member(machine: EtcdMachine) -> None:
    """It counted as gone when both the removal and the list failed, and its machine was destroyed with the quorum."""
    machine.cluster("1 started", "2 started", "3 started", "4 started")
    peers = " ".join(PEER.format(number) for number in (1, 2, 3))
    machine.fails("member list", "member remove id4", "member list", "member remove id4")
    done = machine.run(f"only_members {peers}")
    assert done.returncode == 0, done.stderr
    assert machine.listed() == peers.split()
    assert machine.asked().count("member remove id4") == 3


@pytest.mark.parametrize("fails", [["member list"], ["member remove", "member list"]], ids=["list", "removal and list"])
def test_members_that_cannot_be_listed_are_an_error(machine: EtcdMachine, fails: list[str]) -> None:
    machine.cluster("1 started", "4 started")
    machine.fails(*(fails * 50))
    done = machine.run(f"only_members {PEER.format(1)}")
    assert done.returncode != 0
    assert "etcdserver: request timed out" in done.stderr
    assert machine.listed() == [PEER.format(1), PEER.format(4)]


def test_a_member_that_has_left_already_has_left(machine: EtcdMachine) -> None:
    machine.cluster("1 started")
    machine.fails("member remove")
    assert machine.run("leaves id4").returncode == 0


@pytest.mark.parametrize("fails", [["member list"], ["member list", "member remove", "member list"]])
def test_kubeadms_former_controller_leaves_also_where_queries_fail_at_first(
    machine: EtcdMachine, fails: list[str]
) -> None:
    """The machine that takes its place joined beside a member that was still in the list."""
    machine.cluster("1 started", "3 started")
    machine.fails(*fails)
    done = machine.run(f'. {COMPONENTS / "kubeadm.sh"}\nk() {{ echo "kubectl $*"; }}\nforget c\n')
    assert done.returncode == 0, done.stderr
    assert machine.listed() == [PEER.format(1)]


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


def test_a_learner_that_does_not_know_yet_what_it_is_is_promoted(machine: EtcdMachine) -> None:
    """A learner that counts as serving because its metrics were read before it had read the cluster's log."""
    machine.cluster("1 started", "3 learner")
    (machine.directory / "bin/curl").write_text(
        "#!/bin/bash\n"
        'if [[ "$*" == */health ]]; then touch "$CURL_SAYS"; echo \'{"health":"true"}\'; exit; fi\n'
        '[ ! -e "$CURL_SAYS" ]; echo "etcd_server_is_learner $?"\n'
    )
    assert machine.run(f"member_serves {PEER.format(3)}").returncode == 0
    assert machine.asked() == ["member promote id3"]


def test_a_turn_is_a_lock_of_etcd_that_falls_with_its_holder(machine: EtcdMachine) -> None:
    machine.cluster("1 started", "2 started", "3 started")
    done = machine.run('take_turn kube-apiserver.service\necho "$turn_PID"\ngive_turn')
    assert done.returncode == 0, done.stderr
    assert machine.asked() == ["lock /hardway/turn"]
    assert not Path(f"/proc/{done.stdout.strip()}").exists()
    machine.log.unlink()
    # However the script ends.
    done = machine.run('hostname() { echo a; }\ntake_turn etcd.service\necho "$turn_PID"\nkill -9 $$')
    assert machine.asked() == ["lock /hardway/turn", "lease keep-alive 1f", "endpoint health"]
    assert not _lives(int(done.stdout))


def test_the_lock_is_asked_for_at_the_own_member(machine: EtcdMachine) -> None:
    """A member that is to stop waits for the streams of every machine that waits for the turn."""
    machine.cluster("1 started", "2 started", "3 started")
    asked = Path(f"{machine.members}.asked")
    assert machine.run("take_turn kube-apiserver.service\ngive_turn").returncode == 0
    assert asked.read_text().count("https://10.0.0.") == 3, "it is not healthy: one of the others"
    (machine.directory / "said").write_text('{"health":"true"}\n')
    assert machine.run("take_turn kube-apiserver.service\ngive_turn").returncode == 0
    assert asked.read_text() == "https://127.0.0.1:2379\n"


@pytest.mark.parametrize("unit", ["etcd.service", "kube-apiserver.service"])
def test_the_lock_stays_if_the_own_member_ends(machine: EtcdMachine, unit: str) -> None:
    machine.cluster("1 started", "2 started", "3 started")
    done = machine.run(f'hostname() {{ echo a; }}\ntake_turn {unit}\npgrep -P $$ -a\necho "turn $turn_PID"\ngive_turn')
    assert done.returncode == 0, done.stderr
    assert Path(f"{machine.members}.renews").read_text() == "https://10.0.0.2:2379,https://10.0.0.3:2379\n"
    *holders, turn = done.stdout.splitlines()
    assert len(holders) == 1 and holders[0].split()[0] == turn.removeprefix("turn "), "one process has the lock"
    # With the process that was ended the lock would have stayed until it expires.
    assert machine.asked()[-1] == "lease revoke 1f"


def test_member_does_not_restart_with_a_lock_that_would_expire(machine: EtcdMachine) -> None:
    machine.cluster("1 started", "2 started", "3 started")
    Path(f"{machine.members}.lost").touch()
    done = machine.run("hostname() { echo a; }\ntake_turn etcd.service\necho restarted")
    assert (done.returncode, done.stdout) == (1, "")
    assert "no other etcd member renews the lock" in done.stderr
    # The API server needs the member that has the lock.
    done = machine.run("hostname() { echo a; }\ntake_turn kube-apiserver.service\ngive_turn\necho restarted")
    assert (done.returncode, done.stdout) == (0, "restarted\n"), done.stderr


def test_a_single_member_gives_turns_too(machine: EtcdMachine) -> None:
    """Several API servers with one dedicated member: the number of members says nothing of who takes turns."""
    machine.cluster("1 started")
    assert machine.run("take_turn kube-apiserver.service\ngive_turn").returncode == 0
    assert machine.asked() == ["lock /hardway/turn"]


SERVES, BROKEN = "ready_check[kube-apiserver.service]=true", "ready_check[kube-apiserver.service]=false"


@pytest.mark.parametrize("failing", ["member list", "lock"])
def test_a_query_that_fails_once_does_not_skip_the_turn(machine: EtcdMachine, failing: str) -> None:
    machine.cluster("1 started", "2 started", "3 started")
    machine.fails(failing)
    done = machine.run(f'{SERVES}\ntake_turn kube-apiserver.service\necho "$turn_PID"\ngive_turn')
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 0
    assert machine.asked()[-1] == "lock /hardway/turn"


def test_a_unit_that_serves_does_not_restart_without_a_turn(machine: EtcdMachine) -> None:
    done = machine.run(f"{SERVES}\ntake_turn kube-apiserver.service\necho restarted")
    assert done.returncode != 0
    assert done.stdout == ""
    assert "etcd gives no lock" in done.stderr
    assert "context deadline exceeded" in done.stderr
    assert "Nothing was restarted" in done.stderr


def test_a_unit_that_does_not_serve_restarts_where_etcd_does_not_answer(machine: EtcdMachine) -> None:
    """It may be what lets etcd answer again: a repair must not wait for what it repairs."""
    done = machine.run(f"{BROKEN}\ntake_turn kube-apiserver.service\ngive_turn\necho restarted")
    assert (done.returncode, done.stdout) == (0, "restarted\n"), done.stderr


def test_one_unit_that_serves_among_others_needs_the_turn(machine: EtcdMachine) -> None:
    done = machine.run(f"{BROKEN}\nready_check[etcd.service]=true\ntake_turn kube-apiserver.service etcd.service")
    assert done.returncode != 0


def test_another_machine_that_keeps_the_turn_is_an_error(machine: EtcdMachine) -> None:
    machine.cluster("1 started", "2 started")
    Path(f"{machine.members}.held").touch()
    # The clock of `read` is the real one.
    done = machine.run(
        f"{SERVES}\nread() {{ SECONDS=$((SECONDS + 301)); return 142; }}\ntake_turn kube-apiserver.service"
    )
    assert done.returncode != 0
    assert "another machine has been restarting its units for 300 s" in done.stderr


def test_a_machine_that_does_not_serve_after_its_turn_stops_those_that_wait(machine: EtcdMachine) -> None:
    """Else one machine after the other would be broken."""
    machine.cluster("1 started", "2 started", "3 started")
    failed = Path(f"{machine.members}.failed")
    # While this machine waits, the one that has the turn does not come up.
    meanwhile = f"ask_for_turn() {{ echo 'kube-apiserver.service on a does not serve' >{failed}; }}"
    done = machine.run(f"{SERVES}\n{meanwhile}\ntake_turn kube-apiserver.service\necho restarted")
    assert (done.returncode, done.stdout) == (1, "")
    assert "did not restart: kube-apiserver.service on a does not serve" in done.stderr
    # In the next run it is known already, and goes with the first machine that serves.
    done = machine.run(f"{SERVES}\ntake_turn kube-apiserver.service\necho restarted\ngive_turn")
    assert (done.returncode, done.stdout) == (0, "restarted\n"), done.stderr
    assert not failed.exists()
    done = machine.run(f"{SERVES}\ntake_turn kube-apiserver.service\nturn_failed 'it does not serve'")
    assert failed.read_text().startswith("it does not serve (since ")


@pytest.mark.parametrize(("leads", "asked"), [("1", ["move-leader id2"]), ("0", [])])
def test_another_member_leads_before_the_leader_stops(machine: EtcdMachine, leads: str, asked: list[str]) -> None:
    machine.cluster("1 started", "2 started", "3 started")
    (machine.directory / "said").write_text(f"etcd_server_has_leader 1\netcd_server_is_leader {leads}\n")
    done = machine.run("hostname() { echo a; }\ntake_turn etcd.service\ngive_turn")
    assert done.returncode == 0, done.stderr
    assert [each for each in machine.asked() if each.startswith("move-leader")] == asked


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


NOTES = 'systemctl() { echo "$*" >>"$NOTED"; }\ncurl() { :; }'


@pytest.mark.parametrize(
    ("members", "script", "expected"),
    [
        (
            3,
            "take_turn etcd.service\nsystemctl restart etcd.service\ngive_turn",
            ["stop kube-apiserver.service", "restart etcd.service", "start kube-apiserver.service"],
        ),
        (
            3,
            "take_turn etcd.service\nexit 1",
            ["stop kube-apiserver.service", "start --no-block kube-apiserver.service"],
        ),
        (
            3,
            "repaired_later='nginx.service kube-apiserver.service'\ncurl() { return 7; }\n"
            "take_turn etcd.service\nsystemctl restart etcd.service\ngive_turn",
            ["stop kube-apiserver.service", "restart etcd.service", "start --no-block kube-apiserver.service"],
        ),
        (3, "take_turn kube-apiserver.service\ngive_turn", []),
        (1, "take_turn etcd.service\ngive_turn", []),
    ],
    ids=["etcd restarts", "the script fails", "a later step repairs it", "another unit restarts", "a single member"],
)
def test_the_api_server_is_stopped_while_its_member_restarts(
    machine: EtcdMachine, members: int, script: str, expected: list[str]
) -> None:
    """An API server that takes requests and cannot answer them: the balancer sends it clients for seconds."""
    machine.cluster(*(f"{number} started" for number in range(1, members + 1)))
    if members == 1:
        (machine.directory / "client.env").write_text("export ETCDCTL_ENDPOINTS=https://10.0.0.1:2379\n")
    noted = machine.directory / "noted"
    machine.environment["NOTED"] = str(noted)
    machine.run(f"{NOTES}\n{script}")
    lines = noted.read_text().splitlines() if noted.exists() else []
    assert [line for line in lines if not line.startswith("-q is-active")] == expected
