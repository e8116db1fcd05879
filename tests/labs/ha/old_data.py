"""A bug to be found: an etcd member that starts with old data, and acknowledged writes that are lost by it."""

import time

from config.machine_paths import LIBRARY, USE_ETCD
from config.ports import PEER_PORT
from live.cluster import Cluster, LiveMachine
from live.drills.faults import Fault
from live.drills.leadership import etcd_leader
from live.drills.probes import OWN_MEMBER
from toolchain.errors import ToolchainError

_COPY = "/var/lib/etcd.old-copy"
_WRITES = 15
_SECONDS = 60


class OldData(Fault):
    """One member's data are those of before, while the member that has the new ones is away.

    Writes are acknowledged by two members while the third is stopped. Of these two, one gets the data back that it had
    before the writes, and the other is stopped. The first then has a quorum with the third, and neither has the writes.
    Nothing of it is forbidden to an administrator who restores a directory from a backup of the file system.
    """

    def __init__(self, cluster: Cluster) -> None:
        leader = etcd_leader(cluster)
        self._knows = leader
        self._old, self._absent = [member for member in cluster.etcd_members if member != leader]
        self._is_lost = False
        super().__init__(cluster, *cluster.etcd_members)

    def inject(self) -> float:
        injected_at = time.time()
        self._ssh(
            self._old,
            f"""set -e
            systemctl stop etcd.service
            rm -rf {_COPY}
            cp -a --sparse=always /var/lib/etcd/member {_COPY}
            systemctl start etcd.service""",
            seconds=120,
        )
        self._ssh(self._absent, "systemctl stop etcd.service")
        self._await_writes(self._knows)
        self._is_lost = True
        self._ssh(self._old, "systemctl kill --signal=KILL etcd.service; systemctl stop etcd.service")
        self._ssh(self._knows, "systemctl kill --signal=KILL etcd.service; systemctl stop etcd.service")
        self._ssh(self._old, f"set -e; rm -rf /var/lib/etcd/member; mv {_COPY} /var/lib/etcd/member")
        for member in (self._old, self._absent):
            self._ssh(member, "systemctl start --no-block etcd.service")
        self._await_writes(self._absent)
        return injected_at

    def recover(self) -> None:
        """Have three members again: the one that has the lost writes joins those that do not."""
        for member in (self._old, self._absent):
            self._ssh(member, f"systemctl start etcd.service; rm -rf {_COPY}", seconds=120)
        if not self._is_lost:
            return
        peer = f"https://{self._knows.address}:{PEER_PORT}"
        self._ssh(
            self._knows,
            f""". {LIBRARY}
            {USE_ETCD}
            rm -rf /var/lib/etcd/member
            join_what_answers {self._knows.name} {peer}
            systemctl start --no-block etcd.service
            wait_for 90 'a healthy voting member' 'member_serves {peer}'""",
            seconds=240,
        )

    def _await_writes(self, member: LiveMachine) -> None:
        """Wait until a member has so many writes more than now."""
        before, deadline = self._revision(member, _SECONDS), time.monotonic() + _SECONDS
        while self._revision(member, _SECONDS) < before + _WRITES:
            if time.monotonic() > deadline:
                raise ToolchainError(f"{member.name} has no {_WRITES} writes more within {_SECONDS} s.")
            time.sleep(0.5)

    def _revision(self, member: LiveMachine, seconds: int) -> int:
        # Once it has a leader: without one its revision does not count.
        said = self._ssh(
            member,
            f"""{OWN_MEMBER}
            until etcdctl endpoint health >/dev/null 2>&1; do
              [ $SECONDS -lt {seconds} ] || {{ echo "no healthy member" >&2; exit 1; }}
              sleep 0.2
            done
            etcdctl endpoint status -w json | grep -o '"revision":[0-9]*'""",
            seconds=seconds + 30,
        )
        return int(said.split(":")[1])
