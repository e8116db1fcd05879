"""The lab `test`: made once, used by all tests here, destroyed in the end."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from config import lab as config
from lab import footprint
from lab.cluster import Cluster
from lab.commands import SETTINGS, STACK, Started
from lab.process_watch import ProcessWatch
from lab.workload import Workload

# From the empty stack to the empty stack; what breaks things on purpose comes after what uses them.
_ORDER = (
    "test_bad_input",
    "test_interrupted_up",
    "test_idempotence",
    "test_cluster",
    "test_networking",
    "test_access",
    "test_drain",
    "test_certificates",
    "test_security",
    "test_hardening",
    "test_leaks",
    "test_changes",
    "test_reboot",
    "test_destroy",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    mine = [item for item in items if Path(__file__).parent in item.path.parents]
    places = [place for place, item in enumerate(items) if item in mine]
    mine.sort(key=lambda item: _ORDER.index(item.path.stem))
    for place, item in zip(places, mine, strict=True):
        items[place] = item


@pytest.fixture(scope="session")
def show(request: pytest.FixtureRequest) -> Callable[[str], None]:
    """Prints a line at once, although pytest captures what tests print."""
    capture = request.config.pluginmanager.getplugin("capturemanager")

    def print_at_once(line: str) -> None:
        with capture.global_and_fixture_disabled():
            print(line, end="", flush=True)

    return print_at_once


@pytest.fixture(scope="session")
def settings() -> config.Lab:
    """What the lab is to be."""
    document = yaml.safe_load(SETTINGS.read_text())["config"]["hardway:lab"]
    return config.parse(STACK, document)


@pytest.fixture(scope="session")
def orphans_before() -> set[str]:
    """The volumes without a container that are not of our making."""
    return footprint.orphans()


@pytest.fixture(scope="session")
def empty_stack(show: Callable[[str], None], settings: config.Lab, orphans_before: set[str]) -> Iterator[None]:
    """No lab at the beginning, whatever an earlier run has left, and none at the end, whatever the tests did."""
    assert os.geteuid() == 0, "these tests make privileged containers: run them as root"
    before = SETTINGS.read_bytes()
    _destroy(show)
    yield
    SETTINGS.write_bytes(before)
    _destroy(show)
    SETTINGS.write_bytes(before)


@pytest.fixture(scope="session")
def cluster(empty_stack: None, show: Callable[[str], None], settings: config.Lab) -> Cluster:
    """The lab, up."""
    with ProcessWatch() as watch:
        up = Started("up", show=show).wait()
    assert up.code == 0, "`up` failed; its output stands above"
    return Cluster(settings=settings, up=up, command_lines=frozenset(watch.seen))


@pytest.fixture(scope="session")
def workload(cluster: Cluster) -> Workload:
    """Pods on it, ready."""
    made = Workload(cluster=cluster)
    made.start()
    return made


def _destroy(show: Callable[[str], None]) -> None:
    done = Started("destroy", show=show).wait()
    assert done.code == 0, "`destroy` failed; its output stands above"
