"""`./hardway restore`: the whole cluster as a snapshot says it, from whatever state its etcd is in.

Everything is checked, and every member's new data directory made beside its old one, before anything is changed. Then
the control plane and etcd stop, the data directories change places, and all starts again. It may be killed anywhere
and run again: it does the same from the beginning.

From its stop until all members have their new data, etcd is masked on every member (where it is a static pod, the
kubelet is), also across a reboot: a member with old data must not start beside one with new data. The new data carry a
cluster token of their own, so that a member which has old data nevertheless is refused by the others.

The revision goes up by at least 1,000,000,000, and all older ones count as compacted: clients that watched the old
cluster (kubelets, controllers) must read everything again, instead of waiting for revisions that occur a second time.

Source: https://etcd.io/docs/v3.6/op-guide/recovery/
"""

import json
import secrets
import subprocess
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from shlex import quote
from typing import TypeVar

from config.machine_paths import KUBECTL, LEFT_ASIDE
from config.machines import Role
from config.ports import API_PORT
from live import nodes
from live.cluster import Cluster, LiveMachine
from live.control_plane import ControlPlane, control_plane
from live.probe import Probe, probe_all
from live.programs import LEADERS
from live.snapshot_file import is_of, problems_of, sha256
from live.status.etcd import members
from toolchain import operations
from toolchain.errors import ToolchainError
from toolchain.progress import Report

_COMMAND = "./hardway restore"
_BUMP = 1_000_000_000
_DATA = "/var/lib/etcd"
_STAGE = LEFT_ASIDE
_SNAPSHOT = f"{_STAGE}/snapshot.db"
_NEW = f"{_STAGE}/data"
# What the files of the data directory were when a restore put it there. While they are the same, etcd has not started
# on them, and no copy of them is kept: the copies of earlier data would be pruned for it.
_NEVER_STARTED = f"{_STAGE}/never-started"
_FILES = f"find {_DATA}/member -type f -printf '%P %s %T@ %i\\n' | sort | sha256sum"
# A unit file here counts before all others.
_MASKS = "/etc/systemd/system.control"
_KEEP = 3
# The API server of its own machine: the balancer has yet to see that it is there.
_KUBECTL = f"{KUBECTL} --server https://127.0.0.1:{API_PORT}"
_NODES_SECONDS = 150
_T = TypeVar("_T")


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What a machine has that a restore needs.

    Args:
        programs: whether etcd's programs are there.
        unit: whether etcd's unit is there, or its static pod.
        token: --initial-cluster-token in that.
        identity: of the etcd CA, see machine_paths.IDENTITY_KEY.
        free: bytes on the disk with etcd's data.
        control_plane: whether the API server's unit is there, or its static pod.
        revision: the highest in the data of a member that does not run, those of earlier restores among them.
    """

    programs: bool
    unit: bool
    token: str
    identity: str
    free: int
    control_plane: bool
    revision: int = 0


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a restore that passed its checks works with.

    Args:
        file: the snapshot.
        sum: its sha256.
        token: of the new etcd cluster.
        live_revision: the highest revision that a member or its data have; 0 if there is none.
        controllers: those that have a control plane.
    """

    file: Path
    sum: str
    token: str
    live_revision: int
    controllers: list[LiveMachine]


def restore(cluster: Cluster, file: Path) -> None:
    """Make the cluster what a snapshot says.

    Raises:
        ToolchainError: a check failed, and nothing was changed; or a machine failed on the way.
    """
    with operations.without_pulumi(cluster.stack, _COMMAND), Report() as report:
        with report.part("checks"):
            plan = _check(cluster, file)
        with report.part("new data directories beside the old ones"):
            revision = _prepare(cluster, plan)
        _swap(cluster, plan, control_plane(cluster), report)
    print(f"\nThe cluster is what {file} says; its revision was {revision[0]} there and is {revision[1]} or more now.")
    if absent := [each.name for each in cluster.with_role(Role.CONTROLLER) if each not in plan.controllers]:
        names = ", ".join(absent)
        print(f"There was never a control plane on {names}: `./hardway up -s {cluster.stack.name}` creates it.")


