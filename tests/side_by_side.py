"""What runs beside what: three processes, one more than the smallest machine for these tests has processors, since the
tests of a lab wait for a good part of their time.

Two have the labs, one after the other, so that both end at about the same time; the third has the tests of the engine
and of the tool chain, likewise one after the other: what all these make has fixed names. The unit tests, and those of
scripts and of what is done with a running lab, a file at a time, are for whichever has nothing to do. The files with
tests of every shape of lab are one group: it takes half a second to run the program for a shape, and each process does
so for itself.

A test with the mark `alone` compares seconds with a limit for a machine without other load: it waits for the tests that
run in the other processes, and these begin none until it has ended.

Its own scheduler, since marks for groups (`--dist loadgroup`) have no effect with pytest 9.2 and pytest-xdist 3.8.
"""

import fcntl
import re
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path, PurePath

import pytest
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling
from xdist.workermanage import WorkerController

_FIRST = ("machines", "droplets", "dev")
"""The labs of the first process."""
_LONG = ("first", "second", "third")
"""The groups of which one process has all."""
_CHECKOUT = Path(__file__).parents[1]
# A fixture or the list of tests/unit/conftest.py.
_EVERY_SHAPE = re.compile(r"\b(?:lab|hard_way|kubeadm_lab|balanced): Run\b|\bprogram\((?:lab|stack|name)\)")


class SideBySide(LoadScopeScheduling):  # type: ignore[misc]  # without types
    """Groups of tests, each for one process."""

    def _split_scope(self, nodeid: str) -> str:
        return group(nodeid)

    def _assign_work_unit(self, node: WorkerController) -> None:
        """Give a process its next group.

        xdist gives it while two tests of the group before are left. The last test of a lab takes minutes: the smallest
        file waits until this test is done, and the other process has the larger files.
        """
        work = self.assigned_work[node]
        if any(not all(work[scope].values()) for scope in _LONG if scope in work):
            smallest = min(self.workqueue, key=lambda scope: len(self.workqueue[scope]))
            self.workqueue.move_to_end(smallest, last=False)
        super()._assign_work_unit(node)


def group(nodeid: str) -> str:
    """The group of a test: `tests/labs/dev/test_cluster.py::test_x` is one of the first process."""
    file = PurePath(nodeid.partition("::")[0])
    if file.parts[1] in ("unit", "scripts", "live"):
        return "shapes" if _has_every_shape(file) else str(file)
    if file.parts[1] != "labs":
        return "third"
    return "first" if file.parts[2] in _FIRST else "second"


@cache
def _has_every_shape(file: PurePath) -> bool:
    path = _CHECKOUT / file
    return path.is_file() and _EVERY_SHAPE.search(path.read_text()) is not None


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> SideBySide:
    """For `pytest --numprocesses 3`; with fewer, one after the other has several of the long groups."""
    return SideBySide(config, log)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """In each process, around a test and the fixtures that it sets up and tears down."""
    with beside_others(item.config.cache.mkdir("alone"), alone=item.get_closest_marker("alone") is not None):
        return (yield)


@contextmanager
def beside_others(directory: Path, *, alone: bool) -> Iterator[None]:
    """For as long as the `with` block runs, no other process is in one that is `alone`; in none, if this one is.

    Two locks of the kernel, which end with their process: who waits to be alone holds the first, so that nobody begins.

    Args:
        directory: where the locks are; the same one for all processes.
        alone: whether to be the only one.
    """
    kind = fcntl.LOCK_EX if alone else fcntl.LOCK_SH
    with (directory / "running").open("a") as running:
        with (directory / "beginning").open("a") as beginning:
            fcntl.flock(beginning, kind)
            fcntl.flock(running, kind)
            # Closed here, which frees it: as soon as this one runs, another may wait to be alone.
        yield
