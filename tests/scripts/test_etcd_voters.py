"""Members of etcd that start again after one was replaced, with the etcd of the mirror on the loopback interface."""

import json
import re
import shutil
import subprocess
import urllib.request
from base64 import b64encode
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from engine.ssh_host import free_port
from lab.polling import eventually
from scripts.test_kubernetes_binaries import unpacked
from unit.mocked_engine import Run

__all__ = ["unpacked"]

_VALUE = b64encode(b"x" * 2000).decode()
"""Of each write: after a restart, 500 of them are more than Raft gives to etcd at once."""


class Member:
    """One process of etcd, that is killed and started as a machine's power is cut and comes back."""

    def __init__(self, program: Path, directory: Path, name: str, snapshot_count: str) -> None:
        self._program, self._snapshot_count = program, snapshot_count
        self.name, self.data, self._log = name, directory / name, directory / f"{name}.log"
        self.client, self.peer = (f"http://127.0.0.1:{free_port()}" for _ in range(2))
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, cluster: "list[Member]", *, state: str = "new") -> None:
        members = ",".join(f"{member.name}={member.peer}" for member in cluster)
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [
                    self._program,
                    f"--name={self.name}",
                    f"--data-dir={self.data}",
                    f"--listen-client-urls={self.client}",
                    f"--advertise-client-urls={self.client}",
                    f"--listen-peer-urls={self.peer}",
                    f"--initial-advertise-peer-urls={self.peer}",
                    f"--initial-cluster={members}",
                    f"--initial-cluster-state={state}",
                    f"--snapshot-count={self._snapshot_count}",
                ],
                stdout=log,
                stderr=log,
            )

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def ends(self) -> int:
        """Its status, once it has ended by itself."""
        assert self._process is not None
        return self._process.wait(timeout=60)

    def log(self) -> str:
        return self._log.read_text()

    def ask(self, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        data = None if body is None else json.dumps(body).encode()
        with urllib.request.urlopen(urllib.request.Request(self.client + path, data), timeout=5) as answer:
            found: dict[str, Any] = json.load(answer)
            return found

    def answers(self) -> bool:
        """Whether it serves a linearizable read."""
        return "header" in self.ask("/v3/kv/range", {"key": b64encode(b"a").decode()})

    def voters(self) -> set[str]:
        """Raft's, as the process said last."""
        found = re.findall(r"switched to configuration voters=\(([\d ]*)\)", self._log.read_text())
        return set(found[-1].split())


@pytest.fixture
def members(ha: Run, unpacked: Path, tmp_path: Path) -> Iterator[list[Member]]:
    """Three, with the snapshot count that a lab's members have."""
    count = ha.flags(ha.etcd_step, "etcd")["snapshot-count"]
    made = [Member(unpacked / "etcd", tmp_path, name, count) for name in ("a", "b", "c")]
    with ExitStack() as stack:
        for member in made:
            stack.callback(member.kill)
        yield made


def test_a_member_knows_raft_voters_after_restarts(members: list[Member]) -> None:
    """As in a lab whose controller was replaced, and whose others then lose their power twice."""
    first, second, third = members
    first.start(members)
    second.start(members)
    # The first cluster version is 3.0 where a member is late: to the log's reader, 3.6 to 3.0 is a downgrade.
    eventually("a version without the third", lambda: first.ask("/version")["etcdcluster"] == "3.0.0", seconds=30)
    third.start(members)
    eventually("the version of all", lambda: first.ask("/version")["etcdcluster"] == "3.6.0", seconds=30)
    for _ in range(600):
        first.ask("/v3/kv/put", {"key": b64encode(b"a").decode(), "value": _VALUE})

    second.kill()
    shutil.rmtree(second.data)
    (old,) = (each["ID"] for each in _list(first) if each["name"] == second.name)
    eventually("the removal", lambda: first.ask("/v3/cluster/member/remove", {"ID": old}), seconds=30)
    new = eventually(
        "a learner",
        lambda: first.ask("/v3/cluster/member/add", {"peerURLs": [second.peer], "isLearner": True}),
        seconds=30,
    )["member"]["ID"]
    second.start(members, state="existing")
    eventually("its promotion", lambda: first.ask("/v3/cluster/member/promote", {"ID": new}), seconds=30)

    for _ in range(2):
        third.kill()
        third.start(members)
        eventually("the third member", third.answers, seconds=30)
    assert third.voters() == {each["ID"] for each in _list(first)}


def test_a_founder_that_starts_late_has_no_client_url_before_and_founds_with_the_others(members: list[Member]) -> None:
    """What `never_started` in etcd.sh relies on; and that etcd refuses it for a member that has lost its data."""
    first, second, third = members
    first.start(members)
    second.start(members)
    eventually("two serve", first.answers, seconds=30)
    before = {each["name"]: each.get("clientURLs", []) for each in _list(first)}
    assert before == {"a": [first.client], "b": [second.client], "c": []}
    known = {each["ID"] for each in _list(first)}

    third.start(members)
    eventually("the third serves", third.answers, seconds=30)
    assert {each["ID"] for each in _list(third)} == known == third.voters()
    eventually("its client URL", lambda: all(each.get("clientURLs") for each in _list(first)), seconds=30)

    third.kill()
    shutil.rmtree(third.data)
    third.start(members)
    assert third.ends() != 0
    assert "has already been bootstrapped" in third.log()


def _list(member: Member) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = member.ask("/v3/cluster/member/list", {})["members"]
    return found