def _check(cluster: Cluster, file: Path) -> Plan:
    """Look at everything that a restore needs, on the Pulumi host and on the machines.

    Raises:
        ToolchainError: with all that is wrong.
    """
    probes = probe_all(cluster)
    needed = _needed(cluster)
    reached = [probe.machine for probe in probes if probe.reached and probe.machine in needed]
    facts = dict(
        zip([each.name for each in reached], _on_all(reached, lambda each: _facts(cluster, each)), strict=True)
    )
    if problems := find_problems(cluster, file, probes, facts):
        raise ToolchainError(
            f"{file} cannot be restored in the lab {cluster.stack.name}; nothing was changed.\n"
            + "\n".join(f"  - {problem}" for problem in problems)
        )
    return Plan(
        file=file,
        sum=sha256(file),
        token=f"{facts[cluster.etcd_members[0].name].token}-{secrets.token_hex(8)}",
        live_revision=max(
            [each.revision or 0 for each in members(cluster, probes)] + [each.revision for each in facts.values()]
        ),
        controllers=[each for each in cluster.with_role(Role.CONTROLLER) if facts[each.name].control_plane],
    )


def find_problems(cluster: Cluster, file: Path, probes: Sequence[Probe], facts: Mapping[str, Facts]) -> list[str]:
    """All that speaks against a restore.

    Args:
        cluster: the lab.
        file: the snapshot.
        probes: what the machines said.
        facts: machine -> what it has, of those that were reached.
    """
    found = list(problems_of(file))
    readable = not found
    for probe in probes:
        if probe.machine in _needed(cluster) and not probe.reached:
            found.append(
                f"{probe.machine.name} does not answer ({probe.missing}), and all members are restored together: "
                f"start it, or `./hardway replace {probe.machine.name}` first"
            )
    for member in cluster.etcd_members:
        has = facts.get(member.name)
        if has is None:
            continue
        if not has.programs or not has.unit or not has.token or not has.identity:
            found.append(
                f"{member.name} has no etcd with programs, unit and certificates: `./hardway up` installs them"
            )
        elif readable:
            # The uploaded file, the new data directory, and as much again for the writes to come.
            wanted = 3 * file.stat().st_size + 100 * 2**20
            if has.free < wanted:
                found.append(f"{member.name} has {has.free >> 20} MiB of disk free, {wanted >> 20} MiB are wanted")
    for what, values in (
        ("etcd CAs", {has.identity for has in facts.values() if has.identity}),
        ("cluster tokens", {has.token for has in facts.values() if has.token}),
    ):
        if len(values) > 1:
            found.append(f"the members have different {what}: `./hardway up` gives them one")
    for identity in {has.identity for has in facts.values() if has.identity}:
        if readable and not is_of(file, identity):
            found.append(
                f"{file} is not of this lab: neither the data in it nor its sidecar have the lab's mark "
                f"({identity[:16]}...). A lab that was destroyed and created again is another one, with other keys"
            )
    return found


def _facts(cluster: Cluster, machine: LiveMachine) -> Facts:
    own = control_plane(cluster)
    user = own.owner.partition(":")[0]
    script = f"""
etcdutl version >/dev/null 2>&1 && etcdctl version >/dev/null 2>&1 && id -u {user} >/dev/null && echo programs=yes
{own.facts}
[ -e /etc/etcd/etcdctl.env ] && . /etc/etcd/etcdctl.env && [ -e "$ETCDCTL_CACERT" ] &&
  echo "identity=$(openssl x509 -in "$ETCDCTL_CACERT" -outform der | sha256sum | cut -d ' ' -f 1)"
echo "free=$(df -B1 --output=avail {_DATA} {_STAGE} /var/lib 2>/dev/null | sed 1d | sort -n | head -n 1)"
{REVISIONS}"""
    printed = _run(cluster, machine, script, seconds=60, changes=False)
    said = dict(line.split("=", 1) for line in printed.splitlines() if "=" in line)
    return Facts(
        programs="programs" in said,
        unit="unit" in said,
        token=said.get("token", ""),
        identity=said.get("identity", ""),
        free=int(said.get("free", "0")),
        control_plane="control_plane" in said,
        revision=int(said.get("revision", "0")),
    )


