"""Which process has which tests."""

import fcntl
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event
from types import SimpleNamespace
from typing import Any

from lab.polling import eventually
from side_by_side import SideBySide, beside_others, group

_CHECKOUT = Path(__file__).parents[2]


class Process:
    """What the scheduler asks of a process of xdist; keeps what it is told to run."""

    gateway = SimpleNamespace(id="gw")
    shutting_down = False

    def __init__(self) -> None:
        self.given: list[int] = []

    def send_runtest_some(self, tests: list[int]) -> None:
        self.given += tests

    def shutdown(self) -> None:
        self.shutting_down = True


class Config:
    """What the scheduler reads of `pytest --numprocesses 3 --no-loadscope-reorder`."""

    option = SimpleNamespace(loadscopereorder=False)

    def getvalue(self, _: str) -> list[str]:
        return ["3*popen"]


def scheduled(tests: list[str]) -> tuple[Any, Process, Process, Process]:
    """A scheduler that has given its three processes their first group."""
    scheduler: Any = SideBySide(Config())
    processes = Process(), Process(), Process()
    for process in processes:
        scheduler.add_node(process)
        scheduler.add_node_collection(process, tests)
    scheduler.schedule()
    return scheduler, *processes


def test_every_lab_is_of_one_process() -> None:
    labs = [each.name for each in (_CHECKOUT / "tests" / "labs").iterdir() if (each / "conftest.py").is_file()]
    assert {group(f"tests/labs/{lab}/test_a.py::test_a") for lab in labs} == {"first", "second"}
    assert {group(f"tests/{each}/test_a.py::test_a") for each in ("engine", "toolchain")} == {"third"}
    for each in ("unit", "scripts", "live"):
        assert group(f"tests/{each}/test_a.py::test_a") == f"tests/{each}/test_a.py"


def test_files_with_tests_of_every_shape_are_one_group() -> None:
    """By the fixtures and the list of tests/unit/conftest.py."""
    groups = {
        path.name: group(f"tests/unit/{path.name}::test_a") for path in (_CHECKOUT / "tests/unit").glob("test_*.py")
    }
    of_shapes = {name for name, found in groups.items() if found == "shapes"}
    assert {"test_secrets.py", "test_hardening.py", "test_kubeadm.py", "test_drift_recorded.py"} <= of_shapes
    assert not {"test_gcp.py", "test_libvirt.py", "test_config_report.py"} & of_shapes


def test_the_smallest_file_waits_for_the_last_test_of_a_lab() -> None:
    labs = [f"tests/labs/dev/test_lab.py::test_{number}" for number in range(3)]
    others = [f"tests/labs/ha/test_lab.py::test_{number}" for number in range(4)]
    engine = [f"tests/engine/test_engine.py::test_{number}" for number in range(3)]
    large = [f"tests/unit/test_large.py::test_{number}" for number in range(9)]
    other = [f"tests/unit/test_other.py::test_{number}" for number in range(8)]
    small = [f"tests/unit/test_small.py::test_{number}" for number in range(3)]
    tests = [*labs, *others, *engine, *large, *other, *small]
    scheduler, first, second, third = scheduled(tests)

    scheduler.mark_test_complete(first, tests.index(labs[0]))
    waiting = [tests[index] for index in first.given]
    for done in (*engine, *other):
        scheduler.mark_test_complete(third, tests.index(done))

    assert waiting == [*labs, *small]
    assert [tests[index] for index in second.given] == others
    assert {tests[index] for index in third.given} >= {*other, *large}


def test_a_test_that_is_alone_waits_for_those_that_run_and_no_other_begins(tmp_path: Path) -> None:
    """A second test that runs meanwhile; one that never comes to run, since there is always another."""
    ran: list[str] = []
    end = {"other": Event(), "alone": Event(), "next": Event()}

    def run(name: str) -> None:
        with beside_others(tmp_path, alone=name == "alone"):
            ran.append(f"{name} begins")
            assert end[name].wait(60)
            ran.append(f"{name} ends")

    def alone_waits() -> bool:
        with (tmp_path / "beginning").open("a") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
        return False

    with ThreadPoolExecutor() as threads:
        tests = [threads.submit(run, "other")]
        eventually("one that runs", lambda: ran, seconds=60)
        tests.append(threads.submit(run, "alone"))
        eventually("one that waits to be alone", alone_waits, seconds=60)
        end["next"].set()
        tests.append(threads.submit(run, "next"))
        end["other"].set()
        eventually("the one that is alone", lambda: "alone begins" in ran, seconds=60)
        end["alone"].set()
        for test in tests:
            test.result(60)
    assert ran == ["other begins", "other ends", "alone begins", "alone ends", "next begins", "next ends"]


def test_others_run_at_the_same_time(tmp_path: Path) -> None:
    with beside_others(tmp_path, alone=False), beside_others(tmp_path, alone=False):
        pass
