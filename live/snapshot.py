"""`./hardway snapshot`: the whole content of the cluster, from a healthy etcd member into a file on the Pulumi host."""

import json
import os
import shutil
import subprocess
import threading
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from shlex import quote
from typing import Any

from config.machine_paths import IDENTITY_KEY
from config.whole_file import write_whole
from live.cluster import Cluster
from live.probe import probe_all
from live.snapshot_file import Sidecar, problems_of, sha256, sidecar_of
from live.status.etcd import MemberStatus, members
from toolchain import access
from toolchain.errors import ToolchainError

# Not in /tmp, which is memory.
_SCRATCH = "/var/tmp"
# Bytes that a snapshot leaves free on a disk, the member's and the Pulumi host's, beside what it needs.
_RESERVE = 512 << 20
_SECONDS = 600
# The first line that it prints is JSON, then comes the snapshot, byte for byte.
_TAKE = f"""set -euo pipefail
umask 077
. /etc/etcd/etcdctl.env
export ETCDCTL_ENDPOINTS=https://127.0.0.1:2379
scratch=$(mktemp -d -p {_SCRATCH} hardway-snapshot.XXXXXX)
trap 'rm -rf "$scratch"' EXIT
identity=$(openssl x509 -in "$ETCDCTL_CACERT" -outform der | sha256sum | cut -d ' ' -f 1)
if [ "$(etcdctl get --consistency=s --print-value-only {IDENTITY_KEY})" != "$identity" ]; then
  # A cluster without a quorum takes no writes, and may need a snapshot the more: its sidecar says whose it is.
  etcdctl put {IDENTITY_KEY} "$identity" >/dev/null || true
fi
state=$(etcdctl endpoint status -w json)
[[ $state =~ \\"dbSize\\":([0-9]+) ]] || {{
  echo "etcdctl does not tell the size of the database: $state" >&2
  exit 1
}}
wanted=$((2 * BASH_REMATCH[1] + {_RESERVE})) free=$(df -B1 --output=avail "$scratch" | tail -n 1)
[ "$free" -ge "$wanted" ] || {{
  echo "$((free >> 20)) MiB are free in {_SCRATCH}, $((wanted >> 20)) MiB are needed: free some" >&2
  exit 1
}}
etcdctl snapshot save "$scratch/snapshot" >/dev/null
state=$(etcdutl snapshot status "$scratch/snapshot" -w json)
sum=$(sha256sum <"$scratch/snapshot" | cut -d ' ' -f 1)
version=$(etcdctl version | sed -n 's/^etcdctl version: //p')
printf '{{"identity": "%s", "state": %s, "sha256": "%s", "etcd": "%s", "bytes": %s}}\\n' \\
  "$identity" "$state" "$sum" "$version" "$(stat -c %s "$scratch/snapshot")"
cat "$scratch/snapshot"
"""


def take(cluster: Cluster, file: Path | None) -> Path:
    """Take a snapshot, check it, and write it with its sidecar; say what it is.

    Args:
        cluster: the lab.
        file: where to; else a new one in .state/<stack>/snapshots.

    Returns:
        The file.

    Raises:
        ToolchainError: no member can give one, the file exists, or what came is not whole. Then there is no file.
    """
    if file is not None and (file.exists() or sidecar_of(file).exists()):
        raise ToolchainError(f"{file} or its sidecar exists already. Nothing was changed.")
    if file is not None and not file.parent.is_dir():
        raise ToolchainError(f"{file.parent} is no directory. Nothing was changed.")
    member, why = best(members(cluster, probe_all(cluster)))
    directory = cluster.stack.directory / "snapshots" if file is None else file.parent
    directory.mkdir(mode=0o700, exist_ok=True)
    draft = directory / f".snapshot.{os.getpid()}"
    try:
        said = _receive(cluster, member, draft)
        taken = datetime.now(UTC)
        facts = Sidecar(
            sha256=said["sha256"],
            etcd_hash=f"{said['state']['hash']:08x}",
            revision=said["state"]["revision"],
            keys=said["state"]["totalKey"],
            size=draft.stat().st_size,
            time=taken.strftime("%Y-%m-%dT%H:%M:%SZ"),
            member=member,
            etcd=said["etcd"],
            kubernetes=_kubernetes(cluster),
            lab=said["identity"],
            stack=cluster.stack.name,
        )
        _check(draft, facts, member)
        file = file or directory / f"{cluster.stack.name}-{taken:%Y%m%dT%H%M%SZ}-r{facts.revision}.db"
        write_whole(sidecar_of(file), facts.json())
        draft.rename(file)
    finally:
        with suppress(FileNotFoundError):
            draft.unlink()
    print(f"snapshot    {file}")
    print(f"taken from  {member}, {why}")
    print(f"revision    {facts.revision}, {facts.keys} keys, {facts.size / 2**20:.1f} MiB, etcd hash {facts.etcd_hash}")
    print(f"sha256      {facts.sha256}")
    print("It contains the whole content of the cluster, including Secrets: protect it like a key.")
    print(f"To restore it: ./hardway restore -s {cluster.stack.name} {file}")
    return file