# A member that runs has its database locked, and tells its revision by itself.
REVISIONS = f"""
revision=0
for db in {_DATA}/member/snap/db {_STAGE}/before-*/member/snap/db; do
  [ -s "$db" ] && flock -s -n "$db" true || continue
  [[ $(etcdutl snapshot status "$db" -w json 2>/dev/null) =~ \\"revision\\":([0-9]+) ]] || continue
  [ "${{BASH_REMATCH[1]}}" -le "$revision" ] || revision=${{BASH_REMATCH[1]}}
done
echo "revision=$revision"
"""


def _prepare(cluster: Cluster, plan: Plan) -> tuple[int, int]:
    """Bring the snapshot to all members and make a data directory of it on each.

    Returns:
        The snapshot's revision, and the one that the cluster starts with.

    Raises:
        ToolchainError: a member could not; the old data are where they were.
    """
    try:
        _on_all(cluster.etcd_members, lambda each: _upload(cluster, each, plan))
        state = json.loads(_run(cluster, cluster.etcd_members[0], f"etcdutl snapshot status {_SNAPSHOT} -w json"))
        revision = int(state["revision"])
        # Above all that anybody has seen, also where a snapshot is restored for the second time.
        bump = _BUMP + max(0, plan.live_revision - revision)
        _on_all(
            cluster.etcd_members,
            lambda each: _run(cluster, each, data_directory(cluster, each, plan.token, bump), seconds=300),
        )
    except ToolchainError as error:
        _on_all(cluster.etcd_members, lambda each: cluster.change(each, f"rm -rf {_SNAPSHOT} {_NEW}", command=_COMMAND))
        raise ToolchainError(f"{error}\nThe cluster was not changed.") from None
    return revision, revision + bump


def data_directory(cluster: Cluster, member: LiveMachine, token: str, bump: int) -> str:
    """The shell lines that make a member's data directory of the snapshot on its machine."""
    initial = ",".join(f"{each.name}={_peer(each)}" for each in cluster.etcd_members)
    return (
        " \\\n  ".join(
            [
                f"rm -rf {_NEW} && umask 077 && etcdutl snapshot restore {_SNAPSHOT}",
                f"--name={member.name}",
                f"--initial-cluster={initial}",
                f"--initial-cluster-token={quote(token)}",
                f"--initial-advertise-peer-urls={_peer(member)}",
                f"--data-dir={_NEW}",
                f"--bump-revision={bump}",
                "--mark-compacted >/dev/null",
            ]
        )
        + f" && chown -R {control_plane(cluster).owner} {_NEW} && rm {_SNAPSHOT}"
    )


def _swap(cluster: Cluster, plan: Plan, own: ControlPlane, report: Report) -> None:
    """From the old data to the new ones, and everything running again."""
    before = f"{_STAGE}/before-{datetime.now(UTC):%Y%m%dT%H%M%SZ}"
    with report.part("control plane stops"):
        _on_all(plan.controllers, lambda each: _run(cluster, each, own.stop, seconds=120))
    with report.part("etcd stops, masked"):
        _on_members(cluster, plan, "etcd stops, masked", stop_and_mask(own))
    with report.part("new data in the place of the old"):
        kept = _on_members(cluster, plan, "new data in the place of the old", swap(before, own))
    with report.part("etcd starts"):
        _on_all(cluster.etcd_members, lambda each: _run(cluster, each, unmask_and_start(own), seconds=150))
    since = nodes.now()
    with report.part("API servers start"):
        _on_all(plan.controllers, lambda each: _run(cluster, each, own.start_api_server, seconds=150))
    with report.part("controller managers and schedulers start"):
        # Their holders have ended. Without the deletion the new ones would wait 15 s for the leases to expire.
        for controller in plan.controllers[:1]:
            _run(cluster, controller, f"{_KUBECTL} -n kube-system delete lease --ignore-not-found {' '.join(LEADERS)}")
        _on_all(plan.controllers, lambda each: _run(cluster, each, own.start_leaders, seconds=150))
    with report.part("nodes are heard of and Ready"):
        _nodes(cluster, since)
    _on_all(cluster.etcd_members, lambda each: _run(cluster, each, KEEP_THE_LAST))
    where = [member.name for member, said in zip(cluster.etcd_members, kept, strict=True) if said.strip()]
    if where:
        report.note(f"The data from before lie in {before} on {', '.join(where)}; the last {_KEEP} such are kept.")


