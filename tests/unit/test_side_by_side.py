"""Which process has which tests."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

from side_by_side import SideBySide, group

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
