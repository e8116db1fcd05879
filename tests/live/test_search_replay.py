"""A failure is repeated by the command that its run prints: the same fault and the same clients; it is found again."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
import small_lab
from memory_api import MemoryApi, serving

from cli import main as command
from live import search
from live.cluster import Cluster
from live.drills.faults import Fault
from live.search import history
from live.search import run as order
from live.search.plan import Planned, plan
from live.search.run import Place, Verdict

# Three kills, which take no time here; the second is that of the planted bug.
SEED, COUNT, FAILS = 2113, 3, 2


class OldData(Fault):
    """The planted bug: a kill of etcd on controller-1 restores old data; other faults do nothing."""

    def __init__(self, lab: Cluster, planned: Planned, api: MemoryApi) -> None:
        super().__init__(lab)
        self._planned, self._api = planned, api

    def inject(self) -> float:
        if (self._planned.machine, self._planned.program) == ("controller-1", "etcd"):
            with self._api.lock:
                self._api.objects, self._api.version = {}, 100
        return 0.0


@pytest.fixture
def api() -> Iterator[MemoryApi]:
    with serving() as made:
        yield made


@pytest.fixture(autouse=True)
def lab(api: MemoryApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cluster:
    """A lab that exists on paper, with an API that answers and the planted bug."""
    made = small_lab.searched(tmp_path, monkeypatch, api)
    monkeypatch.setattr(order, "data_path_complaints", lambda cluster, api: [])
    monkeypatch.setattr(order, "_different_members", lambda place: [])

    def inject(planned: Planned, place: Place) -> Verdict:
        return order.inject(planned, place, lambda each, lab, _: OldData(lab, each, api))

    monkeypatch.setattr(search, "inject", inject)
    return made


def asked(lab: Cluster) -> dict[int, list[str]]:
    """Which objects each client of the fault that fails asked for, one after the other."""
    operations, _ = history.read(lab.stack.directory / "search" / f"{FAILS}.jsonl")
    return {client: [each.key[-1] for each in operations if each.client == client] for client in range(4)}


def test_a_failure_is_repeated_by_the_command_that_is_printed(lab: Cluster, capsys: pytest.CaptureFixture[str]) -> None:
    does = [str(each) for each in plan(lab, SEED, COUNT)]
    assert command.main(["--stack", "paper", "search", "--seed", str(SEED), "--faults", str(COUNT)]) == 1
    said, first = capsys.readouterr().out, asked(lab)
    assert f"Fault {FAILS} of {COUNT}: {does[FAILS - 1]}; " in said
    assert "its history is not linearizable" in said
    printed = re.search(r"^Repeat fault (\d+): hardway search -s paper --seed (\d+) (.*)$", said, re.MULTILINE)
    assert printed is not None
    number, seed, words = printed.groups()
    assert (number, seed) == (str(FAILS), str(SEED))
    # As the Makefile calls it.
    assert command.main(["--stack", "paper", "search", "--seed", seed, *shlex.split(words)]) == 1
    again, second = capsys.readouterr().out, asked(lab)
    assert f"Fault {FAILS}: {does[FAILS - 1]}; " in again
    assert "its history is not linearizable" in again
    for client in first:
        common = min(len(first[client]), len(second[client]))
        assert common > 5
        assert first[client][:common] == second[client][:common]