def _on_members(cluster: Cluster, plan: Plan, part: str, script: str) -> list[str]:
    """Run a script on all members, between the stop of etcd and its start; return what each printed.

    Raises:
        ToolchainError: it failed on one or more: where, why, in which state all are, and what to run.
    """

    def run(member: LiveMachine) -> str | ToolchainError:
        try:
            return _run(cluster, member, script, seconds=120)
        except ToolchainError as error:
            return error

    ended = _on_all(cluster.etcd_members, run)
    if failed := [each for each in ended if isinstance(each, ToolchainError)]:
        unit = control_plane(cluster).etcd_unit
        raise ToolchainError(
            f"The restore stopped. This failed: {part}.\n"
            + "\n".join(f"  - {each}" for each in failed)
            + f"\n{unit} is masked on {', '.join(each.name for each in cluster.etcd_members)} (where SSH reached "
            "them), also after a reboot: members with old and with new data must not run at the same time. The cluster "
            f"is down; no data are lost, they are in {_DATA} or {_STAGE} on each member.\n"
            "Repair what is named above, then run the same command again; it begins from the start:\n"
            f"  ./hardway restore -s {cluster.stack.name} {plan.file}"
        )
    return [each for each in ended if isinstance(each, str)]


def stop_and_mask(own: ControlPlane) -> str:
    """The shell lines that stop a member, so that nothing but `unmask_and_start` starts it again."""
    return f"""set -eu
install -d {_MASKS}
ln -sfn /dev/null {_MASKS}/{own.etcd_unit}
systemctl daemon-reload
{own.stop_etcd}if [ -e {_DATA}/member/snap/db ] && ! flock -s -n {_DATA}/member/snap/db true; then
  echo "a process still has {_DATA}/member/snap/db open: etcd has not ended" >&2
  exit 1
fi
"""


def unmask_and_start(own: ControlPlane) -> str:
    """The shell lines that start a member on its new data."""
    return f"""set -eu
rm -f {_NEVER_STARTED} {_MASKS}/{own.etcd_unit}
rmdir {_MASKS} 2>/dev/null || true
systemctl daemon-reload
{own.start_etcd}"""


def swap(before: str, own: ControlPlane) -> str:
    """The shell lines that give a stopped member its new data; they print `before` where old data went there."""
    user, group = own.owner.split(":")
    private = f"install -d -m 0700 -o {user} -g {group}"
    return f"""set -eu
[ -d {_NEW}/member ] || {{ echo "{_NEW}/member is not there" >&2; exit 1; }}
if [ -e {_DATA}/member ]; then
  if [ "$({_FILES})" = "$(cat {_NEVER_STARTED} 2>/dev/null)" ]; then
    rm -rf {_DATA}/member
  else
    {private} {before}
    mv -T {_DATA}/member {before}/member || {{ rmdir {before}; exit 1; }}
    echo {before}
  fi
fi
rm -f {_NEVER_STARTED}
{private} {_DATA}
mv -T {_NEW}/member {_DATA}/member
{_FILES} >{_NEVER_STARTED}
rmdir {_NEW}
"""