def best(found: list[MemberStatus]) -> tuple[str, str]:
    """The machine of the member to take a snapshot from, and why that.

    Raises:
        ToolchainError: none answers.
    """
    answering = [each for each in found if each.machine is not None and each.revision is not None]
    if not answering:
        said = "\n".join(f"  - {each.name or each.machine}: {each.message}" for each in found)
        raise ToolchainError(f"No etcd member answers, so there is nothing to take a snapshot from:\n{said}")
    for each in answering:
        if each.healthy and each.role == "leader":
            return str(each.machine), "the leader"
    healthy = [each for each in answering if each.healthy]
    latest = max(healthy or answering, key=lambda each: each.revision or 0)
    return str(latest.machine), (
        "a healthy member with the highest revision"
        if healthy
        else "the member with the highest revision; none is healthy: the cluster takes no writes"
    )


def _receive(cluster: Cluster, member: str, draft: Path) -> dict[str, Any]:
    """Have a member take a snapshot; write it to a file, and return what the member said about it."""
    # A machine that dies in the middle is noticed.
    alive = ("-o", f"ServerAliveInterval={cluster.allowed(5):.0f}", "-o", "ServerAliveCountMax=3")
    # One that hangs is ended there, and where the machine does not do so, here.
    seconds = cluster.allowed(_SECONDS)
    script = f"timeout {seconds:.0f} bash -c {quote(_TAKE)}"
    command = [*access.ssh_command(cluster.stack), *alive, member, cluster.machine(member).as_root(script)]
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with (
        os.fdopen(descriptor, "wb") as out,
        subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process,
    ):
        late = threading.Timer(seconds + cluster.allowed(30), process.kill)
        late.start()
        try:
            assert process.stdout is not None and process.stderr is not None
            if said := _said(process.stdout.readline()):
                _check_room(draft, said["bytes"])
            shutil.copyfileobj(process.stdout, out)
            error = process.stderr.read().decode(errors="replace")
            out.flush()
            os.fsync(out.fileno())
            process.wait()
        except BaseException:
            process.kill()
            raise
        finally:
            late.cancel()
    # 124 is `timeout`'s, and one that was killed here has a negative status.
    if process.returncode == 124 or process.returncode < 0:
        raise ToolchainError(f"{member} did not give a snapshot within {seconds:.0f} s: is it slow, or frozen?")
    if process.returncode != 0 or not said:
        raise ToolchainError(f"{member} could not take a snapshot:\n{error.strip() or 'it says no reason'}")
    return said


def _said(head: bytes) -> dict[str, Any]:
    """What the member said first; nothing where it ended before."""
    said: dict[str, Any] = {}
    with suppress(ValueError):
        said = json.loads(head)
    return said


def _check_room(draft: Path, size: int) -> None:
    wanted = size + _RESERVE
    free = shutil.disk_usage(draft.parent).free
    if free < wanted:
        raise ToolchainError(
            f"{draft.parent} has {free >> 20} MiB of disk free, and {wanted >> 20} MiB are needed: "
            "free some, or name a file elsewhere."
        )


def _check(draft: Path, facts: Sidecar, member: str) -> None:
    wrong = list(problems_of(draft))
    if not wrong and sha256(draft) != facts.sha256:
        wrong = [f"its sha256 on {member} was {facts.sha256}"]
    if wrong:
        raise ToolchainError(f"What came from {member} is not the snapshot that it took: {'; '.join(wrong)}")


def _kubernetes(cluster: Cluster) -> str | None:
    """The version of the API server that answers at the endpoint."""
    try:
        asked = cluster.kubectl("version", "-o", "json", f"--request-timeout={cluster.allowed(5):.0f}s", seconds=15)
        said = json.loads(asked.stdout)
    except (ValueError, subprocess.TimeoutExpired):
        return None
    version: str | None = said.get("serverVersion", {}).get("gitVersion")
    return version