# Only what `swap` has made: its names are times.
KEEP_THE_LAST = f"""set -eu
shopt -s nullglob
old=()
for directory in {_STAGE}/before-*; do
  [[ $directory =~ /before-[0-9]{{8}}T[0-9]{{6}}Z$ && -d $directory/member && ! -L $directory ]] && old+=("$directory")
done
for ((number = 0; number < ${{#old[@]}} - {_KEEP}; number++)); do rm -rf "${{old[number]}}"; done
rmdir {_STAGE} 2>/dev/null || true
"""


def _nodes(cluster: Cluster, since: datetime) -> None:
    """Wait for the nodes; those that the snapshot does not know register again.

    Raises:
        ToolchainError: one did not come.
    """
    wanted = [machine.name for machine in cluster.nodes]
    unknown = sorted(set(wanted) - nodes.names_in_api(cluster, seconds=60))
    for name in unknown:
        # A kubelet registers its Node when it starts, and not again.
        _run(cluster, cluster.machine(name), "systemctl restart kubelet.service")
    missing = nodes.wait_until_heard(cluster, wanted, since=since, seconds=_NODES_SECONDS)
    for name in set(unknown) - missing.keys():
        machine = cluster.machine(name)
        patch = {"spec": {"podCIDR": machine.pod_cidr, "podCIDRs": [machine.pod_cidr]}}
        cluster.kubectl("patch", f"node/{name}", "-p", json.dumps(patch))
        if Role.CONTROLLER in machine.roles:
            _run(cluster, machine, f"kubeadm init phase mark-control-plane --node-name {name} >/dev/null")
    if missing:
        raise ToolchainError(
            "The data are restored and the control plane serves, but not all Nodes are Ready after "
            f"{cluster.allowed(_NODES_SECONDS):.0f} s:{nodes.report(cluster, missing)}"
        )


def _needed(cluster: Cluster) -> list[LiveMachine]:
    """The machines without which there is no restore: those with etcd, and those whose API servers must stop."""
    return [
        machine for machine in cluster.machines if machine in cluster.etcd_members or Role.CONTROLLER in machine.roles
    ]


def _peer(member: LiveMachine) -> str:
    return f"https://{member.address}:2380"


def _upload(cluster: Cluster, member: LiveMachine, plan: Plan) -> None:
    """Bring the snapshot to a member, whole."""
    script = (
        f"set -eu; umask 077; mkdir -p {_STAGE}; cat >{_SNAPSHOT}; "
        f"echo '{plan.sum}  {_SNAPSHOT}' | sha256sum --check --quiet"
    )
    with plan.file.open("rb") as content:
        try:
            done = cluster.change(member, script, command=_COMMAND, stdin=content, seconds=600)
        except subprocess.TimeoutExpired as late:
            raise ToolchainError(f"{member.name} did not take the snapshot within {late.timeout:.0f} s") from None
    if done.returncode != 0:
        raise ToolchainError(f"{member.name} did not take the snapshot: {(done.stderr or done.stdout).strip()}")


def _run(cluster: Cluster, machine: LiveMachine, script: str, *, seconds: float = 60, changes: bool = True) -> str:
    """What a script on a machine prints; one that changes the machine holds the machine's lock.

    Raises:
        ToolchainError: it failed, or took too long.
    """
    try:
        if changes:
            done = cluster.change(machine, script, command=_COMMAND, seconds=seconds)
        else:
            done = cluster.ssh(machine, script, seconds=seconds)
    except subprocess.TimeoutExpired:
        raise ToolchainError(
            f"{machine.name} was not done within {cluster.allowed(seconds):.0f} s; run the same command again."
        ) from None
    if done.returncode != 0:
        raise ToolchainError(f"{machine.name}: {(done.stderr.strip() or done.stdout.strip())}")
    return done.stdout


def _on_all(machines: Sequence[LiveMachine], do: Callable[[LiveMachine], _T]) -> list[_T]:
    """Do something on machines side by side; all end before the first error is raised."""
    with ThreadPoolExecutor(max_workers=max(1, len(machines))) as threads:
        futures = [threads.submit(do, machine) for machine in machines]
    return [future.result() for future in futures]
